"""The learner's side of the `gloo` backend."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Self

import torch.distributed as dist
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
)

from vision_sr1.weights.gloo_group import Rendezvous, broadcast, buckets, empty_buffer, join_group, views


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    """The group to form: its epoch, its size (trainer included), and how parameters are packed."""

    backend: ClassVar[str] = "gloo"

    master_address: str
    epoch: int
    world_size: int
    bucket_bytes: int
    timeout_s: float


class GlooTrainerWeightTransferEngine(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """Broadcasts packed buckets from trainer rank 0; other trainer ranks only help to gather."""

    init_info_cls = GlooTrainerInitInfo

    def __init__(
        self,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource,
        is_sender: bool,
        bucket_bytes: int,
        group: dist.ProcessGroupGloo | None,
    ) -> None:
        super().__init__(client=client, source=source, is_sender=is_sender)
        self._bucket_bytes = bucket_bytes
        self._group = group

    @classmethod
    def trainer_init(
        cls, init_info: GlooTrainerInitInfo, *, client: VLLMWeightSyncClient, source: WeightSource | None = None
    ) -> Self:
        """Opens the rendezvous, has the actors join, and returns when the group is up."""
        if source is None:
            raise ValueError("the gloo backend sends full weights: give it a WeightSource")
        group = None
        if init_info.is_sender:
            timeout = timedelta(seconds=init_info.timeout_s)
            store = dist.TCPStore(init_info.master_address, 0, is_master=True, timeout=timeout, wait_for_workers=False)
            worker_info: dict[str, Any] = {
                "master_address": init_info.master_address,
                "master_port": store.port,
                "epoch": init_info.epoch,
                "rank_offset": 1,
                "world_size": init_info.world_size,
                "bucket_bytes": init_info.bucket_bytes,
                "timeout_s": init_info.timeout_s,
            }
            rendezvous = Rendezvous(
                master_address=init_info.master_address,
                master_port=store.port,
                epoch=init_info.epoch,
                rank=0,
                world_size=init_info.world_size,
                timeout_s=init_info.timeout_s,
            )
            with ThreadPoolExecutor(1) as pool:
                joined = pool.submit(client.init_weight_transfer_engine, worker_info)
                group = join_group(rendezvous, store)
                joined.result()
        return cls(
            client=client,
            source=source,
            is_sender=init_info.is_sender,
            bucket_bytes=init_info.bucket_bytes,
            group=group,
        )

    def send_weights(self) -> None:
        """Sends all parameters and has the actors load them. Every trainer rank calls it.

        The source is iterated to its end even where sending fails, since the other ranks gather with this one.
        """
        assert self.source is not None
        if not self.is_sender:
            for _ in self.source:
                pass
            return
        parameters = self.source.metadata()
        weights = iter(self.source)
        try:
            self.client.start_weight_update()
            with ThreadPoolExecutor(1) as pool:
                received = pool.submit(
                    self.client.update_weights,
                    {
                        "names": [p.name for p in parameters],
                        "dtype_names": [str(p.dtype).removeprefix("torch.") for p in parameters],
                        "shapes": [list(p.shape) for p in parameters],
                    },
                )
                assert self._group is not None
                for bucket in buckets(parameters, self._bucket_bytes):
                    buffer = empty_buffer(bucket)
                    for name, view in views(buffer, bucket):
                        source_name, tensor = next(weights)
                        if source_name != name:
                            raise RuntimeError(f"the source yields {source_name!r} where it declared {name!r}")
                        view.copy_(tensor)
                    broadcast(self._group, buffer)
                received.result()
        finally:
            for _ in weights:
                pass
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        """Leaves the group."""
        self._group = None
