"""Attention of the vision tower: all windows of a pack at once, and not one call for each.

transformers hands all windows over together to implementations with "flash" in their name.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from learner.model.attention_kernels import computed_in

_WINDOWS = "vision_sr1_flash_windows"


def use_window_attention(vision_tower: Any) -> None:
    """Switches a tower that was made with another implementation: transformers makes none with a name of flash that it
    does not know."""
    vision_tower.config._attn_implementation = _WINDOWS


def window_attention(
    _module: torch.nn.Module,
    query: Float[Tensor, "1 heads patches head"],
    key: Float[Tensor, "1 heads patches head"],
    value: Float[Tensor, "1 heads patches head"],
    attention_mask: None,
    scaling: float,
    dropout: float = 0.0,
    *,
    cu_seq_lens_q: Int[Tensor, " ends"],
    max_length_q: int,
    **_: object,
) -> tuple[Float[Tensor, "1 patches heads head"], None]:
    """Attention in the form that transformers calls: patches attend to those of their window.

    Args:
        cu_seq_lens_q: where each window begins, and where the last ends.

    Raises:
        ValueError: a mask or a dropout was given.
    """
    if attention_mask is not None or dropout:
        raise ValueError("window attention takes neither a mask nor a dropout")
    if query.device.type != "cpu" and query.dtype != torch.float32:
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        ends = cu_seq_lens_q.to(torch.int32)
        out = varlen_attn(q, k, v, ends, ends, max_length_q, max_length_q, scale=scaling)
        assert isinstance(out, Tensor)
        return out.unsqueeze(0), None
    q, k, v = (tensor[0].to(computed_in(query)) for tensor in (query, key, value))
    return _by_length(q, k, v, cu_seq_lens_q, scaling).to(query.dtype).unsqueeze(0), None


def _by_length(
    query: Float[Tensor, "heads patches head"],
    key: Float[Tensor, "heads patches head"],
    value: Float[Tensor, "heads patches head"],
    ends: Int[Tensor, " ends"],
    scaling: float,
) -> Float[Tensor, "patches heads head"]:
    """One call for the windows of each length: no place only fills up."""
    starts, lengths = ends[:-1], ends.diff()
    parts, places = [], []
    for length in lengths.unique().tolist():
        window = starts[lengths == length].unsqueeze(1) + torch.arange(length, device=starts.device)
        q, k, v = (tensor[:, window].transpose(0, 1) for tensor in (query, key, value))
        parts.append(scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1))
        places.append(window.flatten())
    return torch.cat(parts)[torch.cat(places).argsort()]


AttentionInterface.register(_WINDOWS, window_attention)
