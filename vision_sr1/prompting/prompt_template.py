"""From a question to the text of the user's turn: the answering prompt and the re-query prompt.

Templates are Jinja, so that a user can point `data.prompt_template` and `reward.requery.template` at their own.
"""

from pathlib import Path

import jinja2

from vision_sr1.errors import UserError

IMAGE_MARKER = "<image>"
TEMPLATES = Path(__file__).parent / "templates"


class TemplateError(UserError):
    """A prompt template is missing or broken."""


class PromptTemplate:
    """One Jinja template of a user's turn.

    Args:
        name: name of a built-in template (`answer`, `think_answer`, `requery`, `plain_answer`, `plain_requery`,
            `grade`) or path of a file.
    """

    def __init__(self, name: str) -> None:
        path = _path(name)
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # plain text
        try:
            self._template = environment.from_string(path.read_text(encoding="utf-8"))
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{path}, line {error.lineno}: {error.message}") from None

    def answer(self, question: str, images: int) -> str:
        """The first rollout's turn; image markers stay where the question has them.

        Args:
            images: how many the question has: one without any asks for no description.
        """
        return self._render(question=question, images=images)

    def requery(self, description: str, question: str) -> str:
        """The second rollout's turn: text only, so markers of images are removed from question and description."""
        return self._render(
            description=description.replace(IMAGE_MARKER, "").strip(),
            question=question.replace(IMAGE_MARKER, "").strip(),
        )

    def grading(self, question: str, reference: str, answer: str) -> str:
        """The turn that asks a judge what an answer is worth: text only."""
        return self._render(
            question=question.replace(IMAGE_MARKER, "").strip(), reference=reference.strip(), answer=answer.strip()
        )

    def _render(self, **values: str | int) -> str:
        try:
            return self._template.render(**values).strip()
        except jinja2.UndefinedError as error:
            raise TemplateError(f"prompt template: {error}; it may use {', '.join(values)}") from None


def template_text(name: str) -> str:
    """A template as it is written.

    Raises:
        TemplateError: there is none of this name.
    """
    return _path(name).read_text(encoding="utf-8").strip()


def _path(name: str) -> Path:
    for path in (TEMPLATES / f"{name}.jinja", Path(name)):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
    raise TemplateError(f"no prompt template {name!r}: neither a file nor one of {known}")
