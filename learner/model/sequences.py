"""Sequences to train on: token ids with their images, and which tokens are the response."""

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import jinja2
import numpy as np
from jaxtyping import Bool, Int64
from PIL import Image
from transformers import AutoProcessor

from learner.model.masking import Mask
from vision_sr1.config import ModelConfig
from vision_sr1.families import family_of_model
from vision_sr1.families.family import ImageInput
from vision_sr1.prompting.chat import Turn, conversation_turns
from vision_sr1.prompting.images import plain_image
from vision_sr1.prompting.prompt_template import IMAGE_MARKER


class SequenceError(ValueError):
    """A sequence cannot be trained on; the message says which and why."""


@dataclass(frozen=True)
class Images:
    """Prepared images of one sequence.

    Attributes:
        digests: of the encoded images: equal ones are computed once.
    """

    inputs: tuple[ImageInput, ...]
    digests: tuple[str, ...]

    def __iter__(self) -> Iterator[tuple[str, ImageInput]]:
        """Each image with its digest."""
        return zip(self.digests, self.inputs, strict=True)


@dataclass(frozen=True)
class Sequence:
    """One sequence; `selected` are the tokens whose log-probabilities matter (response tokens).

    Attributes:
        is_image: true at image placeholders, which only the prompt may have.
        selected: positions in `token_ids`, ascending, none of them 0.
        images: None for text only.
    """

    token_ids: Int64[np.ndarray, " length"]
    is_image: Bool[np.ndarray, " length"]
    selected: Int64[np.ndarray, " selected"]
    images: Images | None = field(repr=False)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def prompt_length(self) -> int:
        """Tokens before the first selected one."""
        return int(self.selected[0]) if len(self.selected) else len(self)

    def prompt(self) -> "Sequence":
        """The tokens before the first selected one, with the images."""
        end = self.prompt_length
        return Sequence(self.token_ids[:end], self.is_image[:end], self.selected[:0], self.images)


class SequenceBuilder:
    """Makes sequences from token ids or conversations, with the model's own processor."""

    def __init__(self, config: ModelConfig) -> None:
        self.processor = AutoProcessor.from_pretrained(config.path)
        self.tokenizer = self.processor.tokenizer
        self.family = family_of_model(config.path)
        self._config = config
        self._settings = self.family.processor_settings(config)
        self._image_token: int = self.tokenizer.convert_tokens_to_ids(self.family.image_token)
        self._template_token: int = self.tokenizer.convert_tokens_to_ids(self.family.template_token)
        self._chat = config.chat(self.tokenizer)

    def images(self, encoded: list[bytes], mask: Mask | None = None) -> Images | None:
        """Decodes and preprocesses images exactly as the actors' processor does; None for an empty list.

        Args:
            mask: put on each before it is preprocessed.
        """
        if not encoded:
            return None
        pictures = [plain_image(data) for data in encoded]
        digests = tuple(hashlib.sha256(data).hexdigest() for data in encoded)
        if mask is not None:
            pictures = [
                mask(picture, digest, self._tokens_of(picture))
                for picture, digest in zip(pictures, digests, strict=True)
            ]
        return Images(tuple(self.family.images(self.processor, pictures, self._settings)), digests)

    def from_tokens(self, prompt_ids: list[int], response_ids: list[int], images: Images | None) -> Sequence:
        """A rollout: every response token is selected. Image positions are marked from the prompt alone.

        Raises:
            SequenceError: a vision token in the response, or placeholders that do not match the images.
        """
        prompt = np.asarray(prompt_ids, dtype=np.int64)
        response = np.asarray(response_ids, dtype=np.int64)
        if (response == self._image_token).any():
            raise SequenceError("the response contains an image placeholder")
        token_ids = np.concatenate([prompt, response])
        is_image = np.concatenate([prompt == self._image_token, np.zeros(len(response), dtype=bool)])
        expected = sum(image.token_ids.count(self._image_token) for image in images.inputs) if images else 0
        if int(is_image.sum()) != expected:
            raise SequenceError(f"{int(is_image.sum())} image placeholders for images that fill {expected}")
        return Sequence(token_ids, is_image, np.arange(len(prompt), len(token_ids)), images)

    def from_messages(self, messages: list[dict[str, str]], encoded_images: list[bytes]) -> Sequence:
        """A conversation for supervised training: the assistant's replies are selected.

        Raises:
            SequenceError: no assistant turn, nothing before the first one, turns that the chat template refuses or
                rewrites, or more tokens than fit.
        """
        images = self.images(encoded_images)
        turns = conversation_turns(messages, len(encoded_images), self._chat.control_tokens)
        ids: list[int] = []
        selected: list[int] = []
        unplaced = deque(images.inputs if images else ())
        rendered = ""
        for index, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            if index == 0:
                raise SequenceError("the conversation begins with an assistant turn: nothing is asked before it")
            prefix = self._render(turns[:index], generate=True)
            if not prefix.startswith(rendered):  # rewritten: what was replied before is only read
                ids, selected, unplaced, rendered = [], [], deque(images.inputs if images else ()), ""
            asked = self._expand(self._chat.token_ids(prefix[len(rendered) :]), unplaced)
            ids += self.family.joined_tokens(self.tokenizer, asked)
            reply = self._reply(turns[: index + 1], prefix)
            reply_ids = self._chat.token_ids(reply)
            selected += range(len(ids), len(ids) + len(reply_ids))
            ids += reply_ids
            rendered = prefix + reply
        if not selected:
            raise SequenceError("the conversation has no assistant turn to learn from")
        if unplaced:
            raise SequenceError(
                f"{len(unplaced)} of {len(encoded_images)} images have no marker in a turn that is answered"
            )
        if len(ids) > self._config.max_model_len:
            raise SequenceError(f"{len(ids)} tokens are more than model.max_model_len ({self._config.max_model_len})")
        token_ids = np.asarray(ids, dtype=np.int64)
        return Sequence(token_ids, token_ids == self._image_token, np.asarray(selected), images)

    def filler(self) -> Sequence:
        """The smallest sequence with an image and nothing selected.

        Every forward pass must reach the vision tower on every rank, or ZeRO's collectives no longer match.
        """
        image = self.family.smallest_image(self.processor)
        token_ids = np.array(image.token_ids)
        none = np.array([], dtype=np.int64)
        return Sequence(token_ids, token_ids == self._image_token, none, Images((image,), ("filler",)))

    def _tokens_of(self, picture: Image.Image) -> int:
        return self.family.image_tokens(self.processor, self._config, height=picture.height, width=picture.width)

    def _reply(self, turns: list[Turn], prefix: str) -> str:
        """The last turn, as the model is to write it behind `prefix`, with the end of the turn."""
        written, end, _ = self._render(turns, generate=False).removeprefix(prefix).rpartition(self._chat.end_of_turn)
        text = message_text(turns[-1])
        return written + end if written.lstrip() == text.strip() else text + self._chat.end_of_turn

    def _render(self, turns: list[Turn], *, generate: bool) -> str:
        try:
            text = self._chat.render(turns, generate=generate)
        except jinja2.TemplateError as error:
            raise SequenceError(f"the model's chat template refuses the conversation: {error}") from error
        return text

    def _expand(self, ids: list[int], unplaced: deque[ImageInput]) -> list[int]:
        """Puts the tokens of images in place of the chat template's; takes the images off `unplaced`, in order."""
        expanded: list[int] = []
        for token in ids:
            if token == self._template_token and not unplaced:
                raise SequenceError(f"more {IMAGE_MARKER} markers than images")
            expanded += unplaced.popleft().token_ids if token == self._template_token else [token]
        return expanded


def message_text(turn: Turn) -> str:
    """The text of a turn's parts."""
    return "".join(part["text"] for part in turn["content"] if part["type"] == "text")
