"""Attention in bf16, and its gradients, against float32 computed a sequence at a time."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from bench.gpu.findings import Bench, Findings, relative_error
from learner.model.attention import Layout, Trees, packed_attention, segments_of
from learner.model.window_attention import window_attention

HEAD_SIZES = (64, 80, 128)
HEADS, KV_HEADS = 8, 2
LARGE = 12  # times as long on a GPU
TREES: Trees = [(70, [30, 1, 22]), (33, []), (150, [60, 64])]
IMAGE = range(5, 40)  # in the first prefix
WINDOW = 48
PATCHES = [64, 64, 32, 16, 64]
PARTS = ("the output", "the query's gradient", "the key's", "the value's")

Rows = Float[Tensor, "tokens heads head"]


def run(bench: Bench, findings: Findings) -> None:
    """Packs of trees, with and without images and sliding windows, and the windows of a vision tower."""
    times = LARGE if bench.is_cuda else 1
    trees = [(prefix * times, [length * times for length in lengths]) for prefix, lengths in TREES]
    images = [range(IMAGE.start * times, IMAGE.stop * times)]
    kinds: dict[str, tuple[list[range], int | None]] = {
        "packed": ([], None),
        "sliding": ([], WINDOW * times),
        "sliding, images": (images, WINDOW * times),
    }
    tokens = sum(prefix + sum(lengths) for prefix, lengths in trees)
    for size in HEAD_SIZES:
        for kind, (whole, window) in kinds.items():
            layout = Layout.of(trees, whole, window).to(torch.device(bench.device))
            ours = _packed(layout, window)
            exact = _by_sequence(_sequences(trees), whole, window)
            _compare(findings, f"{kind}, head {size}", _random(bench.device, tokens, size, KV_HEADS), ours, exact)
        windows = _consecutive([length * times for length in PATCHES])
        rows = _random(bench.device, windows[-1].stop, size, HEADS)
        _compare(
            findings, f"vision, head {size}", rows, _windows(windows), _by_sequence([[w] for w in windows], windows)
        )


def _compare(
    findings: Findings,
    name: str,
    rows: tuple[Rows, Rows, Rows],
    ours: Callable[[Rows, Rows, Rows], Rows],
    exact: Callable[[Rows, Rows, Rows], Rows],
) -> None:
    """Both on the same bf16 values; `exact` in float32."""
    gradient = torch.randn(rows[0].shape, device=rows[0].device).bfloat16()
    found = []
    for function, dtype in ((ours, torch.bfloat16), (exact, torch.float32)):
        inputs = [tensor.to(dtype).requires_grad_() for tensor in rows]
        out = function(*inputs)
        found.append([out.detach(), *torch.autograd.grad(out, inputs, gradient.to(dtype))])
    errors = {part: relative_error(*pair) for part, *pair in zip(PARTS, *found, strict=True)}
    worst = max(errors, key=lambda part: errors[part] if errors[part] == errors[part] else torch.inf)
    findings.within("attention_error", f"{name}: largest, of {worst}", errors[worst])


def _packed(layout: Layout, window: int | None) -> Callable[[Rows, Rows, Rows], Rows]:
    def attend(query: Rows, key: Rows, value: Rows) -> Rows:
        q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
        module, scale = torch.nn.Module(), query.shape[-1] ** -0.5
        return packed_attention(module, q, k, v, None, scale, layout=layout, sliding_window=window)[0][0]

    return attend


def _windows(windows: list[range]) -> Callable[[Rows, Rows, Rows], Rows]:
    def attend(query: Rows, key: Rows, value: Rows) -> Rows:
        q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
        ends = torch.tensor([0, *(window.stop for window in windows)], device=query.device)
        longest = max(map(len, windows))
        module, scale = torch.nn.Module(), query.shape[-1] ** -0.5
        return window_attention(module, q, k, v, None, scale, cu_seq_lens_q=ends, max_length_q=longest)[0][0]

    return attend


def _by_sequence(
    sequences: list[list[range]], whole: list[range], window: int | None = None
) -> Callable[[Rows, Rows, Rows], Rows]:
    """Plain attention of each sequence, whose last part is what it adds to the output.

    Args:
        sequences: each a prefix and what continues it, or one part.
        whole: places whose tokens all attend to each other.
        window: tokens that one attends to, itself among them.
    """

    def attend(query: Rows, key: Rows, value: Rows) -> Rows:
        out = torch.zeros_like(query)
        for parts in sequences:
            at = torch.tensor([place for part in parts for place in part], device=query.device)
            order = torch.arange(len(at), device=query.device)
            behind = order[:, None] - order[None, :]
            sees = (behind >= 0) & (behind < (window or len(at)))
            for image in whole:
                inside = (at >= image.start) & (at < image.stop)
                sees |= inside[:, None] & inside[None, :]
            groups = query.shape[1] // key.shape[1]
            k, v = (tensor[at].repeat_interleave(groups, dim=1) for tensor in (key, value))
            scores = torch.einsum("qhd,khd->hqk", query[at], k) * query.shape[-1] ** -0.5
            weights = scores.masked_fill(~sees, -torch.inf).softmax(-1)
            own = at[-len(parts[-1]) :]
            out = out.index_copy(0, own, torch.einsum("hqk,khd->qhd", weights, v)[-len(own) :])
        return out

    return attend


def _sequences(trees: Trees) -> list[list[range]]:
    """Each prefix, and each continuation with its prefix."""
    found = []
    for prefix, continuations in segments_of(trees):
        found.append([prefix])
        found += [[prefix, continuation] for continuation in continuations]
    return found


def _random(device: str, tokens: int, size: int, kv_heads: int) -> tuple[Rows, Rows, Rows]:
    torch.manual_seed(0)
    query, key, value = (torch.randn(tokens, heads, size).bfloat16() for heads in (HEADS, kv_heads, kv_heads))
    return query.to(device), key.to(device), value.to(device)


def _consecutive(lengths: list[int]) -> list[range]:
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [range(end - length, end) for end, length in zip(ends, lengths, strict=True)]
