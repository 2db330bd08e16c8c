"""One part of packed attention by the kernel that suits it, forward and backward; see `learner.model.attention`.

All take and give tokens as they stand in the pack, without the places that only fill up rows.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vision_sr1.runtime.host_memory import to_device

NO_WEIGHT = 1e30  # log-sum-exp of rows that only fill up: their weights vanish


@dataclass(frozen=True)
class Part:
    """Queries of some segments and the keys that they attend to, one row a segment, filled up to the longest.

    Attributes:
        queries: positions in the pack.
        is_query: false where a row is filled up.
        keys: positions in the pack.
        is_key: false where a row is filled up.
        is_causal: segments attend to themselves; a row is filled up behind what it may attend to.
        bias: minus infinity for keys that only fill up; None where none do, or where causality hides them.
        query_places: `queries` without what fills up.
        key_places: `keys` without what fills up.
        query_ends: where each row begins in `query_places`, and where the last ends.
        key_ends: the same of `key_places`.
    """

    queries: Int[Tensor, "rows queries"]
    is_query: Bool[Tensor, "rows queries"]
    keys: Int[Tensor, "rows keys"]
    is_key: Bool[Tensor, "rows keys"]
    is_causal: bool
    bias: Float[Tensor, "rows 1 1 keys"] | None
    query_places: Int[Tensor, " all_queries"]
    key_places: Int[Tensor, " all_keys"]
    query_ends: Int[Tensor, " ends"]
    key_ends: Int[Tensor, " ends"]

    @classmethod
    def of(cls, pairs: list[tuple[range, range]], *, is_causal: bool) -> "Part":
        """Of queries with their keys."""
        queries, is_query = filled_up([queries for queries, _ in pairs])
        keys, is_key = filled_up([keys for _, keys in pairs])
        return cls(
            queries,
            is_query,
            keys,
            is_key,
            is_causal,
            None if is_causal or bool(is_key.all()) else torch.where(is_key, 0.0, -torch.inf)[:, None, None, :],
            queries[is_query],
            keys[is_key],
            _ends(is_query),
            _ends(is_key),
        )

    def to(self, device: torch.device) -> "Part":
        """On another device."""
        moved: dict[str, Any] = {
            name: to_device(value, device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


class Attended(NamedTuple):
    """A part's output and log-sum-exp, by `query_places`."""

    out: Float[Tensor, "all_queries heads head"]
    logsumexp: Float[Tensor, "all_queries heads"]


class Gradients(NamedTuple):
    """A part's, by `query_places` and `key_places`."""

    query: Float[Tensor, "all_queries heads head"]
    key: Float[Tensor, "all_keys kv_heads head"]
    value: Float[Tensor, "all_keys kv_heads head"]


@runtime_checkable
class Kernel(Protocol):
    """Attention of one part."""

    def forward(
        self,
        query: Float[Tensor, "tokens heads head"],
        key: Float[Tensor, "tokens kv_heads head"],
        value: Float[Tensor, "tokens kv_heads head"],
        part: Part,
        scale: float,
    ) -> Attended:
        """Over this part's keys alone."""

    def backward(
        self,
        gradient: Float[Tensor, "tokens heads head"],
        query: Float[Tensor, "tokens heads head"],
        key: Float[Tensor, "tokens kv_heads head"],
        value: Float[Tensor, "tokens kv_heads head"],
        whole: Attended,
        part: Part,
        scale: float,
    ) -> Gradients:
        """What this part adds, given output and log-sum-exp of all parts together, by position in the pack."""


def kernel_for(query: Tensor) -> Kernel:
    """Flash attention, padded on CPUs and without padding on GPUs; in float32 on GPUs plain attention."""
    if query.device.type == "cpu":
        return Padded()
    return Plain() if query.dtype == torch.float32 else Varlen()


def computed_in(query: Tensor) -> torch.dtype:
    """float32 on CPUs, where flash attention's backward pass takes up to four times as long in bfloat16."""
    return torch.float32 if query.device.type == "cpu" else query.dtype


class Padded:
    """torch's flash attention for CPUs, on rows filled up."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, part: Part, scale: float) -> Attended:
        """See `Kernel`."""
        rows = _rows(query, key, value, part)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *rows, 0.0, part.is_causal, attn_mask=part.bias, scale=scale
        )
        return Attended(out.transpose(1, 2)[part.is_query], lse.transpose(1, 2)[part.is_query])

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, whole: Attended, part: Part, scale: float
    ) -> Gradients:
        """See `Kernel`."""
        gradient, lse = _outer_rows(gradient, whole, part)
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient,
            *_rows(query, key, value, part),
            _heads_first(whole.out[part.queries]),
            lse,
            0.0,
            part.is_causal,
            attn_mask=part.bias,
            scale=scale,
        )
        return _flat(found, part, key.shape[1])


class Plain:
    """Weights in full, on rows filled up: for whatever has no kernel of its own."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, part: Part, scale: float) -> Attended:
        """See `Kernel`."""
        q, k, v = _rows(query, key, value, part)
        scores = self._scores(q, k, part, scale)
        lse = scores.logsumexp(dim=-1)
        out = (scores - lse.unsqueeze(-1)).exp().to(v.dtype) @ v
        return Attended(out.transpose(1, 2)[part.is_query], lse.transpose(1, 2)[part.is_query])

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, whole: Attended, part: Part, scale: float
    ) -> Gradients:
        """See `Kernel`."""
        gradient, lse = _outer_rows(gradient, whole, part)
        q, k, v = _rows(query, key, value, part)
        weights = (self._scores(q, k, part, scale) - lse.unsqueeze(-1)).exp()
        delta = (gradient * _heads_first(whole.out[part.queries])).sum(-1, keepdim=True)
        of_scores = weights * (gradient @ v.transpose(-1, -2) - delta) * scale
        found = (of_scores.to(k.dtype) @ k, of_scores.mT.to(q.dtype) @ q, weights.mT.to(gradient.dtype) @ gradient)
        return _flat(found, part, key.shape[1])

    @staticmethod
    def _scores(
        q: Float[Tensor, "rows heads queries head"], k: Float[Tensor, "rows heads keys head"], part: Part, scale: float
    ) -> Float[Tensor, "rows heads queries keys"]:
        scores = (q @ k.mT).float() * scale
        if part.is_causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            return scores.masked_fill(hidden, float("-inf"))
        return scores if part.bias is None else scores + part.bias


class Varlen:
    """torch's flash attention for GPUs, over sequences of any lengths."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, part: Part, scale: float) -> Attended:
        """See `Kernel`."""
        out, lse, _ = torch.ops.torch_attn._varlen_attn(
            query[part.query_places],
            key[part.key_places],
            value[part.key_places],
            *self._lengths(part),
            part.is_causal,
            scale,
            [-1, 0 if part.is_causal else -1],
            query.shape[1] != key.shape[1],
        )
        return Attended(out, lse.transpose(0, 1))

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, whole: Attended, part: Part, scale: float
    ) -> Gradients:
        """See `Kernel`."""
        found = torch.ops.torch_attn._varlen_attn_backward(
            gradient[part.query_places],
            query[part.query_places],
            key[part.key_places],
            value[part.key_places],
            whole.out[part.query_places],
            whole.logsumexp[part.query_places].transpose(0, 1).contiguous(),
            *self._lengths(part),
            part.is_causal,
            torch.zeros(2, dtype=torch.uint64, device=query.device),  # the state of a dropout that there is not
            scale,
            [-1, 0 if part.is_causal else -1],
        )
        return Gradients(*found)

    @staticmethod
    def _lengths(part: Part) -> tuple[Tensor, Tensor, int, int]:
        return part.query_ends, part.key_ends, part.queries.shape[1], part.keys.shape[1]


def _rows(
    query: Float[Tensor, "tokens heads head"],
    key: Float[Tensor, "tokens kv_heads head"],
    value: Float[Tensor, "tokens kv_heads head"],
    part: Part,
) -> tuple[
    Float[Tensor, "rows heads queries head"],
    Float[Tensor, "rows heads keys head"],
    Float[Tensor, "rows heads keys head"],
]:
    """A part's, filled up; keys and values once for each query head."""
    shared_by = query.shape[1] // key.shape[1]
    k, v = (_heads_first(tensor[part.keys]).repeat_interleave(shared_by, dim=1) for tensor in (key, value))
    return _heads_first(query[part.queries]), k, v


def _outer_rows(
    gradient: Float[Tensor, "tokens heads head"], whole: Attended, part: Part
) -> tuple[Float[Tensor, "rows heads queries head"], Float[Tensor, "rows heads queries"]]:
    """The output's gradient and log-sum-exp, such that what fills up adds nothing."""
    inside = part.is_query.unsqueeze(-1)
    lse = whole.logsumexp[part.queries].masked_fill(~inside, NO_WEIGHT)
    return _heads_first(gradient[part.queries] * inside.unsqueeze(-1)), lse.transpose(1, 2).contiguous()


def _flat(gradients: tuple[Tensor, Tensor, Tensor], part: Part, kv_heads: int) -> Gradients:
    """Without what fills up, and with the query heads' shares in a key or value added up."""
    query, *others = (gradient.transpose(1, 2) for gradient in gradients)
    key, value = (other[part.is_key].unflatten(1, (kv_heads, -1)).sum(2) for other in others)
    return Gradients(query[part.is_query], key, value)


def _heads_first(rows: Float[Tensor, "rows length heads head"]) -> Float[Tensor, "rows heads length head"]:
    return rows.transpose(1, 2)


def filled_up(ranges: list[range]) -> tuple[Int[Tensor, "rows longest"], Bool[Tensor, "rows longest"]]:
    """Places of each range, its last one repeated, and which are its own."""
    steps = torch.tensor([r.step for r in ranges]).unsqueeze(1)
    starts = torch.tensor([r.start for r in ranges]).unsqueeze(1)
    lengths = torch.tensor([len(r) for r in ranges]).unsqueeze(1)
    offsets = torch.arange(int(lengths.max()))
    return starts + steps * offsets.minimum(lengths - 1), offsets < lengths


def _ends(is_real: Bool[Tensor, "rows longest"]) -> Int[Tensor, " ends"]:
    lengths = is_real.sum(dim=1)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int()
