"""Images whose tokens all see each other, on CPUs: vLLM's attention there is causal throughout, without a word.

Rows of an image are computed again by the same kernel, as requests of their own: their keys are everything up to the
image's last token, and nothing is hidden from them. On GPUs vLLM does this itself.
"""

from typing import Any

import torch
from vllm import _custom_ops, envs
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl, CPUAttentionMetadataBuilder

from actors.vllm.workers import CPUTrainingWorker


class WholeImagesWorker(CPUTrainingWorker):
    """On CPUs, for families whose images are seen as a whole."""

    def load_model(self, **arguments: Any) -> None:
        """Changes vLLM's attention, and loads the model."""
        see_whole_images()
        super().load_model(**arguments)


def see_whole_images() -> None:
    """Changes vLLM's attention on CPUs in this process."""
    build, forward = CPUAttentionMetadataBuilder.build, CPUAttentionBackendImpl.forward
    if build is _build:
        return
    _plain.update(build=build, forward=forward)
    CPUAttentionMetadataBuilder.build = _build
    CPUAttentionBackendImpl.forward = _forward


_plain: dict[str, Any] = {}  # vLLM's own


def _build(self: Any, common_prefix_len: int, common: Any, fast_build: bool = False) -> Any:
    metadata = _plain["build"](self, common_prefix_len, common, fast_build)
    metadata.images = None
    starts, lengths = common.query_start_loc.tolist(), common.seq_lens.tolist()
    rows, ends, requests = [], [], []
    for request, images in (common.mm_req_doc_ranges or {}).items():
        first = lengths[request] - (starts[request + 1] - starts[request])  # position of the first query
        for begin, last in images:
            begins, end = max(begin, first), min(last + 1, lengths[request])
            if begins < end:
                rows.append(torch.arange(begins, end) - first + starts[request])
                ends.append(end)
                requests.append(request)
    if rows:
        row_starts = torch.tensor([0, *map(len, rows)]).cumsum(0).int()
        seq_lens = torch.tensor(ends, dtype=torch.int32)
        schedule = _custom_ops.cpu_attn_get_scheduler_metadata(
            num_reqs=len(rows),
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            seq_lens=seq_lens,
            dtype=self.dtype,
            query_start_loc=row_starts,
            causal=False,
            sliding_window_size=self.window_size,
            isa=self.isa,
            enable_kv_split=envs.VLLM_CPU_ATTN_SPLIT_KV,
            dynamic_causal=None,
            kv_cache_dtype=self.kv_cache_dtype,
        )
        blocks = metadata.block_table[requests].contiguous()
        metadata.images = torch.cat(rows), row_starts, seq_lens, blocks, schedule
    return metadata


def _forward(
    self: Any,
    layer: Any,
    query: Any,
    key: Any,
    value: Any,
    kv_cache: Any,
    attn_metadata: Any,
    output: Any,
    output_scale: Any = None,
    output_block_scale: Any = None,
) -> Any:
    _plain["forward"](self, layer, query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale)
    if attn_metadata is None or attn_metadata.images is None:
        return output
    rows, row_starts, seq_lens, blocks, schedule = attn_metadata.images
    count, heads, size, _ = kv_cache.size()
    keys, values = kv_cache.view((count, heads, size * 2, -1)).chunk(2, dim=2)
    again = torch.empty_like(output[rows])
    _custom_ops.cpu_attention_with_kv_cache(
        query=query[rows].contiguous(),
        key_cache=keys,
        value_cache=values,
        output=again,
        query_start_loc=row_starts,
        seq_lens=seq_lens,
        scale=self.scale,
        causal=False,
        alibi_slopes=self.alibi_slopes,
        sliding_window=self.sliding_window,
        block_table=blocks,
        softcap=self.logits_soft_cap,
        scheduler_metadata=schedule,
        s_aux=self.sinks,
        dynamic_causal=None,
        k_scale=layer._k_scale_float,
        v_scale=layer._v_scale_float,
        kv_cache_dtype=self.kv_cache_dtype,
    )
    output[rows] = again
    return output
