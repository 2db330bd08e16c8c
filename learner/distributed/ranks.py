"""The ranks that torchrun starts: their process group, and which of them this process is."""

import os

import torch
import torch.distributed as dist

from vision_sr1.runtime.host_memory import PIECE_MIB
from vision_sr1.runtime.ports import free_port

ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
ALLOCATOR = f"expandable_segments:True,pinned_max_round_threshold_mb:{PIECE_MIB},pinned_max_cached_size_mb:{PIECE_MIB}"


def init_process_group() -> torch.device:
    """Joins the ranks that torchrun started (one rank where it was not used) and returns this rank's device."""
    for variable, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(variable, value)
    os.environ.setdefault("MASTER_PORT", str(free_port()))
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or "1"))
    import deepspeed

    if on_gpu:
        configure_allocator()
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    else:
        # Compiled for a minute at first use, and of use only to ranks that share memory.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        device = torch.device("cpu")
    # Ranks agree on commands and failures with tensors on the CPU, whatever carries the gradients.
    deepspeed.init_distributed(dist_backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo", verbose=False)
    return device


def configure_allocator() -> None:
    """Has CUDA's allocator grow its segments, so that memory which packs of other lengths left is used again, and take
    pinned memory of the host, in pieces of more than 64 MiB, no larger than it is asked for: not of a power of two.
    Such pieces must not be kept for others: torch 2.13 gives a piece to whoever asks for the same power of two, even
    for more than it has.

    Settings in the environment stay as they are. This process only: actors that sleep (vLLM's CuMemAllocator), and
    tensors that processes share (CUDA IPC), need segments of a fixed size.
    """
    if not any(variable in os.environ for variable in ALLOCATOR_SETTINGS):
        torch._C._accelerator_setAllocatorSettings(ALLOCATOR)


def is_first_of_node() -> bool:
    """Whether this rank is the first on its machine, which answers probes there."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def is_main() -> bool:
    """Whether this is rank 0."""
    return dist.get_rank() == 0
