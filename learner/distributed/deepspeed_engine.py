"""DeepSpeed around the policy: ZeRO and optimizer."""

from typing import Any

import structlog
import torch

from learner.distributed.ranks import is_main
from vision_sr1.config import Config, Placement
from vision_sr1.runtime.gpus import FLOAT32_IS_SLOW

log = structlog.get_logger()

SHARDED_NUMEL = 10_000  # elements from which on ZeRO-3 divides a parameter: matrices, and no norms nor biases
PREFETCHED_NUMEL = 200_000_000  # elements that ZeRO-3 gathers ahead: about a layer of 7B, on a stream of its own


def build_engine(config: Config, model: torch.nn.Module, *, learning_rate: float, weight_decay: float) -> Any:
    """The DeepSpeed engine that trains with AdamW the parameters of `model` that want gradients.

    Backward passes only accumulate; `step()` is the optimizer step, after any number of them. AdamW is torch's fused
    one, which needs no temporary copies of what it updates, and no compiler as DeepSpeed's own does.
    """
    import deepspeed

    model.train()  # transformers recomputes activations only in this mode, and loads in the other
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    warn_of_float32(config, trainable[0].device)
    optimizer = torch.optim.AdamW(
        trainable, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.999), fused=True
    )
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=_deepspeed_config(config, config.learner.zero_stage)
    )
    return engine


def warn_of_float32(config: Config, device: torch.device) -> None:
    """Logs on rank 0 that a GPU is to compute in float32."""
    if config.model.dtype == "float32" and device.type == "cuda" and is_main():
        log.warning("float32_on_cuda", message="The learner computes in float32 on CUDA", advice=FLOAT32_IS_SLOW)


def build_frozen_engine(
    config: Config, model: torch.nn.Module, device: torch.device, placement: Placement
) -> torch.nn.Module:
    """A model that only predicts, with its weights where `ReferenceConfig.placement` says."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if placement == "policy" and config.learner.zero_stage < 3:
        return model.to(device).eval()
    import deepspeed

    settings = _deepspeed_config(config, 3)
    if placement == "cpu":
        settings["zero_optimization"]["offload_param"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
    engine, *_ = deepspeed.initialize(model=model, config=settings)
    engine.eval()  # returns nothing, unlike a module's
    frozen: torch.nn.Module = engine
    return frozen


def _deepspeed_config(config: Config, stage: int) -> dict[str, Any]:
    """DeepSpeed's settings.

    Gradients are summed in float32, over micro-batches and over ranks: in bfloat16 a sum of many loses small terms.
    Stage 0 cannot in bfloat16. Stage 1 then has DeepSpeed's BF16_Optimizer, which keeps a whole float32 gradient on
    every rank; with `immediate_grad_update` it frees those of bfloat16 parameter by parameter.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.learner.max_grad_norm,
        "bf16": {"enabled": config.model.dtype == "bfloat16", "immediate_grad_update": True},
        "data_types": {"grad_accum_dtype": "fp32" if stage else None},
        "communication_data_type": "fp32",
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": stage >= 2,  # reduces a bucket, and gathers weights, beside what is computed
            "contiguous_gradients": True,
            "reduce_bucket_size": 50_000_000,
            "stage3_param_persistence_threshold": SHARDED_NUMEL,
            "stage3_prefetch_bucket_size": PREFETCHED_NUMEL,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000,
        "wall_clock_breakdown": False,
    }
