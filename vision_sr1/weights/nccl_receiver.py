"""The actor's side of the `nccl` backend: vLLM's engine, whose waits have an end.

Parameters are loaded as they come. One that breaks off leaves the model in between, and the actor with no version.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
from vllm.distributed.weight_transfer.nccl_common import worker_init_process_group
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLWeightTransferEngine,
    NCCLWeightTransferInitInfo,
    NCCLWeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.checkpoint_weight_patch import (
    CheckpointWeightPatch,
    load_checkpoint_weight_patches,
)

from vision_sr1.weights.digests import digest
from vision_sr1.weights.failures import keeps_failure
from vision_sr1.weights.files import read_weights
from vision_sr1.weights.transfer_group import Rendezvous, TransferGroup


@dataclass(kw_only=True)
class BoundedNcclInitInfo(NCCLWeightTransferInitInfo):
    """Where the trainer's store is, beside the id of its communicator."""

    store_address: str
    store_port: int
    group_number: int
    timeout_s: float


@dataclass
class BoundedNcclUpdateInfo(NCCLWeightTransferUpdateInfo):
    """All parameters, or some changes.

    Attributes:
        changed: elements that travel of each parameter; empty: all of them, of every one.
        folder: in place of a transfer: read the safetensors files there.
    """

    changed: list[int] = field(default_factory=list)
    folder: str = ""


class BoundedNcclWeightTransferEngine(NCCLWeightTransferEngine):
    """Receives by NCCL; a transfer that does not come through is aborted with its communicator.

    Attributes:
        failure: what has gone wrong; raised below, but kept where vLLM calls.
    """

    init_info_cls = BoundedNcclInitInfo
    update_info_cls = BoundedNcclUpdateInfo
    failure = ""
    _transfer_group: TransferGroup | None = None
    _reloading = False

    @keeps_failure
    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        """Joins the transfer group, leaving any earlier one.

        Raises:
            TransferError: not all members came in time.
        """
        assert isinstance(init_info, BoundedNcclInitInfo)
        self.shutdown()
        rank = init_info.rank_offset + self.parallel_config.rank
        self._transfer_group = TransferGroup(
            Rendezvous(
                init_info.store_address,
                init_info.store_port,
                init_info.group_number,
                rank,
                init_info.world_size,
                init_info.timeout_s,
            )
        )
        self._transfer_group.meet()
        self.model_update_group = self._transfer_group.run(
            partial(self._open_communicator, init_info, self._transfer_group)
        )
        self.packed = init_info.packed
        self.packed_buffer_size_bytes = init_info.packed_buffer_size_bytes
        self.packed_num_buffers = init_info.packed_num_buffers

    def start_weight_update(self) -> None:
        """Nothing yet: how to begin depends on what comes."""
        self._reloading = False

    @keeps_failure
    def update_weights(self, update_info: dict[str, Any]) -> None:
        """See `receive_weights`."""
        super().update_weights(update_info)

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        """Receives and loads.

        Raises:
            TransferError: not all came in time, or a member broke the group off.
        """
        assert isinstance(update_info, BoundedNcclUpdateInfo)
        if update_info.folder:
            self._reload()
            self.model.load_weights(read_weights(update_info.folder))
            return
        if not update_info.names:
            return
        if self._transfer_group is None:
            raise RuntimeError("init_transfer_engine() must come before receive_weights()")
        with self._transfer_group.bounded():
            if update_info.changed:
                self._receive_changes(update_info)
            else:
                self._reload()
                super().receive_weights(update_info)

    @keeps_failure
    def finish_weight_update(self) -> None:
        """Applies what was loaded."""
        if self._reloading:
            super().finish_weight_update()
        self._reloading = False

    def digests(self) -> dict[str, str]:
        """One per parameter, by its name in vLLM's model."""
        return {name: digest(parameter) for name, parameter in self.model.named_parameters()}

    def shutdown(self) -> None:
        """Leaves the group."""
        if self._transfer_group is not None:
            self._transfer_group.close()
        self._transfer_group = None
        self.model_update_group = None

    def _reload(self) -> None:
        if not self._reloading:
            super().start_weight_update()
        self._reloading = True

    def _open_communicator(
        self, init_info: NCCLWeightTransferInitInfo, transfer_group: TransferGroup
    ) -> PyNcclCommunicator:
        """Returns when all members have joined, which may be long after the group has ended."""
        with torch.accelerator.device_index(self.device.index):  # this thread has a current device of its own
            communicator = worker_init_process_group(init_info, self.parallel_config)
        transfer_group.on_end(communicator.destroy)
        return communicator

    def _receive_changes(self, update_info: BoundedNcclUpdateInfo) -> None:
        group = self.model_update_group
        assert group is not None
        patches = []
        for name, dtype_name, shape, changed in zip(
            update_info.names, update_info.dtype_names, update_info.shapes, update_info.changed, strict=True
        ):
            indices = torch.empty(changed, dtype=torch.int32, device=group.device)
            values = torch.empty(changed, dtype=getattr(torch, dtype_name), device=group.device)
            group.broadcast(indices, src=0)
            group.broadcast(values, src=0)
            patches.append(CheckpointWeightPatch(name, tuple(shape), values.dtype, values, indices))
        load_checkpoint_weight_patches(self.model, patches)
