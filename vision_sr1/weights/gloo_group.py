"""A gloo process group over processes of different launches, one per epoch, and the buckets that travel over it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from jaxtyping import UInt8
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta

ALIGNMENT = 16  # bytes; every parameter starts at a multiple, so that any dtype can view its bytes


@dataclass(frozen=True)
class Rendezvous:
    """Where and as which member to join a transfer group."""

    master_address: str
    master_port: int
    epoch: int
    rank: int
    world_size: int
    timeout_s: float


def join_group(rendezvous: Rendezvous, store: dist.TCPStore | None = None) -> dist.ProcessGroupGloo:
    """Joins the group of the rendezvous' epoch; returns when all members are there.

    Args:
        rendezvous: rank 0 is the trainer.
        store: the server's end of the rendezvous on the trainer; None connects to it.

    Raises:
        RuntimeError: not all members came within the timeout.
    """
    timeout = timedelta(seconds=rendezvous.timeout_s)
    if store is None:
        store = dist.TCPStore(rendezvous.master_address, rendezvous.master_port, is_master=False, timeout=timeout)
    options = dist.ProcessGroupGloo._Options()
    options._timeout = timeout
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=rendezvous.master_address)]
    prefixed = dist.PrefixStore(f"epoch{rendezvous.epoch}", store)
    return dist.ProcessGroupGloo(prefixed, rendezvous.rank, rendezvous.world_size, options)


def broadcast(group: dist.ProcessGroupGloo, buffer: UInt8[Tensor, " bytes"]) -> None:
    """Sends (rank 0) or receives (others) one buffer; raises RuntimeError at the group's timeout."""
    options = dist.BroadcastOptions()
    options.rootRank = 0
    group.broadcast([buffer], options).wait()


def buckets(parameters: Sequence[ParamMeta], bucket_bytes: int) -> Iterator[list[ParamMeta]]:
    """Consecutive parameters of together at most `bucket_bytes`; a larger one travels alone.

    Both sides cut the same list the same way.
    """
    bucket: list[ParamMeta] = []
    size = 0
    for parameter in parameters:
        length = padded_bytes(parameter)
        if bucket and size + length > bucket_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += length
    if bucket:
        yield bucket


def padded_bytes(parameter: ParamMeta) -> int:
    """Bytes of a parameter in its bucket."""
    size = math.prod(parameter.shape) * parameter.dtype.itemsize
    return -(-size // ALIGNMENT) * ALIGNMENT


def views(buffer: UInt8[Tensor, " bytes"], bucket: Sequence[ParamMeta]) -> Iterator[tuple[str, Tensor]]:
    """The bucket's parameters as views of its buffer."""
    position = 0
    for parameter in bucket:
        size = math.prod(parameter.shape) * parameter.dtype.itemsize
        yield parameter.name, buffer[position : position + size].view(parameter.dtype).view(parameter.shape)
        position += padded_bytes(parameter)


def empty_buffer(bucket: Sequence[ParamMeta]) -> UInt8[Tensor, " bytes"]:
    """A buffer that holds the bucket."""
    return torch.empty(sum(map(padded_bytes, bucket)), dtype=torch.uint8)
