"""The learner's memory on a device, given back and taken again: optimizer state, gradients and the reference.

The parameters stay: they are what is published. Views stay as they are: a tensor's storage is emptied and filled again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from learner.distributed.state_shards import Shard, make_moments, optimizer_tensors, own_shards
from vision_sr1.runtime.host_memory import empty_on_host, wait_for_copies


class Offload:
    """Tensors of an engine, and of models that only predict, in the host's memory while they are away.

    Args:
        frozen: models that only predict; their parameters are given back too, unless ZeRO-3 shards them.
    """

    def __init__(self, engine: Any, frozen: list[torch.nn.Module], device: torch.device) -> None:
        self._engine = engine
        self._frozen = frozen
        self._device = device
        self._host: dict[int, Tensor] = {}  # of each storage, its bytes; kept for the next time
        self._away: dict[int, torch.UntypedStorage] = {}
        self._shards: list[Shard] = []

    @property
    def bytes(self) -> int:
        """Given back now."""
        return sum(self._host[key].numel() for key in self._away)

    def release(self) -> None:
        """Copies all to the host and frees it on the device."""
        make_moments(self._engine)
        self._shards = list(own_shards(self._engine))  # of storages that are empty no views can be made
        for storage in self._storages():
            key = storage._cdata
            if key not in self._host or self._host[key].numel() != storage.nbytes():
                self._host[key] = empty_on_host((storage.nbytes(),), torch.uint8, self._device)
            self._host[key].untyped_storage().copy_(storage, non_blocking=True)
            storage.resize_(0)
            self._away[key] = storage
        wait_for_copies(self._device)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def restore(self) -> None:
        """Brings all back to where it was."""
        for key, storage in self._away.items():
            storage.resize_(self._host[key].numel())
            storage.copy_(self._host[key].untyped_storage(), non_blocking=True)
        wait_for_copies(self._device)
        self._away, self._shards = {}, []

    def shards(self) -> Iterable[Shard]:
        """This rank's part of a checkpoint."""
        if not self._away:
            return own_shards(self._engine)
        return (replace(shard, values=self.read(shard.values)) for shard in self._shards)

    def read(self, tensor: Tensor) -> Tensor:
        """The tensor, or a view of its copy in the host's memory while it is away."""
        key = tensor.untyped_storage()._cdata
        if key not in self._away:
            return tensor
        empty = torch.empty(0, dtype=tensor.dtype)
        return empty.set_(self._host[key].untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())

    def _storages(self) -> Iterator[torch.UntypedStorage]:
        """Each once, without those of the parameters that are published and of what is elsewhere already."""
        published = chain(*(_held(parameter) for parameter in self._engine.module.parameters()))
        kept = {tensor.untyped_storage()._cdata for tensor in published}
        of_frozen = (p for model in self._frozen for p in model.parameters() if not hasattr(p, "ds_tensor"))
        for tensor in chain(optimizer_tensors(self._engine), of_frozen):
            storage = tensor.untyped_storage()
            is_here = tensor.device.type == self._device.type and storage.nbytes() > 0
            if is_here and storage._cdata not in kept and storage.resizable():  # memory-mapped files are not
                kept.add(storage._cdata)
                yield storage


def _held(parameter: Any) -> list[Tensor]:
    """What this rank has of a parameter, which ZeRO-3 may shard."""
    return [parameter, parameter.ds_tensor] if hasattr(parameter, "ds_tensor") else [parameter]
