"""A gloo process group over processes of different launches, one per transfer group."""

from datetime import timedelta

import torch.distributed as dist
from jaxtyping import UInt8
from torch import Tensor

from vision_sr1.runtime.ports import address_towards
from vision_sr1.weights.transfer_group import TransferGroup


class GlooGroup:
    """The members of a transfer group, joined by gloo; rank 0 is the trainer.

    Raises:
        TransferError: not all members came in time.
    """

    def __init__(self, transfer_group: TransferGroup) -> None:
        self.transfer_group = transfer_group
        transfer_group.meet()
        self._group = transfer_group.run(lambda: _join(transfer_group))

    def broadcast(self, buffer: UInt8[Tensor, " bytes"]) -> None:
        """Sends (rank 0) or receives (others) one buffer; wait with `TransferGroup.run` or `.start`."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        self._group.broadcast([buffer], options).wait()  # type: ignore[attr-defined]  # torch's stub has no collectives

    def close(self) -> None:
        """Leaves; on the trainer, ends the transfer group."""
        self.transfer_group.close()


def _join(transfer_group: TransferGroup) -> dist.ProcessGroupGloo:
    at = transfer_group.rendezvous
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # torch's stub calls it Options
    options._timeout = timedelta(seconds=at.timeout_s)
    own_address = address_towards(at.master_address, at.master_port)
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=own_address)]
    return dist.ProcessGroupGloo(transfer_group.store, at.rank, at.world_size, options)
