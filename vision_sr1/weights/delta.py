"""Sending only what has changed since the last version.

At the learning rates of RL most elements of a bfloat16 parameter keep their stored value from one version to the next.
"""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Integer, Shaped
from torch import Tensor

from vision_sr1.runtime.host_memory import empty_on_host, wait_for_copies
from vision_sr1.weights.buckets import Part, Patch

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class SentWeights:
    """The weights that the receivers hold, as a trainer remembers them (one copy, in CPU memory).

    Parameters may be on a device: each is copied from there at most once, or compared there with what is remembered.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def keep(self, name: str, tensor: Tensor) -> Tensor:
        """Remembers a whole parameter, in the memory of the version before; what is remembered, once it is copied."""
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = empty_on_host(tuple(tensor.shape), tensor.dtype, tensor.device)
        return held.copy_(tensor.detach(), non_blocking=True)

    def remember(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[Part, Tensor]]:
        """Whole parameters in CPU memory, remembered as they pass."""
        for name, tensor in weights:
            held = self.keep(name, tensor)
            wait_for_copies(tensor.device)
            yield Part(name, tensor.dtype, tuple(tensor.shape)), held

    def changes(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[Part, Tensor | Patch]]:
        """What is new of each parameter: changed elements, or all of it where that is less."""
        for part, patch in self.patches(weights):
            whole = Part(part.name, part.dtype, part.shape)
            yield (part, patch) if part.bytes < whole.bytes else (whole, self._held[part.name])

    def patches(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[Part, Patch]]:
        """The changed elements of each parameter that has any, on the parameter's device."""
        for name, tensor in weights:
            held, new = self._held[name], tensor.detach().contiguous()
            changed = (_bits(new) != _bits(held.to(new.device, non_blocking=True))).nonzero().squeeze(1)
            if not len(changed):
                continue
            values = new.view(-1)[changed]
            held.view(-1)[changed.to(held.device)] = values.to(held.device)
            yield Part(name, new.dtype, tuple(new.shape), len(changed)), Patch(changed.int(), values)


def patched(held: Shaped[Tensor, "*shape"], patch: Patch) -> Shaped[Tensor, "*shape"]:
    """A copy of the parameter with the patch's elements in place."""
    result = held.clone()
    result.view(-1)[patch.indices.long()] = patch.values
    return result


def _bits(tensor: Tensor) -> Integer[Tensor, " elements"]:
    """Bit patterns, flattened: neither NaN nor the sign of zero is lost in a comparison."""
    return tensor.view(-1).view(_BITS[tensor.dtype.itemsize])
