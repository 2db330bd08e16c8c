"""A gloo process group over processes of different launches, one per epoch."""

from datetime import timedelta

import torch.distributed as dist
from jaxtyping import UInt8
from torch import Tensor

from vision_sr1.runtime.ports import address_towards
from vision_sr1.weights.transfer_group import Epoch


class GlooGroup:
    """The members of an epoch, joined by gloo; rank 0 is the trainer.

    Raises:
        TransferError: not all members came in time.
    """

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        epoch.meet()
        self._group = epoch.run(lambda: _join(epoch))

    def broadcast(self, buffer: UInt8[Tensor, " bytes"]) -> None:
        """Sends (rank 0) or receives (others) one buffer; wait for it in `Epoch.run` or `Epoch.start`."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        self._group.broadcast([buffer], options).wait()  # type: ignore[attr-defined]  # torch's stub has no collectives

    def close(self) -> None:
        """Leaves; on the trainer, ends the epoch."""
        self.epoch.close()


def _join(epoch: Epoch) -> dist.ProcessGroupGloo:
    at = epoch.rendezvous
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # torch's stub calls it Options
    options._timeout = timedelta(seconds=at.timeout_s)
    own_address = address_towards(at.master_address, at.master_port)
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=own_address)]
    return dist.ProcessGroupGloo(epoch.store, at.rank, at.world_size, options)
