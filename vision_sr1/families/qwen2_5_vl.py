"""Qwen2.5-VL: flattened patches with grids, multimodal rotary positions, a vision tower with windows."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int, Int64
from PIL import Image
from torch import Tensor

from vision_sr1.config import ModelConfig
from vision_sr1.families.family import Family, ImageInput, TinySizes, VisionSizes


class Qwen25VL(Family):
    """Qwen2.5-VL; other generations of Qwen differ from it in little."""

    model_type = "qwen2_5_vl"
    title = "Qwen2.5-VL"
    image_token = template_token = "<|image_pad|>"
    reserved_tokens = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
    vision_modules = ("visual",)
    projectors = ("merger",)
    windows = "visual"
    special_tokens = (
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
        "<|quad_start|>",
        "<|quad_end|>",
        *reserved_tokens,
    )
    image_markup = "<|vision_start|><|image_pad|><|vision_end|>"
    patch_size: ClassVar[int] = 14  # of a tiny model, and of the real ones

    def processor_settings(self, model: ModelConfig) -> dict[str, Any]:
        """See `Family`."""
        return {"size": {"shortest_edge": model.min_pixels, "longest_edge": model.max_pixels}}

    def image_tokens(self, processor: Any, model: ModelConfig, *, height: int, width: int) -> int:
        """See `Family`."""
        bounds = {"min_pixels": model.min_pixels, "max_pixels": model.max_pixels}
        patches: int = processor.image_processor.get_number_of_image_patches(height, width, bounds)
        return patches // processor.image_processor.merge_size**2

    def images(self, processor: Any, pictures: list[Image.Image], settings: dict[str, Any]) -> list[ImageInput]:
        """See `Family`."""
        found = processor.image_processor(images=pictures, **settings, return_tensors="pt")
        grids: Int[Tensor, "images 3"] = found["image_grid_thw"]
        patches = grids.prod(dim=1)
        merged = processor.image_processor.merge_size**2
        image_token_id = processor.tokenizer.convert_tokens_to_ids(self.image_token)
        return [
            ImageInput(
                {"pixel_values": pixels, "image_grid_thw": grid.unsqueeze(0)}, [image_token_id] * (count // merged)
            )
            for pixels, grid, count in zip(
                found["pixel_values"].split(patches.tolist()), grids, patches.tolist(), strict=True
            )
        ]

    def smallest_image(self, processor: Any) -> ImageInput:
        """See `Family`."""
        side = processor.image_processor.merge_size * processor.image_processor.patch_size
        pixels = {"shortest_edge": side * side, "longest_edge": side * side}
        (image,) = self.images(processor, [Image.new("RGB", (side, side))], {"size": pixels})
        return image

    def parts(self, config: Any, processor: Any) -> list[tuple[str, Any, str, Any]]:
        """See `Family`."""
        vision, image_processor = config.vision_config, processor.image_processor
        return [
            *super().parts(config, processor),
            ("patch size", vision.patch_size, "the image processor", image_processor.patch_size),
            ("patches merged", vision.spatial_merge_size, "the image processor", image_processor.merge_size),
            (
                "frames per patch",
                vision.temporal_patch_size,
                "the image processor",
                image_processor.temporal_patch_size,
            ),
        ]

    def positions(
        self,
        model: Any,
        token_ids: Int64[Tensor, " length"],
        is_image: Bool[Tensor, " length"],
        images: Sequence[ImageInput],
    ) -> Int[Tensor, "axes length"]:
        """Of time, height and width; equal in text."""
        if not images:
            return torch.arange(len(token_ids)).expand(3, -1)
        grids = torch.cat([image.tensors["image_grid_thw"] for image in images])
        found, _ = model.model.get_rope_index(token_ids.unsqueeze(0), is_image.int().unsqueeze(0), image_grid_thw=grids)
        positions: Tensor = found[:, 0]
        return positions

    def vision_sizes(self, config: Any) -> VisionSizes:
        """See `Family`."""
        vision = config.vision_config
        return VisionSizes(
            layers=vision.depth,
            full_attention_layers=len(getattr(vision, "fullatt_block_indexes", range(vision.depth))),
            hidden=vision.hidden_size,
            intermediate=vision.intermediate_size,
            patches_per_token=vision.spatial_merge_size**2,
        )

    def tiny_config(self, sizes: TinySizes, tokenizer: Any) -> Any:
        """See `Family`."""
        from transformers import Qwen2_5_VLConfig

        return Qwen2_5_VLConfig(
            text_config=self._tiny_text(sizes, tokenizer)
            | {"rope_parameters": _rotary(sizes.hidden_size // sizes.heads)},
            vision_config=self._tiny_vision(sizes)
            | {"window_size": 112, "fullatt_block_indexes": list(range(sizes.vision_layers))},
            **self._tiny_tokens(sizes, tokenizer),
        )

    def tiny_processor(self, tokenizer: Any, pixels: int) -> Any:
        """See `Family`."""
        from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

        parts = self._tiny_processors(Qwen2VLImageProcessor, Qwen2VLVideoProcessor, pixels)
        return Qwen2_5_VLProcessor(**parts, tokenizer=tokenizer, chat_template=self.chat_template)

    def _tiny_processors(self, image: Any, video: Any, pixels: int, **settings: Any) -> dict[str, Any]:
        settings |= {"patch_size": self.patch_size, "temporal_patch_size": 2, "merge_size": 2}
        settings |= {"size": {"shortest_edge": pixels, "longest_edge": pixels}}
        return {"image_processor": image(**settings), "video_processor": video(**settings)}

    def _tiny_text(self, sizes: TinySizes, tokenizer: Any) -> dict[str, Any]:
        return sizes.text(tokenizer)

    def _tiny_vision(self, sizes: TinySizes) -> dict[str, Any]:
        return {
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_hidden_size,
            "intermediate_size": 2 * sizes.vision_hidden_size,
            "num_heads": sizes.heads,
            "out_hidden_size": sizes.hidden_size,
            "patch_size": self.patch_size,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        }

    def _tiny_tokens(self, sizes: TinySizes, tokenizer: Any) -> dict[str, Any]:
        names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
        ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}
        return {**ids, "tie_word_embeddings": sizes.tie_word_embeddings, "dtype": "float32"}


def sections(half: int) -> list[int]:
    """Shares of the rotary frequencies for time, height and width, in Qwen's proportions 2 : 3 : 3."""
    temporal = half // 4
    height = (half - temporal) // 2
    return [temporal, height, half - temporal - height]


def _rotary(head_size: int) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections(head_size // 2)}


FAMILY = Qwen25VL()
