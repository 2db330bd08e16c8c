"""What families have in common that cut an image into square tiles of one size, and show it whole in a last tile."""

from abc import abstractmethod
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vision_sr1.config import ModelConfig
from vision_sr1.families.family import Family, ImageInput, TinySizes, VisionSizes

TINY_PATCH = 7
TINY_MERGED = 2  # patches to a side of which a tiny model makes one token
TINY_TOKENS = 4  # of a tile
TINY_TILE = TINY_PATCH * TINY_MERGED * isqrt(TINY_TOKENS)


class Tiles(Family):
    """Images become tiles: `model.max_pixels` and the model's own processor bound their number. A tile has its size
    whatever the image's, so that `model.min_pixels` bounds nothing."""

    has_min_pixels = False

    # Processor and tokenizer

    def processor_settings(self, model: ModelConfig) -> dict[str, Any]:
        """See `Family`; reads the model's own image processor."""
        from transformers import AutoImageProcessor

        return self.tile_settings(AutoImageProcessor.from_pretrained(model.path), model.max_pixels)

    @abstractmethod
    def tile_settings(self, image_processor: Any, max_pixels: int) -> dict[str, Any]:
        """Arguments of the image processor for tiles of no more than so many pixels; one tile at least."""

    @abstractmethod
    def tile(self, image_processor: Any) -> int:
        """Pixels to a side of a tile."""

    @abstractmethod
    def tile_tokens(self, processor: Any) -> int:
        """Tokens that the processor writes for a tile."""

    @abstractmethod
    def tiles(
        self, processor: Any, picture: Image.Image, settings: dict[str, Any]
    ) -> Float[Tensor, "tiles channels height width"]:
        """An image's, as the model's processor makes them."""

    @abstractmethod
    def token_ids(self, processor: Any, settings: dict[str, Any], *, height: int, width: int) -> list[int]:
        """What stands in a prompt for an image of so many pixels."""

    def image_tokens(self, processor: Any, model: ModelConfig, *, height: int, width: int) -> int:
        """See `Family`."""
        settings = self.tile_settings(processor.image_processor, model.max_pixels)
        return len(self.token_ids(processor, settings, height=height, width=width))

    def images(self, processor: Any, pictures: list[Image.Image], settings: dict[str, Any]) -> list[ImageInput]:
        """See `Family`; each apart, for the processor would fill images up to the largest."""
        return [self._image(processor, picture, settings) for picture in pictures]

    def smallest_image(self, processor: Any) -> ImageInput:
        """See `Family`."""
        side = self.tile(processor.image_processor)
        settings = self.tile_settings(processor.image_processor, side * side)
        return self._image(processor, Image.new("RGB", (side, side)), settings)

    def parts(self, config: Any, processor: Any) -> list[tuple[str, Any, str, Any]]:
        """See `Family`."""
        side, tokens = _side(config.vision_config.image_size), self.vision_sizes(config).tokens_per_tile
        return [
            *super().parts(config, processor),
            ("side of a tile", side, "the image processor", self.tile(processor.image_processor)),
            ("tokens of a tile", tokens, "the processor", self.tile_tokens(processor)),
        ]

    def _image(self, processor: Any, picture: Image.Image, settings: dict[str, Any]) -> ImageInput:
        tiles = self.tiles(processor, picture, settings)
        ids = self.token_ids(processor, settings, height=picture.height, width=picture.width)
        return ImageInput({"pixel_values": tiles, "tiles": torch.tensor([len(tiles)])}, ids)

    # The model

    def features(self, model: Any, tensors: dict[str, Tensor], shown: list[int]) -> Any:
        """See `Family`."""
        found = self.tile_features(model, tensors["pixel_values"])
        of_image = found.pooler_output.split(tensors["tiles"].tolist())
        found.pooler_output = torch.cat([of_image[index] for index in shown])
        return found

    def tile_features(self, model: Any, tiles: Float[Tensor, "tiles channels height width"]) -> Any:
        """Output of the vision tower, with what the projector makes of it."""
        return model.model.get_image_features(tiles, return_dict=True)

    @abstractmethod
    def merged(self, config: Any) -> int:
        """Patches to a side of which the projector makes one token."""

    def vision_sizes(self, config: Any) -> VisionSizes:
        """See `Family`."""
        vision = config.vision_config
        patches_per_token = self.merged(config) ** 2
        return VisionSizes(
            layers=vision.num_hidden_layers,
            full_attention_layers=vision.num_hidden_layers,
            hidden=vision.hidden_size,
            intermediate=vision.intermediate_size,
            patches_per_token=patches_per_token,
            tokens_per_tile=(_side(vision.image_size) // _side(vision.patch_size)) ** 2 // patches_per_token,
        )

    # A tiny one

    def _tiny_text(self, sizes: TinySizes, tokenizer: Any, model_type: str) -> dict[str, Any]:
        rotary = {"rope_type": "default", "rope_theta": 10000.0}
        return sizes.text(tokenizer) | {"model_type": model_type, "rope_parameters": rotary}

    def _tiny_vision(self, sizes: TinySizes) -> dict[str, Any]:
        return {
            "hidden_size": sizes.vision_hidden_size,
            "intermediate_size": 2 * sizes.vision_hidden_size,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.heads,
            "image_size": TINY_TILE,
            "patch_size": TINY_PATCH,
        }

    def _tiny_model(self, sizes: TinySizes, tokenizer: Any) -> dict[str, Any]:
        return {
            "image_token_id": tokenizer.convert_tokens_to_ids(self.image_token),
            "tie_word_embeddings": sizes.tie_word_embeddings,
            "dtype": "float32",
        }


def _side(size: int | list[int] | tuple[int, int]) -> int:
    """Of a square, which some configurations give as height and width."""
    return size if isinstance(size, int) else size[0]
