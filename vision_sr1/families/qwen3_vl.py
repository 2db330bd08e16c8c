"""Qwen3-VL: features of several depths of the vision tower go into the first layers of the language model (deepstack),
and rotary sections are interleaved."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from vision_sr1.families.family import TinySizes, VisionSizes
from vision_sr1.families.qwen2_5_vl import Qwen25VL, sections


class Qwen3VL(Qwen25VL):
    """Qwen3-VL, dense."""

    model_type = "qwen3_vl"
    title = "Qwen3-VL"
    patch_size = 16
    tiny_pixels = 64 * 64

    def features(self, model: Any, tensors: dict[str, Tensor], shown: list[int]) -> Any:
        """See `Family`; the deeper features of an image too."""
        found = super().features(model, tensors, shown)
        found.deepstack_features = [tuple(level[index] for index in shown) for level in found.deepstack_features]
        return found

    def vision_sizes(self, config: Any) -> VisionSizes:
        """See `Family`."""
        deeper = len(getattr(config.vision_config, "deepstack_visual_indexes", ()))
        return replace(super().vision_sizes(config), projectors=1 + deeper)

    def tiny_config(self, sizes: TinySizes, tokenizer: Any) -> Any:
        """See `Family`."""
        from transformers import Qwen3VLConfig

        head = sizes.hidden_size // sizes.heads
        rotary = {"rope_type": "default", "rope_theta": 10000.0, "mrope_interleaved": True}
        rotary |= {"mrope_section": sections(head // 2)}
        return Qwen3VLConfig(
            text_config=self._tiny_text(sizes, tokenizer) | {"head_dim": head, "rope_parameters": rotary},
            vision_config=self._tiny_vision(sizes) | {"deepstack_visual_indexes": [0]},
            **self._tiny_tokens(sizes, tokenizer),
        )

    def tiny_processor(self, tokenizer: Any, pixels: int) -> Any:
        """See `Family`."""
        from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

        halves = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        parts = self._tiny_processors(Qwen2VLImageProcessor, Qwen3VLVideoProcessor, pixels, **halves)
        return Qwen3VLProcessor(**parts, tokenizer=tokenizer, chat_template=self.chat_template)

    def _tiny_vision(self, sizes: TinySizes) -> dict[str, Any]:
        return super()._tiny_vision(sizes) | {"num_position_embeddings": 64}


FAMILY = Qwen3VL()
