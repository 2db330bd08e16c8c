"""What differs between families of vision-language models. Nothing outside this folder knows one by its name."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int, Int64
from PIL import Image
from torch import Tensor

from vision_sr1.config import ModelConfig


@dataclass(frozen=True)
class ImageInput:
    """One image as a model takes it.

    Attributes:
        tensors: by their names in the model's `get_image_features`; those of several images are put behind one another.
        token_ids: what stands for it in a prompt, in place of the chat template's token.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    token_ids: list[int] = field(repr=False)


def joined(images: Iterable[ImageInput]) -> dict[str, Tensor]:
    """Tensors of several images, one behind the other; none without images."""
    by_name: dict[str, list[Tensor]] = {}
    for image in images:
        for name, tensor in image.tensors.items():
            by_name.setdefault(name, []).append(tensor)
    return {name: torch.cat(tensors) for name, tensors in by_name.items()}


@dataclass(frozen=True)
class VisionSizes:
    """Of a vision tower.

    Attributes:
        full_attention_layers: in which all patches of an image attend to each other; in others, those of a window.
        patches_per_token: of which the projector makes one.
        projectors: one for the last layer, and one for each earlier layer whose features the language model takes.
        tokens_per_tile: where images are cut into tiles, each an image to the tower.
    """

    layers: int
    full_attention_layers: int
    hidden: int
    intermediate: int
    patches_per_token: int
    projectors: int = 1
    tokens_per_tile: int | None = None


@dataclass(frozen=True)
class LanguageSizes:
    """What a language model's attention computes and keeps.

    Attributes:
        attention_layers: in which tokens attend to those before them.
        attention_width: heads times their size.
        kv_width: numbers that a cache keeps of a token in each of them: keys and values.
        window: tokens that one attends to in layers with a sliding window; None without such layers.
        state: numbers that linear attention keeps of a sequence, in all layers.
    """

    attention_layers: int
    attention_width: int
    kv_width: int
    window: int | None = None
    state: int = 0


@dataclass(frozen=True)
class TinySizes:
    """Of a model that is made from a configuration."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    vision_hidden_size: int
    vision_layers: int
    max_model_len: int
    tie_word_embeddings: bool

    def text(self, tokenizer: Any) -> dict[str, Any]:
        """What configurations of language models have in common."""
        return {
            "vocab_size": len(tokenizer),
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": self.max_model_len,
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": self.tie_word_embeddings,
        }


class Family(ABC):
    """A family: what its models, processors and tokenizers name otherwise, or do otherwise, than others.

    Attributes:
        model_type: in `config.json`.
        title: as people write it.
        image_token: at its places features of an image are put.
        template_token: what the chat template writes for an image, for which `ImageInput.token_ids` are put.
        reserved_tokens: they stand for images and videos or mark where they are; a policy must never sample them.
        vision_modules: the vision tower and what projects its features, in the model's `model`.
        projectors: parts of names of those that compute once a token, and not once a patch.
        windows: where in that `model` stands a tower that computes images of different sizes in one row.
        linear_attention: name of a layer's linear attention, in models that have such.
        sees_whole_images: whether an image's tokens attend to those behind them, too.
        has_min_pixels: whether `model.min_pixels` says anything to its processor.
        attention_mask: that keeps the model from making one.
        cpu_actor_dtypes: that vLLM computes in on CPUs.
    """

    model_type: ClassVar[str]
    title: ClassVar[str]
    image_token: ClassVar[str]
    template_token: ClassVar[str]
    reserved_tokens: ClassVar[tuple[str, ...]]
    vision_modules: ClassVar[tuple[str, ...]]
    projectors: ClassVar[tuple[str, ...]]
    windows: ClassVar[str | None] = None
    linear_attention: ClassVar[str | None] = None
    sees_whole_images: ClassVar[bool] = False
    has_min_pixels: ClassVar[bool] = True
    attention_mask: ClassVar[Mapping[str, None] | None] = None
    cpu_actor_dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")

    # A tiny model's tokenizer: the end of a text first; the end of a turn; the chat template's text for an image; what
    # the processor asks for by a name; further tokens of plain text.
    special_tokens: ClassVar[tuple[str, ...]]
    end_of_turn: ClassVar[str] = "<|im_end|>"
    image_markup: ClassVar[str]
    tiny_embedding_std: ClassVar[float] = 0.3
    tiny_pixels: ClassVar[int] = 56 * 56  # of its images: a few tokens
    named_tokens: ClassVar[Mapping[str, str]] = {}
    plain_tokens: ClassVar[tuple[str, ...]] = ()

    # Processor and tokenizer

    @abstractmethod
    def processor_settings(self, model: ModelConfig) -> dict[str, Any]:
        """How large images are to the model, as arguments of its image processor and vLLM's `mm_processor_kwargs`."""

    @abstractmethod
    def image_tokens(self, processor: Any, model: ModelConfig, *, height: int, width: int) -> int:
        """Tokens that stand in a prompt for an image of so many pixels.

        Args:
            processor: the model's own, of images and texts.
        """

    @abstractmethod
    def images(self, processor: Any, pictures: list[Image.Image], settings: dict[str, Any]) -> list[ImageInput]:
        """Images prepared for the model, exactly as vLLM does it.

        Args:
            settings: from `processor_settings`.
        """

    @abstractmethod
    def smallest_image(self, processor: Any) -> ImageInput:
        """An image that takes the model least to compute."""

    def parts(self, config: Any, processor: Any) -> list[tuple[str, Any, str, Any]]:
        """What has to agree: its name, the model's value, who else has one, and theirs.

        Args:
            processor: the model's own, of images and texts.
        """
        image_token_id = processor.tokenizer.convert_tokens_to_ids(self.image_token)
        return [("image token", config.image_token_id, "the tokenizer", image_token_id)]

    def reserved_token_ids(self, tokenizer: Any) -> list[int]:
        """Ids of `reserved_tokens`, those that the tokenizer has."""
        vocabulary = tokenizer.get_vocab()
        return sorted(vocabulary[name] for name in self.reserved_tokens if name in vocabulary)

    # The model

    def wire_name(self, name: str) -> str:
        """What vLLM calls a parameter of transformers' model."""
        return name

    def joined_tokens(self, tokenizer: Any, token_ids: list[int]) -> list[int]:  # noqa: ARG002
        """A prompt's tokens, where those of images have been put between those of the text."""
        return token_ids

    def positions(
        self,
        model: Any,  # noqa: ARG002
        token_ids: Int64[Tensor, " length"],
        is_image: Bool[Tensor, " length"],  # noqa: ARG002
        images: Sequence[ImageInput],  # noqa: ARG002
    ) -> Int[Tensor, "axes length"]:
        """Rotary positions of one sequence. What follows continues from the highest."""
        return torch.arange(len(token_ids)).unsqueeze(0)

    def features(self, model: Any, tensors: dict[str, Tensor], shown: list[int]) -> Any:
        """What transformers' forward pass takes as `mm_encoder_outputs["image"]`.

        Args:
            tensors: of distinct images, one behind the other.
            shown: which of them is put at each place where an image stands.
        """
        found = model.model.get_image_features(**tensors, return_dict=True)
        found.pooler_output = tuple(found.pooler_output[index] for index in shown)
        return found

    def is_vision(self, name: str) -> bool:
        """Whether a parameter of this name belongs to the vision tower or its projector."""
        return name.startswith(tuple(f"model.{module}." for module in self.vision_modules))

    def language_sizes(self, config: Any) -> LanguageSizes:
        """From the model's configuration; what sliding layers save in long prompts is left out."""
        text = config.get_text_config()
        has_window = "sliding_attention" in (getattr(text, "layer_types", None) or ())
        head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return LanguageSizes(
            attention_layers=text.num_hidden_layers,
            attention_width=text.num_attention_heads * head_size,
            kv_width=2 * text.num_key_value_heads * head_size,
            window=text.sliding_window if has_window else None,
        )

    @abstractmethod
    def vision_sizes(self, config: Any) -> VisionSizes:
        """From the model's configuration."""

    # A tiny one

    @property
    def chat_template(self) -> str:
        """Of a tiny model, in the form of the family's real ones."""
        return (
            "{% for message in messages %}<|im_start|>{{ message.role }}\n"
            "{% if message.content is string %}{{ message.content }}{% else %}"
            "{% for part in message.content %}"
            f"{{% if part.type == 'image' %}}{self.image_markup}"
            "{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
            "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )

    @abstractmethod
    def tiny_config(self, sizes: TinySizes, tokenizer: Any) -> Any:
        """The configuration of a model that a laptop trains."""

    @abstractmethod
    def tiny_processor(self, tokenizer: Any, pixels: int) -> Any:
        """A processor for images of so many pixels."""
