"""Parameters packed into buckets: what one broadcast carries, and how both sides find their way in it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int32, Shaped, UInt8
from torch import Tensor

from vision_sr1.runtime.host_memory import empty_on_host, wait_for_copies

ALIGNMENT = 16  # bytes; everything starts at a multiple, so that any dtype can view its bytes


@dataclass(frozen=True)
class Patch:
    """The elements of a parameter that have changed, by their positions in the flattened tensor."""

    indices: Int32[Tensor, " changed"]
    values: Shaped[Tensor, " changed"]


@dataclass(frozen=True)
class Part:
    """What a bucket says of one parameter.

    Attributes:
        shape: of the whole parameter.
        changed: how many elements travel, as a `Patch`; None: all of them.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    changed: int | None = None

    @property
    def bytes(self) -> int:
        """In the bucket, padding included."""
        return sum(_padded(length) for length in self._lengths)

    @property
    def _lengths(self) -> tuple[int, ...]:
        if self.changed is None:
            return (math.prod(self.shape) * self.dtype.itemsize,)
        return (self.changed * torch.int32.itemsize, self.changed * self.dtype.itemsize)

    def view(self, buffer: UInt8[Tensor, " bytes"]) -> Tensor | Patch:
        """The part that begins where the buffer does, as a view of it."""
        first, *rest = self._lengths
        if self.changed is None:
            return buffer[:first].view(self.dtype).view(self.shape)
        start = _padded(first)
        return Patch(buffer[:first].view(torch.int32), buffer[start : start + rest[0]].view(self.dtype))


def views(parts: Sequence[Part], buffer: UInt8[Tensor, " bytes"]) -> Iterator[tuple[str, Tensor | Patch]]:
    """The bucket's contents as views of its buffer."""
    for part in parts:
        yield part.name, part.view(buffer)
        buffer = buffer[part.bytes :]


def empty_buffer(parts: Sequence[Part], device: torch.device) -> UInt8[Tensor, " bytes"]:
    """A buffer in the host's memory that holds the parts, which `device` is to get."""
    return empty_on_host((sum(part.bytes for part in parts),), torch.uint8, device)


class Packer:
    """Packs consecutive parts of together at most `bucket_bytes` into one buffer; a larger one travels alone.

    Two buffers take turns, so that one can be filled while the other is on the wire. They are kept from one use to the
    next.

    Args:
        device: that has the weights; their copies in the host's memory may be given as well.
    """

    def __init__(self, bucket_bytes: int, device: torch.device) -> None:
        self._bucket_bytes = bucket_bytes
        self._device = device
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * 2

    def pack(
        self, contents: Iterable[tuple[Part, Tensor | Patch]]
    ) -> Iterator[tuple[list[Part], UInt8[Tensor, " bytes"]]]:
        """Buckets, each to be used before the next but one is asked for.

        What is on a GPU is copied in the order of its current stream; the bucket has arrived when it is yielded.
        """
        parts: list[Part] = []
        used = 0
        for part, content in contents:
            if parts and used + part.bytes > self._bucket_bytes:
                wait_for_copies(self._device)
                yield parts, self._buffers[0][:used]
                self._buffers.reverse()
                parts, used = [], 0
            if used + part.bytes > len(self._buffers[0]):  # it is empty, or too small for one that travels alone
                self._buffers[0] = empty_on_host((max(self._bucket_bytes, part.bytes),), torch.uint8, self._device)
            _fill(part.view(self._buffers[0][used:]), content)
            parts.append(part)
            used += part.bytes
        if parts:
            wait_for_copies(self._device)
            yield parts, self._buffers[0][:used]
            self._buffers.reverse()


def _fill(view: Tensor | Patch, content: Tensor | Patch) -> None:
    if isinstance(view, Patch):
        assert isinstance(content, Patch)
        view.indices.copy_(content.indices, non_blocking=True)
        view.values.copy_(content.values, non_blocking=True)
    else:
        assert isinstance(content, Tensor)
        view.copy_(content, non_blocking=True)


def _padded(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT
