"""InternVL3 in Hugging Face's form: tiles in a grid of about the image's proportions, then all of the image."""

from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vision_sr1.families._tiles import TINY_MERGED, TINY_TILE, TINY_TOKENS, Tiles
from vision_sr1.families.family import TinySizes


class InternVL(Tiles):
    """InternVL, with a dense language model."""

    model_type = "internvl"
    title = "InternVL3"
    image_token = template_token = "<IMG_CONTEXT>"
    reserved_tokens = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    vision_modules = ("vision_tower", "multi_modal_projector")
    projectors = ("multi_modal_projector",)
    special_tokens = (
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<quad>",
        "</quad>",
        "<ref>",
        "</ref>",
        "<box>",
        "</box>",
        *reserved_tokens,
    )
    image_markup = "<IMG_CONTEXT>\n"
    named_tokens = {  # noqa: RUF012
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }

    def tile(self, image_processor: Any) -> int:
        """See `Tiles`."""
        side: int = image_processor.size["height"]
        return side

    def tile_settings(self, image_processor: Any, max_pixels: int) -> dict[str, Any]:
        """See `Tiles`; what shows all of an image comes on top."""
        most = max(1, min(image_processor.max_patches, max_pixels // self.tile(image_processor) ** 2))
        return {"crop_to_patches": most > 1, "min_patches": 1, "max_patches": most}

    def tile_tokens(self, processor: Any) -> int:
        """See `Tiles`."""
        tokens: int = processor.image_seq_length
        return tokens

    def tiles(
        self, processor: Any, picture: Image.Image, settings: dict[str, Any]
    ) -> Float[Tensor, "tiles channels height width"]:
        """See `Tiles`."""
        found: Tensor = processor.image_processor(images=[picture], **settings, return_tensors="pt")["pixel_values"]
        return found

    def token_ids(self, processor: Any, settings: dict[str, Any], *, height: int, width: int) -> list[int]:
        """See `Tiles`."""
        tiles = processor.image_processor.get_number_of_image_patches(height, width, settings)
        inner = [processor.image_token_id] * (tiles * self.tile_tokens(processor))
        return [processor.start_image_token_id, *inner, processor.end_image_token_id]

    def merged(self, config: Any) -> int:
        """See `Tiles`."""
        return round(1 / config.downsample_ratio)

    def tiny_config(self, sizes: TinySizes, tokenizer: Any) -> Any:
        """See `Family`."""
        from transformers import InternVLConfig

        return InternVLConfig(
            text_config=self._tiny_text(sizes, tokenizer, "qwen2"),
            vision_config=self._tiny_vision(sizes) | {"attention_bias": True, "norm_type": "layer_norm"},
            image_seq_length=TINY_TOKENS,
            downsample_ratio=1 / TINY_MERGED,
            **self._tiny_model(sizes, tokenizer),
        )

    def tiny_processor(self, tokenizer: Any, pixels: int) -> Any:
        """See `Family`."""
        from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

        size = {"height": TINY_TILE, "width": TINY_TILE}
        return InternVLProcessor(
            image_processor=GotOcr2ImageProcessor(size=size, max_patches=pixels // TINY_TILE**2),
            video_processor=InternVLVideoProcessor(size=size),
            tokenizer=tokenizer,
            image_seq_length=TINY_TOKENS,
            chat_template=self.chat_template,
        )


FAMILY = InternVL()
