"""Attention over packs of prefix trees: a token attends to its ancestors and, causally, to its own segment.

A pack is a row of segments: prompts, and the responses that continue them. Attention is computed in parts, each by one
call of torch's fused attention: every segment with itself, and every prefix with all that continues it. Where a model
has sliding windows, or images whose tokens all see each other, what they ask for is made of further rectangles and
triangles, so that no part needs a mask. The parts of a token are added up by their log-sum-exp. Each part's backward
pass takes the whole's output and log-sum-exp, as in ring attention (Liu et al., arXiv 2310.01889), so that gradients
are exact too. Registered with transformers under `PACKED`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface

from learner.model.attention_kernels import Attended, Gradients, Part, computed_in, kernel_for

PACKED = "vision_sr1_packed"


Pair = tuple[range, range]  # queries, and the keys that they attend to; both may run backwards
Trees = list[tuple[int, list[int]]]


@dataclass(frozen=True)
class Layout:
    """How a pack's tokens attend to one another.

    Attributes:
        trees: in the order of the pack, each the length of its prefix and those of its continuations.
        own: the parts in which every token attends to its own segment, or to its own block of it.
        others: those in which tokens attend to what is before that, or to the rest of their image.
        sliding: the same for layers in which a token attends to the last few before it; None without such layers.
    """

    trees: Trees
    own: list[Part]
    others: list[Part]
    sliding: "Layout | None" = None

    @classmethod
    def of(cls, trees: Trees, images: Iterable[range] = (), window: int | None = None) -> "Layout":
        """Of these trees.

        Args:
            images: places of images whose tokens all attend to each other.
            window: tokens that one attends to in sliding layers, itself among them.
        """
        # Of an image's tokens, each attends causally to those before it; backwards, to those behind it.
        behind = [(places[:-1][::-1], places[1:][::-1]) for places in images if len(places) > 1]
        sliding = None if window is None else cls._of(trees, behind, *_in_windows(trees, window))
        own, crossings = _whole(trees)
        return cls._of(trees, behind, own, [], crossings, sliding)

    @classmethod
    def _of(
        cls,
        trees: Trees,
        behind: list[Pair],
        own: list[Pair],
        triangles: list[Pair],
        rectangles: list[Pair],
        sliding: "Layout | None" = None,
    ) -> "Layout":
        # Apart from each other: a token of an image may stand in one of both, and no token twice in a part.
        causal = [Part.of(pairs, is_causal=True) for kind in (triangles, behind) for pairs in _alike(kind)]
        crossing = [Part.of(pairs, is_causal=False) for pairs in _alike(rectangles)]
        return cls(trees, [Part.of(pairs, is_causal=True) for pairs in _alike(own)], causal + crossing, sliding)

    def to(self, device: torch.device) -> "Layout":
        """On another device."""
        own, others = ([part.to(device) for part in parts] for parts in (self.own, self.others))
        return Layout(self.trees, own, others, self.sliding and self.sliding.to(device))


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
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Float[Tensor, "1 tokens heads head"], None]:
    """Attention in the form that transformers calls; the model is called with `layout`.

    Raises:
        ValueError: a mask or a dropout was given, or a sliding window that the layout does not have.
    """
    if attention_mask is not None or dropout:
        raise ValueError("packed attention takes neither a mask nor a dropout")
    if sliding_window is not None:
        if layout.sliding is None:
            raise ValueError(f"the model has layers with a window of {sliding_window} tokens, and the layout none")
        layout = layout.sliding
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
        given = (query, key, value)
        kernel, dtype = kernel_for(query), computed_in(query)
        query, key, value = (tensor.to(dtype) for tensor in given)
        out = torch.empty_like(query)
        logsumexp = query.new_empty(query.shape[:2], dtype=torch.float32)
        for part in layout.own:
            out[part.query_places], logsumexp[part.query_places] = kernel.forward(query, key, value, part, scale)
        for part in layout.others:
            at = part.query_places
            of_prefix = kernel.forward(query, key, value, part, scale)
            both = torch.logaddexp(logsumexp[at], of_prefix.logsumexp)
            own_share, prefix_share = ((lse - both).exp().unsqueeze(-1) for lse in (logsumexp[at], of_prefix.logsumexp))
            out[at] = (own_share * out[at] + prefix_share * of_prefix.out).to(out.dtype)
            logsumexp[at] = both
        out = out.to(given[0].dtype)
        ctx.save_for_backward(*given, out, logsumexp)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *given, out, logsumexp = ctx.saved_tensors
        kernel, dtype = kernel_for(given[0]), computed_in(given[0])
        query, key, value, out, gradient = (tensor.to(dtype) for tensor in (*given, out, gradients[0]))
        whole = Attended(out, logsumexp)
        totals = Gradients(*(torch.zeros_like(tensor) for tensor in (query, key, value)))
        for part in (*ctx.layout.own, *ctx.layout.others):
            found = kernel.backward(gradient, query, key, value, whole, part, ctx.scale)
            totals.query.index_add_(0, part.query_places, found.query)
            totals.key.index_add_(0, part.key_places, found.key)
            totals.value.index_add_(0, part.key_places, found.value)
        return (*(total.to(gradients[0].dtype) for total in totals), None, None)


def segments_of(trees: Trees) -> Iterator[tuple[range, list[range]]]:
    """Places of each prefix and of its continuations."""
    end = 0
    for prefix, continuations in trees:
        places = []
        start, end = end, end + prefix
        for length in continuations:
            places.append(range(end, end + length))
            end += length
        yield range(start, start + prefix), places


def _whole(trees: Trees) -> tuple[list[Pair], list[Pair]]:
    """Each segment with itself; all continuations with their prefix."""
    own: list[Pair] = []
    crossings: list[Pair] = []
    for prefix, continuations in segments_of(trees):
        own += [(segment, segment) for segment in (prefix, *continuations)]
        if continuations:
            crossings.append((range(prefix.stop, continuations[-1].stop), prefix))
    return own, crossings


def _in_windows(trees: Trees, window: int) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Blocks of at most a window with themselves; then triangles and rectangles of what else is within the window.

    A block's tokens see, of the block before it, the last `window - 1` to begin with and one less at each token.
    """
    own: list[Pair] = []
    triangles: list[Pair] = []
    rectangles: list[Pair] = []

    def band(queries: range, keys: range) -> None:
        """Queries that follow on keys."""
        keys = keys[max(0, len(keys) - window + 1) :]
        queries = queries[: window - 1]
        if not queries or not keys:
            return
        spare = window - 1 - len(keys)
        free = min(len(queries), spare + 1)  # so many see all of the keys
        rectangles.append((queries[:free], keys))
        seen_less = queries[free:]
        if seen_less:
            triangles.append((seen_less[::-1], keys[free - spare : len(queries) - spare][::-1]))
            if rest := keys[len(queries) - spare :]:
                rectangles.append((seen_less, rest))

    for prefix, continuations in segments_of(trees):
        for segment in (prefix, *continuations):
            blocks = [segment[start : start + window] for start in range(0, len(segment), window)]
            own += [(block, block) for block in blocks]
            for before, block in pairwise(blocks):
                band(block, before)
        for continuation in continuations:
            band(continuation, prefix)
    return own, triangles, rectangles


def _alike(pairs: Iterable[Pair]) -> Iterable[list[Pair]]:
    """Those whose lengths are of the same powers of two, so that filling up at most doubles them."""
    by_size: dict[tuple[int, int], list[Pair]] = defaultdict(list)
    for queries, keys in pairs:
        by_size[len(queries).bit_length(), len(keys).bit_length()].append((queries, keys))
    return by_size.values()


AttentionInterface.register(PACKED, packed_attention)
