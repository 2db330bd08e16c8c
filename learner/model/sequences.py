"""Sequences to train on: token ids with their images, and which tokens are the response."""

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import jinja2
import numpy as np
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor

from vision_sr1.config import ModelConfig
from vision_sr1.prompting.chat import Turn, control_tokens, conversation_turns
from vision_sr1.prompting.images import plain_image
from vision_sr1.prompting.prompt_template import IMAGE_MARKER


class SequenceError(ValueError):
    """A sequence cannot be trained on; the message says which and why."""


@dataclass(frozen=True)
class Images:
    """Preprocessed images of one sequence.

    Attributes:
        grid_thw: patches of each image: frames, rows, columns.
        digests: of the encoded images: equal ones are computed once.
    """

    pixel_values: Float[Tensor, "patches features"]
    grid_thw: Int64[Tensor, "images 3"]
    digests: tuple[str, ...]

    def __iter__(self) -> Iterator[tuple[str, Float[Tensor, "patches features"], Int64[Tensor, " 3"]]]:
        """Each image: digest, patches and grid."""
        patches = self.pixel_values.split(self.grid_thw.prod(dim=1).tolist())
        return zip(self.digests, patches, self.grid_thw, strict=True)


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
        self._pixels = {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
        self._max_len = config.max_model_len
        self._image_token: int = self.tokenizer.convert_tokens_to_ids(self.processor.image_token)
        self._control_tokens = control_tokens(self.tokenizer)
        self._end_of_turn: str = self.tokenizer.eos_token

    def images(self, encoded: list[bytes]) -> Images | None:
        """Decodes and preprocesses images exactly as the actors' processor does; None for an empty list."""
        if not encoded:
            return None
        pictures = [plain_image(data) for data in encoded]
        features = self.processor.image_processor(images=pictures, size=self._pixels, return_tensors="pt")
        digests = tuple(hashlib.sha256(data).hexdigest() for data in encoded)
        return Images(features["pixel_values"], features["image_grid_thw"], digests)

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
        expected = sum(self._sizes(images))
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
        turns = conversation_turns(messages, len(encoded_images), self._control_tokens)
        ids: list[int] = []
        selected: list[int] = []
        sizes = deque(self._sizes(images))
        rendered = ""
        for index, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            if index == 0:
                raise SequenceError("the conversation begins with an assistant turn: nothing is asked before it")
            prefix = self._render(turns[:index], generate=True)
            if not prefix.startswith(rendered):
                raise SequenceError("the chat template does not render a conversation turn by turn")
            ids += self._expand(self.tokenizer(prefix[len(rendered) :]).input_ids, sizes)
            reply = self.tokenizer(message_text(turn) + self._end_of_turn).input_ids
            selected += range(len(ids), len(ids) + len(reply))
            ids += reply
            rendered = prefix + message_text(turn) + self._end_of_turn
        if not selected:
            raise SequenceError("the conversation has no assistant turn to learn from")
        if sizes:
            raise SequenceError(
                f"{len(sizes)} of {len(encoded_images)} images have no marker in a turn that is answered"
            )
        if len(ids) > self._max_len:
            raise SequenceError(f"{len(ids)} tokens are more than model.max_model_len ({self._max_len})")
        token_ids = np.asarray(ids, dtype=np.int64)
        return Sequence(token_ids, token_ids == self._image_token, np.asarray(selected), images)

    def filler(self) -> Sequence:
        """The smallest sequence with an image and nothing selected.

        Every forward pass must reach the vision tower on every rank, or ZeRO's collectives no longer match.
        """
        side = 2 * self.processor.image_processor.patch_size
        features = self.processor.image_processor(
            images=[Image.new("RGB", (side, side))],
            size={"shortest_edge": side * side, "longest_edge": side * side},
            return_tensors="pt",
        )
        images = Images(features["pixel_values"], features["image_grid_thw"], ("filler",))
        start, end = self.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
        token_ids = np.array([start, *[self._image_token] * sum(self._sizes(images)), end])
        return Sequence(token_ids, token_ids == self._image_token, np.array([], dtype=np.int64), images)

    def _render(self, turns: list[Turn], *, generate: bool) -> str:
        try:
            text: str = self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate)
        except jinja2.TemplateError as error:
            raise SequenceError(f"the model's chat template refuses the conversation: {error}") from error
        return text

    def _sizes(self, images: Images | None) -> list[int]:
        """Tokens of each image."""
        if images is None:
            return []
        sizes: list[int] = (images.grid_thw.prod(dim=1) // self.processor.image_processor.merge_size**2).tolist()
        return sizes

    def _expand(self, ids: list[int], sizes: deque[int]) -> list[int]:
        """Replaces each image placeholder by as many as its image has tokens; takes those off `sizes`, in order."""
        expanded: list[int] = []
        for token in ids:
            if token == self._image_token and not sizes:
                raise SequenceError(f"more {IMAGE_MARKER} markers than images")
            expanded += [token] * (sizes.popleft() if token == self._image_token else 1)
        return expanded


def message_text(turn: Turn) -> str:
    """The text of a turn's parts."""
    return "".join(part["text"] for part in turn["content"] if part["type"] == "text")
