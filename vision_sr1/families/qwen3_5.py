"""Qwen3.5, dense: three of four layers have linear attention (a gated delta net); no deepstack."""

from typing import Any

from torch import Tensor

from vision_sr1.families.family import Family, LanguageSizes, TinySizes
from vision_sr1.families.qwen2_5_vl import sections
from vision_sr1.families.qwen3_vl import Qwen3VL

LINEAR_HEAD = 64  # 64 and 128 are what vLLM's kernel takes on CPUs


class Qwen35(Qwen3VL):
    """Qwen3.5."""

    model_type = "qwen3_5"
    title = "Qwen3.5"
    linear_attention = "linear_attn"
    cpu_actor_dtypes = ("bfloat16",)

    def features(self, model: Any, tensors: dict[str, Tensor], shown: list[int]) -> Any:
        """See `Family`; there are no deeper features."""
        return Family.features(self, model, tensors, shown)

    def language_sizes(self, config: Any) -> LanguageSizes:
        """See `Family`; the state of a linear layer is a matrix for each of its heads."""
        text = config.get_text_config()
        sizes = super().language_sizes(config)
        linear = text.layer_types.count("linear_attention")
        state = text.linear_num_value_heads * text.linear_key_head_dim * text.linear_value_head_dim
        return LanguageSizes(
            attention_layers=sizes.attention_layers - linear,
            attention_width=sizes.attention_width,
            kv_width=sizes.kv_width,
            state=linear * state,
        )

    def tiny_config(self, sizes: TinySizes, tokenizer: Any) -> Any:
        """See `Family`."""
        from transformers import Qwen3_5Config

        head = sizes.hidden_size // sizes.heads
        rotary = {"rope_type": "default", "rope_theta": 10000.0, "mrope_interleaved": True}
        rotary |= {"partial_rotary_factor": 0.5, "mrope_section": sections(head // 4)}
        kinds = ["full_attention" if layer % 4 == 3 else "linear_attention" for layer in range(sizes.layers)]
        linear = {"linear_conv_kernel_dim": 4, "linear_num_key_heads": 1, "linear_num_value_heads": 2}
        linear |= {"linear_key_head_dim": LINEAR_HEAD, "linear_value_head_dim": LINEAR_HEAD}
        text = {"head_dim": head, "rope_parameters": rotary, "layer_types": kinds}
        return Qwen3_5Config(
            text_config=self._tiny_text(sizes, tokenizer) | text | linear,
            vision_config=self._tiny_vision(sizes),
            **self._tiny_tokens(sizes, tokenizer),
        )


FAMILY = Qwen35()
