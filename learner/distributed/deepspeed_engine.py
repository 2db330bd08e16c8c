"""DeepSpeed around the policy: process group, ZeRO, optimizer."""

import os
from typing import Any

import torch
import torch.distributed as dist

from vision_sr1.config import Config
from vision_sr1.runtime.ports import free_port


def init_process_group() -> torch.device:
    """Joins the ranks that torchrun started (one rank where it was not used) and returns this rank's device."""
    for variable, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(variable, value)
    os.environ.setdefault("MASTER_PORT", str(free_port()))
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    import deepspeed

    if on_gpu:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    else:
        # Compiled for a minute at first use, and of use only to ranks that share memory.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        device = torch.device("cpu")
    # Ranks agree on commands and failures with tensors on the CPU, whatever carries the gradients.
    deepspeed.init_distributed(dist_backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo", verbose=False)
    return device


def build_engine(config: Config, model: torch.nn.Module, *, learning_rate: float, weight_decay: float) -> Any:
    """The DeepSpeed engine that trains with AdamW the parameters of `model` that want gradients.

    Backward passes only accumulate; `step()` is the optimizer step, after any number of them.
    """
    import deepspeed

    model.train()  # transformers recomputes activations only in this mode, and loads in the other
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.999))
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=_deepspeed_config(config, config.learner.zero_stage)
    )
    return engine


def build_frozen_engine(
    config: Config, model: torch.nn.Module, device: torch.device, *, offload: bool
) -> torch.nn.Module:
    """A model that only predicts: sharded where the policy is or where it is to stay in CPU memory, else a replica."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if config.learner.zero_stage < 3 and not offload:
        return model.to(device).eval()
    import deepspeed

    settings = _deepspeed_config(config, 3)
    if offload:
        settings["zero_optimization"]["offload_param"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
    engine, *_ = deepspeed.initialize(model=model, config=settings)
    engine.eval()  # returns nothing, unlike a module's
    frozen: torch.nn.Module = engine
    return frozen


def _deepspeed_config(config: Config, stage: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.learner.max_grad_norm,
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_bucket_size": 50_000_000,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000,
        "wall_clock_breakdown": False,
    }


def is_first_of_node() -> bool:
    """Whether this rank is the first on its machine, which answers probes there."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def is_main() -> bool:
    """Whether this is rank 0."""
    return dist.get_rank() == 0
