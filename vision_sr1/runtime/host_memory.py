"""Host memory that exchanges data with a device: pinned where that is a GPU, so that copies run at the link's speed and
neither side waits for the other."""

import os

import torch
from jaxtyping import Shaped
from torch import Tensor

ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
EXACT_ABOVE_64_MIB = "pinned_max_round_threshold_mb:64"  # otherwise each piece takes the next power of two


def allocator_is_configured() -> bool:
    """Whether the environment has settings of CUDA's allocator, which stay as they are."""
    return any(variable in os.environ for variable in ALLOCATOR_SETTINGS)


def empty_on_host(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Shaped[Tensor, "..."]:
    """Memory whose content `device` is to get or to give, uninitialized."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


def to_device(tensor: Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """The tensor on the device; itself where it is there already. torch keeps pinned memory until its copy is done."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def wait_for_copies(device: torch.device) -> None:
    """Returns when what was copied from a GPU without waiting is in the host's memory."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
