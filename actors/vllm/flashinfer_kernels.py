"""FlashInfer's kernels are compiled when they are first used; where that is impossible, vLLM's own take their place."""

import os

from vllm.utils.flashinfer import has_flashinfer


def arguments_without_compiler() -> dict[str, str]:
    """Engine arguments with which vLLM uses none of FlashInfer's kernels, where it can neither compile nor load them.

    vLLM 0.32 asks whether it can (`has_flashinfer`: nvcc and ninja, or compiled kernels from a package) before it uses
    most of them. It does not before it samples, sums over the ranks of an actor, or prefills gated delta nets on GPUs
    of capability 9.0: an actor would end at its first batch. What the environment sets already is kept.
    """
    if has_flashinfer():
        return {}
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    os.environ.setdefault("VLLM_ALLREDUCE_USE_FLASHINFER", "0")
    return {"gdn_prefill_backend": "triton"}
