"""vLLM's engine arguments: those that the configuration and the device decide."""

import os
from typing import Any

from pydantic import ValidationError
from vllm.config import VllmConfig
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.usage.usage_lib import UsageContext
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from actors.vllm.adapter import room_for
from actors.vllm.flashinfer_kernels import arguments_without_compiler
from actors.vllm.workers import SHARING
from vision_sr1.config import Config, ConfigError
from vision_sr1.families import family_of_model
from vision_sr1.run_folder.names import DEVICES

LEARNING_TIMEOUT_S = 3600.0  # an actor that starts while a learner learns waits so long for the device
WORKERS = {"cpu": "workers.CPUTrainingWorker", "cuda": "workers.TrainingWorker"}
WHOLE_IMAGES_WORKER = "whole_images.WholeImagesWorker"
ENGINES = {"nccl": "bounded_nccl", "gloo": "gloo"}  # vLLM's names of what `vision_sr1.weights` registers

USAGE = UsageContext.OPENAI_API_SERVER  # decides how many tokens a batch has: on GPUs of 70 GiB 8,192, not 2,048


def resolve_device(requested: str) -> str:
    """`cpu` or `cuda`; `auto` takes cuda where there is one."""
    import torch

    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return requested


def engine_config(config: Config, device: str) -> VllmConfig:
    """vLLM's whole configuration, with a server's defaults.

    Raises:
        ConfigError: vLLM refuses it.
    """
    try:
        return AsyncEngineArgs(**engine_arguments(config, device)).create_engine_config(USAGE)
    except (ValueError, TypeError, NotImplementedError) as error:
        mistakes = [one["msg"] for one in error.errors()] if isinstance(error, ValidationError) else [str(error)]
        given = config.actors.engine_args
        where = f"actors.engine_args ({given})" if given else "the sections model and actors"
        raise ConfigError(f"vLLM refuses {where}: {'; '.join(mistakes)}") from error


def engine_arguments(config: Config, device: str) -> dict[str, Any]:
    """vLLM's engine arguments, for `AsyncEngineArgs` or `LLM`; sets what vLLM reads from the environment."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    if device == "cpu":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(config.actors.kv_cache_gib))))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ["OMP_NUM_THREADS"] = str(config.actors.cpu_threads)
        # The few functions that vLLM compiles all the same ask for a C++ compiler, which not every machine has.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    family = family_of_model(config.model.path)
    worker = WHOLE_IMAGES_WORKER if device == "cpu" and family.sees_whole_images else WORKERS[device]
    executor = None
    if device == "cpu" and config.actors.world_size == 1:
        # In the engine's process: vLLM would start a worker and keep a second core busy in waiting for its replies.
        executor = UniProcExecutor
    adapters = {}
    if config.learner.lora.goes_to_actors:
        adapters = {"enable_lora": True, "max_loras": 1, "max_lora_rank": room_for(config.learner.lora.rank)}
    sharing: dict[str, Any] = {}
    if config.actors.placement == "shared":
        turns = {
            "folder": str(config.services_path / DEVICES),
            "start_timeout_s": LEARNING_TIMEOUT_S,
            "wake_timeout_s": config.learner.weights.sync_timeout_s,
        }
        sharing = {"additional_config": {SHARING: turns}, "enable_sleep_mode": device == "cuda"}
    return {
        **(arguments_without_compiler() if device == "cuda" else {}),
        **config.actors.engine_args,
        **adapters,
        **sharing,
        "distributed_executor_backend": executor,
        "worker_cls": f"actors.vllm.{worker}",
        "disable_chunked_mm_input": family.sees_whole_images,
        "worker_extension_cls": "actors.vllm.worker_extension.WeightReports",
        "model": config.model.path,
        "dtype": config.model.dtype,
        "max_model_len": config.model.max_model_len,
        "max_num_seqs": config.actors.max_num_seqs,
        "tensor_parallel_size": config.actors.tensor_parallel_size,
        "gpu_memory_utilization": config.actors.gpu_memory_utilization,
        "enforce_eager": config.actors.enforce_eager or device == "cpu",
        "enable_prefix_caching": config.actors.enable_prefix_caching,
        "mm_processor_kwargs": family.processor_settings(config.model),
        "limit_mm_per_prompt": {"image": 16, "video": 0},
        "scheduling_policy": "priority",
        "logprobs_mode": "processed_logprobs",
        "weight_transfer_config": WeightTransferConfig(backend=ENGINES[transfer_backend(config, device)]),
        "seed": config.run.seed,
        "generation_config": "vllm",
        "disable_log_stats": True,
    }


def transfer_backend(config: Config, device: str) -> str:
    """`nccl` or `gloo`."""
    if config.learner.weights.backend == "auto":
        return "nccl" if device == "cuda" and config.actors.placement == "own" else "gloo"
    return config.learner.weights.backend


def weight_transfer(config: Config, device: str) -> str:
    """How an actor takes weights: `adapter` beside the calls of an update, otherwise by `transfer_backend`."""
    return "adapter" if config.learner.lora.goes_to_actors else transfer_backend(config, device)
