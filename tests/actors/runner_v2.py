"""The sampler of vLLM's model runner V2 on CPUs, its kernels under Triton's interpreter.

`python runner_v2.py REQUESTS`: REQUESTS is a JSON list of arguments of `SamplingParams`. Prints a JSON object: the
logits of all requests, and the tokens and log-probabilities by the sampler as vLLM has it (`nucleus`) and as actors
have it (`vocabulary`). The cut to the nucleus is vLLM's in PyTorch, since the interpreter cannot run its kernel. It
changes the process that it runs in.
"""

import json
import os
import sys
from types import SimpleNamespace
from typing import Any

VOCABULARY = 517  # no multiple of a kernel's block
PROMPT = [1, 2, 3]


def interpret() -> None:
    """Has vLLM take Triton for usable; before most of it is imported."""
    os.environ["TRITON_INTERPRET"] = "1"

    from triton.backends import backends

    backends["nvidia"].driver.is_active = staticmethod(lambda: True)

    from vllm import platforms

    assert platforms.current_platform.is_cpu()  # found before versions match no longer
    platforms.vllm_version_matches_substr = lambda substring: False  # "cpu", for which Triton needs another driver


def sampled(requests: list[dict[str, Any]], logits: Any, *, whole_vocabulary: bool) -> dict[str, list[float]]:
    """One step of all requests."""
    import torch
    from vllm import SamplingParams
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch
    from vllm.v1.worker.gpu.sample import sampler as sampler_module
    from vllm.v1.worker.gpu.states import RequestState

    from actors.vllm.workers import report_whole_vocabulary

    sampler_module.apply_top_k_top_p = apply_top_k_top_p_pytorch
    count = len(requests)
    states = RequestState(count, 64, 64, 1, VOCABULARY, torch.device("cpu"))
    vllm_config: Any = SimpleNamespace(reasoning_config=None, speculative_config=None)
    sampler = sampler_module.Sampler(
        vllm_config, count, VOCABULARY, torch.device("cpu"), states, logprobs_mode="processed_logprobs"
    )
    if whole_vocabulary:
        report_whole_vocabulary(SimpleNamespace(sampler=sampler))
    for index, arguments in enumerate(requests):
        bias = {int(token): value for token, value in arguments["logit_bias"].items()}
        states.add_request(str(index), len(PROMPT), PROMPT, 0, 8)
        row = states.req_id_to_index[str(index)]
        sampler.add_request(row, SamplingParams(**arguments | {"logit_bias": bias}, logprobs=0, max_tokens=8))
    states.apply_staged_writes()
    sampler.apply_staged_writes()
    rows = torch.tensor([states.req_id_to_index[str(index)] for index in range(count)], dtype=torch.int32)
    lengths = torch.full((count,), len(PROMPT), dtype=torch.int32)
    batch: Any = SimpleNamespace(
        num_reqs=count,
        idx_mapping=rows,
        idx_mapping_np=rows.numpy(),
        expanded_idx_mapping=rows,
        expanded_local_pos=torch.zeros(count, dtype=torch.int32),
        cu_num_logits=torch.arange(count + 1, dtype=torch.int32),
        cu_num_logits_np=torch.arange(count + 1).numpy(),
        logits_indices=torch.arange(count),
        positions=lengths.long() - 1,
        input_ids=torch.full((count,), PROMPT[-1], dtype=torch.int32),
        seq_lens=lengths,
        seq_lens_cpu_upper_bound=lengths,
    )
    output = sampler(logits.clone(), batch)
    assert output.logprobs_tensors is not None
    return {
        "tokens": output.sampled_token_ids[:, 0].tolist(),
        "logprobs": output.logprobs_tensors.logprobs[:, 0].tolist(),
    }


if __name__ == "__main__":
    interpret()
    import torch

    given = json.loads(sys.argv[1])
    spread = 3 * torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(0))
    all_logits = spread.repeat(len(given), 1).to(torch.bfloat16)
    found = {
        "logits": spread[0].to(torch.bfloat16).tolist(),
        "nucleus": sampled(given, all_logits, whole_vocabulary=False),
        "vocabulary": sampled(given, all_logits, whole_vocabulary=True),
    }
    sys.stdout.write(json.dumps(found) + "\n")
