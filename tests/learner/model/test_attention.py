"""Every implementation of attention, forward and backward, against a loop over tokens in float32; and which is chosen.

Flash attention for GPUs has no kernel for CPUs. Here a plain one stands in for it, as an implementation of torch's own
operation, so that all above it is what runs on a GPU.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import _scoped_library
from torch.utils._python_dispatch import TorchDispatchMode

from learner.model.attention import Layout, Trees, packed_attention, segments_of
from learner.model.attention_kernels import Kernel, Padded, Plain, Varlen, kernel_for
from learner.model.window_attention import window_attention

HEADS = 4
TREES: Trees = [(9, [4, 1, 6]), (5, []), (12, [3, 7])]
TOKENS = sum(prefix + sum(branches) for prefix, branches in TREES)
IMAGE = range(2, 6)  # in the first prefix
WINDOW = 5
WINDOWS = [6, 6, 3, 6, 1]  # of a vision tower, patches


@pytest.fixture
def flash_attention() -> Iterator[None]:
    """CPU kernels of the operations that are CUDA's alone."""
    with _scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", _flash_forward, "CPU")
        library.impl("_flash_attention_backward", _flash_backward, "CPU")
        yield


@pytest.mark.usefixtures("flash_attention")
@pytest.mark.parametrize("kernel", [Padded(), Plain(), Varlen()], ids=lambda kernel: type(kernel).__name__)
@pytest.mark.parametrize("kind", ["trees", "windows", "windows and an image"])
@pytest.mark.parametrize(("size", "kv_heads"), [(64, 4), (80, 2), (128, 1)])
def test_packed_attention_is_that_of_a_loop_over_tokens(
    monkeypatch: pytest.MonkeyPatch, kernel: Kernel, kind: str, size: int, kv_heads: int
):
    monkeypatch.setattr("learner.model.attention.kernel_for", lambda _: kernel)
    window = None if kind == "trees" else WINDOW
    images = [IMAGE] if "image" in kind else []
    layout = Layout.of(TREES, images, window)

    def packed(*rows: Tensor) -> Tensor:
        q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in rows)
        return packed_attention(torch.nn.Module(), q, k, v, None, size**-0.5, layout=layout, sliding_window=window)[0][
            0
        ]

    _compare(packed, _seen_in_trees(window, images), kv_heads, size)


@pytest.mark.parametrize("size", [64, 80, 128])
def test_attention_within_windows_is_that_of_a_loop_over_patches(size: int):
    ends = torch.tensor([0, *WINDOWS]).cumsum(0).int()
    seen = [range(start, end) for start, end in pairwise(ends.tolist()) for _ in range(start, end)]

    def windows(*rows: Tensor) -> Tensor:
        q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in rows)
        return window_attention(
            torch.nn.Module(), q, k, v, None, size**-0.5, cu_seq_lens_q=ends, max_length_q=max(WINDOWS)
        )[0][0]

    _compare(windows, [list(places) for places in seen], HEADS, size)


def test_on_cpus_bfloat16_is_rounded_once():
    layout = Layout.of(TREES)
    rows = [torch.randn(1, HEADS, TOKENS, 64).bfloat16() for _ in range(3)]
    gradient = torch.randn(1, TOKENS, HEADS, 64).bfloat16()
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (row.to(dtype).requires_grad_() for row in rows)
        out = packed_attention(torch.nn.Module(), q, k, v, None, 0.125, layout=layout)[0]
        out.backward(gradient.to(dtype))
        assert v.grad is not None
        found.append((out, v.grad))
    (out, of_values), (rounded, of_values_rounded) = found
    assert torch.equal(out.bfloat16(), rounded)
    assert torch.equal(of_values.bfloat16(), of_values_rounded)


@pytest.mark.parametrize(
    ("device", "dtype", "kernel"),
    [
        ("cpu", torch.float32, Padded),
        ("cpu", torch.bfloat16, Padded),
        ("cuda", torch.float32, Plain),
        ("cuda", torch.bfloat16, Varlen),
        ("cuda", torch.float16, Varlen),
    ],
)
def test_the_kernel_is_chosen_by_device_and_dtype(device: str, dtype: torch.dtype, kernel: type):
    with FakeTensorMode():  # tensors of a device that need not be there
        assert type(kernel_for(torch.empty(3, HEADS, 64, device=device, dtype=dtype))) is kernel


def test_in_bfloat16_both_attentions_call_flash_attention_without_padding_where_they_are_not_on_a_cpu():
    device = torch.device("meta")  # a device of no kernels: which are called is all that is seen
    q, k, v = (torch.empty(1, HEADS, TOKENS, 64, device=device, dtype=torch.bfloat16) for _ in range(3))
    with _Operations() as packed:
        packed_attention(torch.nn.Module(), q, k, v, None, 0.125, layout=Layout.of(TREES).to(device))
    ends = torch.empty(len(WINDOWS) + 1, dtype=torch.int32, device=device)
    with _Operations() as windows:
        window_attention(torch.nn.Module(), q, k, v, None, 0.125, cu_seq_lens_q=ends, max_length_q=max(WINDOWS))
    for names in (packed.names, windows.names):
        assert {name for name in names if "attn" in name or "attention" in name} == {"torch_attn._varlen_attn.default"}


class _Operations(TorchDispatchMode):
    """Names of the operations that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def _compare(ours: Callable[..., Tensor], seen: list[list[int]], kv_heads: int, size: int) -> None:
    """Output and gradients of both, in float32."""
    torch.manual_seed(0)
    tokens = len(seen)
    rows = [torch.randn(tokens, heads, size) for heads in (HEADS, kv_heads, kv_heads)]
    gradient = torch.randn(tokens, HEADS, size)
    found = []
    for function in (ours, partial(_loop, seen)):
        inputs = [tensor.clone().requires_grad_() for tensor in rows]
        out = function(*inputs)
        found.append([out.detach(), *torch.autograd.grad(out, inputs, gradient)])
    for part, actual, expected in zip(("output", "query", "key", "value"), *found, strict=True):
        assert torch.allclose(actual, expected, atol=2e-5, rtol=2e-5), part


def _loop(seen: list[list[int]], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Each token and head alone: softmax of its products with the keys that it sees, times their values."""
    share = query.shape[1] // key.shape[1]
    rows = []
    for token, places in enumerate(seen):
        for head in range(query.shape[1]):
            keys, values = key[places, head // share], value[places, head // share]
            weights = (keys @ query[token, head] * query.shape[-1] ** -0.5).softmax(0)
            rows.append(weights @ values)
    return torch.stack(rows).view_as(query)


def _seen_in_trees(window: int | None, images: list[range]) -> list[list[int]]:
    """For each token, the places that it attends to: the last of its prompt and branch up to itself; its image."""
    seen: list[list[int]] = []
    for prefix, branches in segments_of(TREES):
        for segment in (prefix, *branches):
            for place in segment:
                before = [*(prefix if segment is not prefix else ()), *range(segment.start, place + 1)]
                own = {other for image in images if place in image for other in image}
                seen.append(sorted({*before[-window if window else None :], *own}))
    return seen


def _flash_sequences(
    query: Tensor, key: Tensor, ends_q: Tensor, ends_k: Tensor, *, is_causal: bool, scale: float
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Places of each sequence's queries and keys, and its masked scores, heads first."""
    share = query.shape[1] // key.shape[1]
    for index in range(len(ends_q) - 1):
        at_q, at_k = (slice(int(ends[index]), int(ends[index + 1])) for ends in (ends_q, ends_k))
        scores = torch.einsum("qhd,khd->hqk", query[at_q], key[at_k].repeat_interleave(share, 1)) * scale
        if is_causal:  # the last query sees the last key
            hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1 + scores.shape[2] - scores.shape[1])
            scores = scores.masked_fill(hidden, -torch.inf)
        yield at_q, at_k, scores


def _flash_forward(  # arguments as torch's native_functions.yaml has them
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends_q: Tensor,
    ends_k: Tensor,
    max_q: int,
    max_k: int,
    dropout: float,
    is_causal: bool,
    _debug: bool,
    *,
    scale: float,
    window_size_left: int = -1,
    window_size_right: int = -1,
    **_: object,
) -> tuple[Tensor, ...]:
    _check(ends_q, ends_k, max_q, max_k, dropout, (window_size_left, window_size_right), is_causal)
    out = torch.empty_like(query)
    logsumexp = query.new_empty(query.shape[1], len(query))
    share = query.shape[1] // key.shape[1]
    for at_q, at_k, scores in _flash_sequences(query, key, ends_q, ends_k, is_causal=is_causal, scale=scale):
        logsumexp[:, at_q] = scores.logsumexp(-1)
        out[at_q] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[at_k].repeat_interleave(share, 1))
    none = torch.zeros(2, dtype=torch.uint64)
    return out, logsumexp, none, none.clone(), query.new_empty(0)


def _flash_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    ends_q: Tensor,
    ends_k: Tensor,
    max_q: int,
    max_k: int,
    dropout: float,
    is_causal: bool,
    _rng_state: Tensor,
    _unused: Tensor,
    *,
    scale: float,
    window_size_left: int = -1,
    window_size_right: int = -1,
    **_: object,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(ends_q, ends_k, max_q, max_k, dropout, (window_size_left, window_size_right), is_causal)
    found = [torch.zeros_like(tensor) for tensor in (query, key, value)]
    kv_heads = key.shape[1]
    share = query.shape[1] // kv_heads
    delta = (gradient * out).sum(-1).transpose(0, 1)
    for at_q, at_k, scores in _flash_sequences(query, key, ends_q, ends_k, is_causal=is_causal, scale=scale):
        weights = (scores - logsumexp[:, at_q].unsqueeze(-1)).exp()
        keys, values = (tensor[at_k].repeat_interleave(share, 1) for tensor in (key, value))
        of_weights = torch.einsum("qhd,khd->hqk", gradient[at_q], values)
        of_scores = weights * (of_weights - delta[:, at_q].unsqueeze(-1)) * scale
        found[0][at_q] = torch.einsum("hqk,khd->qhd", of_scores, keys)
        of_keys = torch.einsum("hqk,qhd->khd", of_scores, query[at_q])
        of_values = torch.einsum("hqk,qhd->khd", weights, gradient[at_q])
        found[1][at_k] = of_keys.unflatten(1, (kv_heads, share)).sum(2)
        found[2][at_k] = of_values.unflatten(1, (kv_heads, share)).sum(2)
    return found[0], found[1], found[2]


def _check(
    ends_q: Tensor, ends_k: Tensor, max_q: int, max_k: int, dropout: float, window: tuple[int, int], is_causal: bool
) -> None:
    """What CUDA's kernel relies on without a check of its own."""
    assert ends_q.dtype == ends_k.dtype == torch.int32
    assert len(ends_q) == len(ends_k)
    assert int(ends_q.diff().max()) <= max_q
    assert int(ends_k.diff().max()) <= max_k
    assert not dropout
    assert window == (-1, 0 if is_causal else -1)
