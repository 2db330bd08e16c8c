"""Further arguments of vLLM, `actors.engine_args`: which there are, and which an actor cannot have."""

import ast
import difflib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_DECLARED = Path("engine") / "arg_utils.py"  # within vLLM's package
_CLASSES = ("EngineArgs", "AsyncEngineArgs")

_MODEL = "set model.path: the learner reads the same folder"
_PROCESSES = "set actors.count for more actors; one actor is one engine on one machine"
_POLICY = "it would change the policy that the learner computes ratios to; set the section sampling"
_LORA = "set learner.lora"
_ACTOR = "the actor sets it, and depends on it"
_STALE = "key-value blocks of earlier weights would be read again after an update"
_OFFLOAD = "vLLM cannot load new weights into offloaded layers; set actors.tensor_parallel_size"
_SPECULATION = "with it vLLM takes no logit_bias, by which vision tokens are never sampled"
_ONE_MODEL = "actor and learner would compute different models"

REFUSED = {
    "model": _MODEL,
    "model_weights": _MODEL,
    "tokenizer": _MODEL,
    "hf_config_path": _MODEL,
    "revision": _MODEL,
    "tokenizer_revision": _MODEL,
    "hf_token": "set HF_TOKEN in the environment: the configuration is saved in the run's folder",
    "hf_overrides": _ONE_MODEL,
    "model_class_overrides": _ONE_MODEL,
    "dtype": "set model.dtype",
    "max_model_len": "set model.max_model_len",
    "mm_processor_kwargs": "set model.min_pixels and model.max_pixels",
    "seed": "set run.seed",
    "max_num_seqs": "set actors.max_num_seqs",
    "tensor_parallel_size": "set actors.tensor_parallel_size",
    "gpu_memory_utilization": "set actors.gpu_memory_utilization",
    "enforce_eager": "set actors.enforce_eager",
    "enable_prefix_caching": "set actors.enable_prefix_caching",
    "weight_transfer_config": "set learner.weights.backend",
    "enable_lora": _LORA,
    "max_loras": _LORA,
    "max_lora_rank": _LORA,
    "lora_target_modules": _LORA,
    "default_mm_loras": _LORA,
    "enable_sleep_mode": "set actors.placement",
    "additional_config": _ACTOR,
    "distributed_executor_backend": _ACTOR,
    "worker_cls": _ACTOR,
    "worker_extension_cls": _ACTOR,
    "disable_chunked_mm_input": _ACTOR,
    "disable_log_stats": _ACTOR,
    "enable_log_requests": _ACTOR,
    "generation_config": _ACTOR,
    "limit_mm_per_prompt": _ACTOR,
    "logprobs_mode": _ACTOR,
    "scheduling_policy": _ACTOR,
    "skip_tokenizer_init": _ACTOR,
    "runner": _ACTOR,
    "convert": _ACTOR,
    "pooler_config": _ACTOR,
    "language_model_only": "prompts have images",
    "mm_encoder_only": "an actor generates text",
    "override_generation_config": _POLICY,
    "logits_processors": _POLICY,
    "watermark_config": _POLICY,
    "diffusion_config": _POLICY,
    "speculative_config": _SPECULATION,
    "spec_method": _SPECULATION,
    "spec_model": _SPECULATION,
    "spec_tokens": _SPECULATION,
    "nnodes": _PROCESSES,
    "node_rank": _PROCESSES,
    "master_addr": _PROCESSES,
    "master_port": _PROCESSES,
    "cpu_offload_gb": _OFFLOAD,
    "cpu_offload_params": _OFFLOAD,
    "offload_backend": _OFFLOAD,
    "offload_group_size": _OFFLOAD,
    "offload_num_in_group": _OFFLOAD,
    "offload_prefetch_step": _OFFLOAD,
    "offload_params": _OFFLOAD,
    "kv_transfer_config": _STALE,
    "ec_transfer_config": _STALE,
    "kv_offloading_size": _STALE,
    "kv_offloading_backend": _STALE,
}
_REFUSED_PREFIXES = {"data_parallel_": _PROCESSES, "_": "it is internal to vLLM"}

# What vLLM quantizes itself, of weights as the learner has them, and the bytes of a weight then; `quantization` also
# names formats of checkpoints. `online` leaves the format to further arguments.
ONLINE_QUANTIZATION = {
    "fp8_per_tensor": 1.0,
    "fp8_per_block": 1.0,
    "fp8_per_channel": 1.0,
    "int8_per_channel_weight_only": 1.0,
    "mxfp4": 0.5,
    "mxfp8": 1.0,
    "nvfp4_per_token": 0.5,
    "online": 1.0,
}

CACHE_BYTES = {  # of a number in the cache, by how kv_cache_dtype begins
    "fp8": 1.0,
    "int8": 1.0,
    "turboquant_k8v4": 0.75,
    "turboquant_": 0.5,
    "ultraquant_": 0.5,
    "nvfp4": 0.5,
    "int4": 0.5,
}


def check_engine_args(arguments: dict[str, Any]) -> None:
    """Compares names with those of the vLLM that is installed, where one is, and refuses what an actor cannot have.

    Raises:
        ValueError: a name is unknown or refused, or its value is; the message names the way out.
    """
    for name, value in arguments.items():
        if reason := _refusal(name):
            raise ValueError(f"{name} cannot be given here: {reason}")
        known = known_arguments()
        if known and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "names are those of vLLM's AsyncEngineArgs"
            raise ValueError(f"vLLM has no engine argument {name}: {hint}")
        if name == "quantization" and value is not None and value not in ONLINE_QUANTIZATION:
            raise ValueError(
                f"quantization {value!r} is a format of checkpoints, and the learner publishes weights that are not "
                f"quantized: choose one that vLLM makes itself: {', '.join(ONLINE_QUANTIZATION)}"
            )
        if name == "load_format" and value == "dummy":
            raise ValueError("load_format 'dummy' gives random weights: leave it out")
        if name in ("pipeline_parallel_size", "prefill_context_parallel_size") and not _is_count(value):
            raise ValueError(f"{name} must be a positive integer, not {value!r}")


def pipeline_stages(arguments: dict[str, Any]) -> int:
    """Into how many parts the layers are divided."""
    return int(arguments.get("pipeline_parallel_size", 1))


def processes_of(arguments: dict[str, Any]) -> int:
    """How many workers there are for each rank of tensor parallelism."""
    return pipeline_stages(arguments) * int(arguments.get("prefill_context_parallel_size", 1))


def weight_bytes(arguments: dict[str, Any]) -> float:
    """Of one weight of a linear layer of an actor on GPUs."""
    return ONLINE_QUANTIZATION.get(arguments.get("quantization") or "", 2.0)


def cache_bytes(arguments: dict[str, Any]) -> float:
    """Of one number in the key-value cache of an actor on GPUs."""
    dtype = str(arguments.get("kv_cache_dtype", "auto"))
    return next((size for prefix, size in CACHE_BYTES.items() if dtype.startswith(prefix)), 2.0)


@cache
def known_arguments() -> frozenset[str]:
    """Names of `AsyncEngineArgs`' fields, read from vLLM's source, since importing it takes 10 s; none without vLLM."""
    spec = find_spec("vllm")
    folders = spec.submodule_search_locations if spec is not None else None
    files = [file for folder in folders or [] if (file := Path(folder) / _DECLARED).is_file()]
    if not files:
        return frozenset()
    tree = ast.parse(files[0].read_text(encoding="utf-8"))
    return frozenset(
        statement.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name in _CLASSES
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    )


def _refusal(name: str) -> str | None:
    prefixed = (reason for prefix, reason in _REFUSED_PREFIXES.items() if name.startswith(prefix))
    return REFUSED.get(name) or next(prefixed, None)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
