"""Attention over packs of prefix trees: a token attends to its ancestors and, causally, to its own segment.

A pack is a row of segments: prompts, and the responses that continue them. Attention is computed in parts, each by one
call of torch's fused attention: every segment with itself, and every prefix with all that continues it. The parts of a
token are added up by their log-sum-exp. Each part's backward pass takes the whole's output and log-sum-exp, as in ring
attention (Liu et al., arXiv 2310.01889), so that gradients are exact too. Registered with transformers under `PACKED`.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface

from learner.model.attention_kernels import Attended, Gradients, Part, kernel_for

PACKED = "vision_sr1_packed"


@dataclass(frozen=True)
class Layout:
    """How a pack's tokens attend to one another.

    Attributes:
        trees: in the order of the pack, each the length of its prefix and those of its continuations.
        own: the parts in which every token attends to its own segment.
        prefixes: those in which continuations attend to their prefix.
    """

    trees: list[tuple[int, list[int]]]
    own: list[Part]
    prefixes: list[Part]

    @classmethod
    def of(cls, trees: list[tuple[int, list[int]]]) -> "Layout":
        """Of these trees."""
        segments: list[range] = []
        crossings: list[tuple[range, range]] = []
        end = 0
        for prefix, continuations in trees:
            start, end = end, end + prefix
            segments.append(range(start, end))
            for length in continuations:
                segments.append(range(end, end + length))
                end += length
            if continuations:
                crossings.append((range(start + prefix, end), range(start, start + prefix)))
        return cls(
            trees,
            [Part.of(pairs, is_causal=True) for pairs in _alike((segment, segment) for segment in segments)],
            [Part.of(pairs, is_causal=False) for pairs in _alike(crossings)],
        )

    def to(self, device: torch.device) -> "Layout":
        """On another device."""
        own, prefixes = ([part.to(device) for part in parts] for parts in (self.own, self.prefixes))
        return Layout(self.trees, own, prefixes)


def packed_attention(
    _module: torch.nn.Module,
    query: Float[Tensor, "1 heads tokens head"],
    key: Float[Tensor, "1 kv_heads tokens head"],
    value: Float[Tensor, "1 kv_heads tokens head"],
    attention_mask: None,
    scaling: float,
    dropout: float = 0.0,
    *,
    layout: Layout,
    **_: object,
) -> tuple[Float[Tensor, "1 tokens heads head"], None]:
    """Attention in the form that transformers calls; the model is called with `layout`.

    Raises:
        ValueError: a mask or a dropout was given.
    """
    if attention_mask is not None or dropout:
        raise ValueError("packed attention takes neither a mask nor a dropout")
    rows = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out: Tensor = _TreeAttention.apply(*rows, layout, scaling)
    return out.unsqueeze(0), None


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Float[Tensor, "tokens heads head"],
        key: Float[Tensor, "tokens kv_heads head"],
        value: Float[Tensor, "tokens kv_heads head"],
        layout: Layout,
        scale: float,
    ) -> Float[Tensor, "tokens heads head"]:
        kernel = kernel_for(query)
        out = torch.empty_like(query)
        logsumexp = query.new_empty(query.shape[:2], dtype=torch.float32)
        for part in layout.own:
            out[part.query_places], logsumexp[part.query_places] = kernel.forward(query, key, value, part, scale)
        for part in layout.prefixes:
            at = part.query_places
            of_prefix = kernel.forward(query, key, value, part, scale)
            both = torch.logaddexp(logsumexp[at], of_prefix.logsumexp)
            own_share, prefix_share = ((lse - both).exp().unsqueeze(-1) for lse in (logsumexp[at], of_prefix.logsumexp))
            out[at] = (own_share * out[at] + prefix_share * of_prefix.out).to(out.dtype)
            logsumexp[at] = both
        ctx.save_for_backward(query, key, value, out, logsumexp)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, logsumexp = ctx.saved_tensors
        kernel, whole = kernel_for(query), Attended(out, logsumexp)
        totals = Gradients(*(torch.zeros_like(tensor) for tensor in (query, key, value)))
        for part in (*ctx.layout.own, *ctx.layout.prefixes):
            found = kernel.backward(gradients[0], query, key, value, whole, part, ctx.scale)
            totals.query.index_add_(0, part.query_places, found.query)
            totals.key.index_add_(0, part.key_places, found.key)
            totals.value.index_add_(0, part.key_places, found.value)
        return (*totals, None, None)


def _alike(pairs: Iterable[tuple[range, range]]) -> Iterable[list[tuple[range, range]]]:
    """Those whose lengths are of the same powers of two, so that filling up at most doubles them."""
    by_size: dict[tuple[int, int], list[tuple[range, range]]] = defaultdict(list)
    for queries, keys in pairs:
        by_size[len(queries).bit_length(), len(keys).bit_length()].append((queries, keys))
    return by_size.values()


AttentionInterface.register(PACKED, packed_attention)
