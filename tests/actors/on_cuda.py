"""vLLM's configuration of an actor on a GPU of capability 9.0, where there is none: `python on_cuda.py YAML OVERRIDES`.

NVML, Triton's driver and compiled extensions are stood in for; the platform and all decisions are vLLM's own. It
changes the process that it runs in. OVERRIDES is a JSON list of lists; each gives one line of JSON.
"""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

GPUS = 8


def stand_in() -> None:
    """Has vLLM find 8 GPUs of 80 GiB; before any other part of it is imported."""
    for extension in ("_C_stable_libtorch", "vllm_flash_attn._vllm_fa2_C", "vllm_flash_attn._vllm_fa3_C"):
        sys.modules[f"vllm.{extension}"] = ModuleType(f"vllm.{extension}")

    from triton.backends import backends

    backends["nvidia"].driver.is_active = staticmethod(lambda: True)

    from vllm import platforms
    from vllm.third_party import pynvml

    answers: dict[str, Any] = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetCount": GPUS,
        "nvmlDeviceGetHandleByIndex": 0,
        "nvmlDeviceGetCudaComputeCapability": (9, 0),
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 * 2**30),
        "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
        "nvmlDeviceGetPciInfo": SimpleNamespace(busId="0"),
    }
    for name, answer in answers.items():
        setattr(pynvml, name, lambda *arguments, answer=answer: answer)
    platforms.vllm_version_matches_substr = lambda substring: False  # "cpu", for which Triton needs another driver

    from vllm.platforms.cuda import NvmlCudaPlatform

    NvmlCudaPlatform.device_count = classmethod(lambda cls: GPUS)  # asks torch, which has no CUDA here
    NvmlCudaPlatform.is_cumem_allocator_available = lambda self: True  # a compiled extension: memory for sleep
    platforms._current_platform = NvmlCudaPlatform()

    from vllm import _custom_ops

    for name in dir(_custom_ops):
        if name.startswith("cutlass_") and "supports" in name:
            setattr(_custom_ops, name, lambda *arguments: True)


def decisions(file: Path, overrides: list[str]) -> dict[str, Any]:
    """What vLLM makes of a run's file, or the message by which it is refused."""
    from vllm.config import set_current_vllm_config
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.fa_utils import get_flash_attn_version
    from vllm.v1.attention.selector import get_attn_backend

    from actors.vllm.engine_arguments import engine_config
    from vision_sr1.config import ConfigError, load_config

    try:
        vllm = engine_config(load_config(file, overrides, environment={}).config, "cuda")
    except ConfigError as error:
        return {"refused": str(error)}
    assert vllm.weight_transfer_config is not None
    model, vision = vllm.model_config, vllm.model_config.hf_config.vision_config
    with set_current_vllm_config(vllm):
        attention = get_attn_backend(model.get_head_size(), model.dtype, vllm.cache_config.cache_dtype)
        version = get_flash_attn_version()
        vision_attention = current_platform.get_vit_attn_backend(vision.hidden_size // vision.num_heads, model.dtype)
    scheduler, compilation = vllm.scheduler_config, vllm.compilation_config
    return {
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "max_num_seqs": scheduler.max_num_seqs,
        "chunked_prefill": scheduler.enable_chunked_prefill,
        "async_scheduling": scheduler.async_scheduling,
        "policy": scheduler.policy,
        "runner_v2": vllm.use_v2_model_runner,
        "graphs": compilation.cudagraph_mode.name,
        "largest_graph": compilation.max_cudagraph_capture_size,
        "prefix_caching": vllm.cache_config.enable_prefix_caching,
        "cache_dtype": vllm.cache_config.cache_dtype,
        "quantization": model.quantization,
        "logprobs": model.logprobs_mode,
        "weight_transfer": vllm.weight_transfer_config.backend,
        "worker": vllm.parallel_config.worker_cls,
        "world_size": vllm.parallel_config.world_size,
        "executor": vllm.parallel_config.distributed_executor_backend,
        "sleep_mode": model.enable_sleep_mode,
        "adapter_rank": vllm.lora_config.max_lora_rank if vllm.lora_config else None,
        "attention": attention.get_name(),
        "flash_attention": version,
        "vision_attention": vision_attention.name,
    }


if __name__ == "__main__":
    stand_in()
    for given in json.loads(sys.argv[2]):
        sys.stdout.write(json.dumps(decisions(Path(sys.argv[1]), given)) + "\n")
