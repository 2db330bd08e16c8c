"""Turns in the model's chat format: `<image>` markers become the chat template's image parts."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypedDict

from prometheus_client import Counter

from vision_sr1.prompting.prompt_template import IMAGE_MARKER

ESCAPED = Counter("vision_sr1_control_tokens_escaped", "Control tokens in prompts that were escaped.")


_REPLY = "a reply"


class ImageMarkerError(ValueError):
    """The text's image markers and the images given do not match."""


class Turn(TypedDict):
    """One message in the form of chat templates."""

    role: str
    content: list[dict[str, str]]


def content_parts(text: str, num_images: int) -> list[dict[str, str]]:
    """Splits a turn at its `<image>` markers.

    Text without any marker gets its images in front, as most data sets without markers mean it.

    Raises:
        ImageMarkerError: the text has markers, but not one per image.
    """
    text_parts = text.split(IMAGE_MARKER)
    markers = len(text_parts) - 1
    if markers == 0:
        text_parts = [""] * num_images + text_parts
    elif markers != num_images:
        raise ImageMarkerError(f"{markers} {IMAGE_MARKER} markers for {num_images} images in {text[:80]!r}")
    parts: list[dict[str, str]] = []
    for index, text_part in enumerate(text_parts):
        if index:
            parts.append({"type": "image"})
        if text_part:
            parts.append({"type": "text", "text": text_part})
    return parts


class Chat:
    """A model's own chat template as a run uses it.

    Args:
        system_prompt: a turn before every prompt or conversation that has no such turn; empty: none.
        variables: of the template, such as `enable_thinking`; one that it does not know changes nothing.
        template: where the tokenizer has none.

    Attributes:
        control_tokens: what the tokenizer would read as a command.
        has_template: without one nothing can be rendered.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        system_prompt: str = "",
        variables: Mapping[str, Any] | None = None,
        template: str | None = None,
    ) -> None:
        self.control_tokens = control_tokens(tokenizer)
        self.has_template = bool(tokenizer.chat_template or template)
        self._template = None if tokenizer.chat_template else template
        self._tokenizer = tokenizer
        self._system: list[Turn] = []
        if system_prompt:
            self._system = [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}]
        self._variables = dict(variables or {})

    def user_turn(self, text: str, num_images: int) -> str:
        """The prompt of a single user's turn, ready for the assistant's reply.

        What the text has of control tokens is text to the model.

        Raises:
            ImageMarkerError: the text's markers and the images do not match.
        """
        parts = content_parts(harmless(text, self.control_tokens), num_images)
        return self.render([{"role": "user", "content": parts}], generate=True)

    def render(self, turns: list[Turn], *, generate: bool) -> str:
        """A conversation; ready for the assistant's reply where one is to be generated.

        Raises:
            jinja2.TemplateError: the template refuses it.
        """
        if not turns or turns[0]["role"] != "system":
            turns = self._system + turns
        rendered: str = self._tokenizer.apply_chat_template(
            turns, chat_template=self._template, tokenize=False, add_generation_prompt=generate, **self._variables
        )
        return rendered

    def token_ids(self, text: str) -> list[int]:
        """Of rendered text, which has all special tokens in it."""
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    @cached_property
    def end_of_turn(self) -> str:
        """What the template writes behind a reply."""
        question: Turn = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        reply: Turn = {"role": "assistant", "content": [{"type": "text", "text": _REPLY}]}
        after = self.render([question, reply], generate=False).rpartition(_REPLY)[2]
        return after.strip() or str(self._tokenizer.eos_token)

    @property
    def stop_token_ids(self) -> list[int]:
        """What ends a reply, whatever the tokenizer and the generation's settings name as the end of a text."""
        if self.end_of_turn in self.control_tokens:
            return [self._tokenizer.convert_tokens_to_ids(self.end_of_turn)]
        return []

    def end_ids(self, named: int | list[int] | None) -> list[int]:
        """All that ends a reply: what a model's generation settings name as `eos_token_id`, and `stop_token_ids`."""
        ends = named if isinstance(named, list) else [named] if named is not None else []
        return [*ends, *(stop for stop in self.stop_token_ids if stop not in ends)]


def conversation_turns(messages: list[dict[str, str]], num_images: int, controls: frozenset[str]) -> list[Turn]:
    """A conversation as chat templates take it; images are where their markers are, without any at the first question.

    Args:
        controls: tokens that are made plain text.
    """
    turns: list[Turn] = []
    unplaced = 0 if any(IMAGE_MARKER in message["content"] for message in messages) else num_images
    for message in messages:
        here = message["content"].count(IMAGE_MARKER)
        if message["role"] == "user":
            here, unplaced = here + unplaced, 0
        turns.append({"role": message["role"], "content": content_parts(harmless(message["content"], controls), here)})
    return turns


def check_markers(messages: list[dict[str, str]], num_images: int) -> None:
    """Refuses a conversation whose images do not each have a place in a turn that the assistant replies to.

    Args:
        messages: with a reply at least.

    Raises:
        ImageMarkerError: there are more or fewer markers than images, or one is in a reply or behind the last.
    """
    markers = sum(message["content"].count(IMAGE_MARKER) for message in messages)
    if markers not in (0, num_images):
        raise ImageMarkerError(f"{markers} {IMAGE_MARKER} markers for {num_images} images")
    last_reply = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
    before = conversation_turns(messages, num_images, frozenset())[:last_reply]
    seen = sum(part["type"] == "image" for turn in before if turn["role"] != "assistant" for part in turn["content"])
    if seen != num_images:
        raise ImageMarkerError(f"{seen} of {num_images} images are in a turn that is replied to")


def control_tokens(tokenizer: Any) -> frozenset[str]:
    """What a tokenizer would read as a command: its special tokens, and all that are written <|so|>.

    The image marker, which is a token of some models, is none of them: texts are split at it (`content_parts`).
    """
    written = {token for token in tokenizer.get_added_vocab() if token.startswith("<|") and token.endswith("|>")}
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return frozenset((written | special | set(tokenizer.all_special_tokens)) - {IMAGE_MARKER})


def harmless(text: str, controls: frozenset[str]) -> str:
    """The text with a space inside each control token, which makes it plain text."""
    if "<" not in text and not any(token in text for token in controls):
        return text
    for token in sorted(controls, key=len, reverse=True):
        if token in text:
            ESCAPED.inc(text.count(token))
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
