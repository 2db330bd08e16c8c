"""Host memory that exchanges data with a device: pinned where that is a GPU, so that copies run at the link's speed and
neither side waits for the other."""

import torch
from jaxtyping import Shaped
from torch import Tensor

PIECE_MIB = 64  # of pinned memory, up to which it is used again


def current_device() -> torch.device:
    """The accelerator that this process uses; the CPU where there is none."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def empty_on_host(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Shaped[Tensor, "..."]:
    """Memory whose content `device` is to get or to give, uninitialized."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


def to_device(tensor: Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """The tensor on the device; itself where it is there already. torch keeps pinned memory until its copy is done.

    A large tensor goes in pieces: to pin memory anew takes time.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    pieces = tensor.reshape(-1).split(PIECE_MIB * 2**20 // tensor.element_size())
    there = [piece.pin_memory().to(device, non_blocking=True) for piece in pieces]
    return (torch.cat(there) if len(there) > 1 else there[0]).view(tensor.shape)


def wait_for_copies(device: torch.device) -> None:
    """Returns when what was copied from a GPU without waiting is in the host's memory."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
