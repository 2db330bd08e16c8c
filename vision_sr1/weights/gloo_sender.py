"""The learner's side of the `gloo` backend."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, Self

from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
)

from vision_sr1.runtime.host_memory import current_device
from vision_sr1.weights.buckets import Packer, Part, Patch
from vision_sr1.weights.delta import SentWeights
from vision_sr1.weights.gloo_group import GlooGroup
from vision_sr1.weights.transfer_group import TransferGroup


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    """The group to form, and how weights are sent.

    Attributes:
        world_size: of the group, trainer included.
        full_sync_every: every so many versions all weights are sent, in between what has changed; 1: always all.
    """

    backend: ClassVar[str] = "gloo"

    master_address: str
    group_number: int
    world_size: int
    bucket_bytes: int
    timeout_s: float
    full_sync_every: int = 1


class GlooTrainerWeightTransferEngine(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """Broadcasts packed buckets from trainer rank 0; other trainer ranks only help to gather.

    Attributes:
        sent_bytes: on the wire in the last update, once for all receivers.
        sent_s: seconds from the first parameter to the arrival of the last.
    """

    init_info_cls = GlooTrainerInitInfo

    def __init__(
        self,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource,
        init_info: GlooTrainerInitInfo,
        group: GlooGroup | None,
    ) -> None:
        super().__init__(client=client, source=source, is_sender=init_info.is_sender)
        self.sent_bytes = 0
        self.sent_s = 0.0
        self._group = group
        self._packer = Packer(init_info.bucket_bytes, current_device())
        self._full_sync_every = init_info.full_sync_every
        self._sent = SentWeights() if init_info.full_sync_every > 1 else None
        self._updates = 0

    @classmethod
    def trainer_init(
        cls, init_info: GlooTrainerInitInfo, *, client: VLLMWeightSyncClient, source: WeightSource | None = None
    ) -> Self:
        """Opens the rendezvous, has the actors join, and returns when the group is up.

        Raises:
            SilentMembersError: some did not come, and do not answer.
            TransferError: not all came in time.
            Exception: what the client raised.
        """
        if source is None:
            raise ValueError("the gloo backend sends full weights: give it a WeightSource")
        group = _form_group(init_info, client) if init_info.is_sender else None
        return cls(client=client, source=source, init_info=init_info, group=group)

    def send_weights(self) -> None:
        """Sends the weights and has the actors load them. Every trainer rank calls it.

        The source is iterated to its end even where sending fails, since the other ranks gather with this one. After
        a failure the group is of no more use.

        Raises:
            SilentMembersError: it failed, and some members do not answer.
            TransferError: it did not come through in time.
            Exception: what the client raised.
        """
        assert self.source is not None
        weights = iter(self.source)
        try:
            if self._group is not None:
                with self._group.transfer_group.naming_silent_members():
                    self.client.start_weight_update()
                    self._send(weights, self._group)
                    self.client.finish_weight_update()
        finally:
            for _ in weights:
                pass

    def _send(self, weights: Iterator[tuple[str, Tensor]], group: GlooGroup) -> None:
        """Fills one bucket while the one before it is on the wire."""
        started = time.monotonic()
        self.sent_bytes = 0
        announced: Future[None] | None = None
        on_the_wire: Future[None] | None = None
        for parts, buffer in self._packer.pack(self._contents(weights)):
            if announced is not None:
                group.transfer_group.wait_for(
                    announced
                )  # receivers take buckets in the order in which they hear of them
            announced = group.transfer_group.start(partial(self.client.update_weights, _update_info(parts)))
            if on_the_wire is not None:
                group.transfer_group.wait_for(on_the_wire)
            on_the_wire = group.transfer_group.start(partial(group.broadcast, buffer))
            self.sent_bytes += len(buffer)
        if announced is None or on_the_wire is None:
            self.client.update_weights(_update_info([]))
        else:
            group.transfer_group.wait_for(announced)
            group.transfer_group.wait_for(on_the_wire)
        self.sent_s = time.monotonic() - started
        self._updates += 1

    def _contents(self, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[Part, Tensor | Patch]]:
        if self._sent is None:
            return ((Part(name, tensor.dtype, tuple(tensor.shape)), tensor) for name, tensor in weights)
        if self._updates % self._full_sync_every == 0:
            return self._sent.remember(weights)
        return self._sent.changes(weights)

    def shutdown(self) -> None:
        """Ends the transfer group."""
        if self._group is not None:
            self._group.close()
        self._group = None


def _form_group(init_info: GlooTrainerInitInfo, client: VLLMWeightSyncClient) -> GlooGroup:
    transfer_group = TransferGroup.open(
        init_info.master_address, init_info.group_number, init_info.world_size, init_info.timeout_s
    )
    with transfer_group.naming_silent_members():
        worker_info = asdict(transfer_group.rendezvous) | {"rank_offset": 1, "delta": init_info.full_sync_every > 1}
        del worker_info["rank"]
        joined = transfer_group.start(partial(client.init_weight_transfer_engine, worker_info))
        group = GlooGroup(transfer_group)
        transfer_group.wait_for(joined)
    return group


def _update_info(parts: list[Part]) -> dict[str, Any]:
    return {
        "names": [p.name for p in parts],
        "dtype_names": [str(p.dtype).removeprefix("torch.") for p in parts],
        "shapes": [list(p.shape) for p in parts],
        "changed": [p.changed for p in parts],
    }
