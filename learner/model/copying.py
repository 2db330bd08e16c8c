"""Copies from the host's memory to a device."""

import torch
from jaxtyping import Shaped
from torch import Tensor


def to_device(tensor: Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """The tensor on the device; itself where it is there already.

    A copy to a GPU goes from pinned memory, so that neither this process nor the GPU waits for the other. torch keeps
    that memory until the copy is done.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
