"""Qwen2-VL: as Qwen2.5-VL, with a vision tower in which all patches of an image see each other."""

from typing import Any

from vision_sr1.families.family import TinySizes, VisionSizes
from vision_sr1.families.qwen2_5_vl import Qwen25VL, sections


class Qwen2VL(Qwen25VL):
    """Qwen2-VL."""

    model_type = "qwen2_vl"
    title = "Qwen2-VL"

    def vision_sizes(self, config: Any) -> VisionSizes:
        """See `Family`."""
        vision = config.vision_config
        return VisionSizes(
            layers=vision.depth,
            full_attention_layers=vision.depth,
            hidden=vision.embed_dim,
            intermediate=int(vision.embed_dim * vision.mlp_ratio),
            patches_per_token=vision.spatial_merge_size**2,
        )

    def tiny_config(self, sizes: TinySizes, tokenizer: Any) -> Any:
        """See `Family`."""
        from transformers import Qwen2VLConfig

        rotary = {"rope_type": "default", "rope_theta": 10000.0}
        rotary |= {"mrope_section": sections(sizes.hidden_size // sizes.heads // 2)}
        vision = self._tiny_vision(sizes)
        vision |= {"embed_dim": sizes.vision_hidden_size, "hidden_size": vision.pop("out_hidden_size"), "mlp_ratio": 2}
        del vision["intermediate_size"]
        return Qwen2VLConfig(
            text_config=self._tiny_text(sizes, tokenizer) | {"rope_parameters": rotary},
            vision_config=vision,
            **self._tiny_tokens(sizes, tokenizer),
        )

    def tiny_processor(self, tokenizer: Any, pixels: int) -> Any:
        """See `Family`."""
        from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

        parts = self._tiny_processors(Qwen2VLImageProcessor, Qwen2VLVideoProcessor, pixels)
        return Qwen2VLProcessor(**parts, tokenizer=tokenizer, chat_template=self.chat_template)


FAMILY = Qwen2VL()
