"""Causal attention over packed sequences, each attending to itself only, without a tokens x tokens mask.

The packed row is folded to one padded row per sequence for torch's fused attention and unfolded again. Registered with
transformers under `PACKED`; positions that restart at 0 mark where sequences begin.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PACKED = "vision_sr1_packed"


def packed_attention(
    _module: torch.nn.Module,
    query: Float[Tensor, "1 heads tokens head"],
    key: Float[Tensor, "1 kv_heads tokens head"],
    value: Float[Tensor, "1 kv_heads tokens head"],
    attention_mask: None,
    scaling: float,
    dropout: float = 0.0,
    *,
    position_ids: Int[Tensor, "1 tokens"],
    **_: object,
) -> tuple[Float[Tensor, "1 tokens heads head"], None]:
    """Attention of each packed sequence to itself, in the form that transformers calls.

    Raises:
        ValueError: a mask was given; packing needs none.
    """
    if attention_mask is not None:
        raise ValueError("packed attention takes no mask: positions say where sequences begin")
    starts = (position_ids[0] == 0).nonzero()[:, 0]
    lengths = torch.diff(starts, append=starts.new_tensor([position_ids.shape[1]]))
    offsets = torch.arange(int(lengths.max()), device=starts.device)
    inside = offsets < lengths.unsqueeze(1)  # [sequences, longest]
    gather = (starts.unsqueeze(1) + offsets).clamp(max=position_ids.shape[1] - 1)

    out = scaled_dot_product_attention(
        _fold(query, gather),
        _fold(key, gather),
        _fold(value, gather),
        dropout_p=dropout,
        is_causal=True,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    unfolded = out.transpose(1, 2).flatten(0, 1).index_select(0, inside.flatten().nonzero()[:, 0])
    return unfolded.unsqueeze(0), None


def _fold(
    packed: Float[Tensor, "1 heads tokens head"], gather: Int[Tensor, "sequences longest"]
) -> Float[Tensor, "sequences heads longest head"]:
    rows = packed[0].transpose(0, 1).index_select(0, gather.flatten())
    return rows.unflatten(0, gather.shape).transpose(1, 2)


AttentionInterface.register(PACKED, packed_attention)
