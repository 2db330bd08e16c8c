"""`vision-sr1 ask`: one question to a model, and whether its description alone leads to the same answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mathruler.grader import grade_answer
from rich.console import Console
from transformers import AutoProcessor, set_seed

from vision_sr1.config import Config, ConfigError
from vision_sr1.families import family_of_model
from vision_sr1.models.check import check_model
from vision_sr1.models.load import load_model
from vision_sr1.prompting.chat import ImageMarkerError
from vision_sr1.prompting.images import UnusableImageError, plain_image
from vision_sr1.prompting.prompt_template import PromptTemplate
from vision_sr1.prompting.response import ParsedResponse, parse_response


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and what it made of its own description.

    Attributes:
        response: to the question and the images.
        again: to the question and the description; None where there is no description.
    """

    response: str
    again: str | None

    @property
    def parsed(self) -> ParsedResponse:
        """The response's parts."""
        return parse_response(self.response.encode())

    @property
    def answer_from_description(self) -> str | None:
        """What the description alone leads to."""
        return None if self.again is None else parse_response(self.again.encode()).answer

    @property
    def is_sufficient(self) -> bool:
        """Whether that is the answer that was given, by the grader `mathruler`."""
        given, again = self.parsed.answer, self.answer_from_description
        return given is not None and again is not None and bool(grade_answer(again, given))


class Model:
    """A model in this process, on a GPU where there is one; it answers greedily.

    Args:
        config: names the model, its templates, lengths and the pixels of images.

    Raises:
        ConfigError: there is no such model.
    """

    def __init__(self, config: Config) -> None:
        check_model(config.model)
        set_seed(config.run.seed)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._processor = AutoProcessor.from_pretrained(config.model.path)
        self._model = load_model(config.model.path, dtype="auto").to(device).eval()
        self._config = config
        self._family = family_of_model(config.model.path)
        self._chat = config.model.chat(self._processor.tokenizer)
        self._forbidden = self._family.reserved_token_ids(self._processor.tokenizer)
        self._ends = self._chat.end_ids(self._model.generation_config.eos_token_id)

    def ask(self, question: str, images: list[bytes]) -> Answer:
        """Asks with the images, and once more with the description in their place.

        Args:
            images: as encoded files.

        Raises:
            ConfigError: an image cannot be used, or the question's markers do not match them.
        """
        config = self._config
        response = self._write(PromptTemplate(config.data.prompt_template).answer(question, len(images)), images)
        description = parse_response(response.encode()).description
        if description is None:
            return Answer(response, None)
        turn = PromptTemplate(config.reward.requery.template).requery(description, question)
        return Answer(response, self._write(turn, []))

    def _write(self, turn: str, images: list[bytes]) -> str:
        try:
            text = self._chat.user_turn(turn, len(images))
            pictures = [plain_image(image) for image in images] or None
        except (ImageMarkerError, UnusableImageError) as error:
            raise ConfigError(str(error)) from error
        settings = self._family.processor_settings(self._config.model)
        inputs: Any = self._processor(
            text=[text],
            images=pictures,
            images_kwargs=settings,
            text_kwargs={"add_special_tokens": False},
            return_tensors="pt",
        ).to(self._model.device)
        with torch.no_grad():
            tokens = self._model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=self._config.sampling.max_tokens,
                eos_token_id=self._ends,
                bad_words_ids=[[token] for token in self._forbidden],
            )
        written: str = self._processor.tokenizer.decode(
            tokens[0, inputs.input_ids.shape[1] :], skip_special_tokens=True
        )
        return written


def print_answer(console: Console, answer: Answer) -> None:
    """Its parts, and whether the description suffices."""
    parsed = answer.parsed
    if parsed.format is None:
        console.print("[yellow]not in the format that was asked for; as it was written:[/]")
        console.print(answer.response, highlight=False, markup=False)
    thought = None
    if parsed.think_span is not None:
        thought = answer.response.encode()[slice(*parsed.think_span)].decode(errors="replace")
        thought = thought.removeprefix("<think>").removesuffix("</think>")
    for title, text in (("description", parsed.description), ("think", thought), ("answer", parsed.answer)):
        if text is not None:
            console.print(f"[bold]{title}[/]")
            console.print(text.strip(), highlight=False, markup=False)
    if answer.again is None:
        return
    color, verdict = ("green", "the same answer") if answer.is_sufficient else ("yellow", "another answer")
    said = answer.answer_from_description
    console.print(f"[bold]from the description alone[/]: [{color}]{verdict}[/]", end="")
    console.print(
        "" if answer.is_sufficient else f": {said if said is not None else 'none'}", highlight=False, markup=False
    )


def settings_of(model: str) -> Path | None:
    """The run's configuration that an exported model brings with it."""
    from vision_sr1.cli.export.policy import RUN_SETTINGS

    file = Path(model) / RUN_SETTINGS
    return file if file.is_file() else None
