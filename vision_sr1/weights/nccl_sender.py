"""The learner's side of the `nccl` backend: vLLM's engine, whose waits have an end."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    VLLMWeightSyncClient,
    WeightSource,
)
from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine

from vision_sr1.weights.buckets import Part, Patch
from vision_sr1.weights.delta import SentWeights
from vision_sr1.weights.gloo_sender import GlooTrainerInitInfo
from vision_sr1.weights.transfer_group import TransferGroup


@dataclass
class BoundedNcclTrainerInitInfo(GlooTrainerInitInfo):
    """The same as over gloo."""

    backend: ClassVar[str] = "bounded_nccl"


class BoundedNcclTrainerWeightTransferEngine(NCCLTrainerWeightTransferEngine):
    """Broadcasts packed buckets from trainer rank 0; a transfer that does not come through is aborted.

    Attributes:
        sent_bytes: on the wire in the last update, once for all receivers.
    """

    init_info_cls = BoundedNcclTrainerInitInfo
    client: VLLMWeightSyncClient
    sent_bytes = 0
    _transfer_group: TransferGroup | None = None
    _bucket_bytes = 0
    _full_sync_every = 1
    _updates = 0
    _sent: SentWeights | None = None

    @classmethod
    def trainer_init(
        cls, init_info: TrainerInitInfo, *, client: VLLMWeightSyncClient, source: WeightSource | None = None
    ) -> Self:
        """Opens the rendezvous, has the actors join, and returns when the group is up.

        Raises:
            SilentMembersError: some did not come, and do not answer.
            TransferError: not all came in time.
            Exception: what the client raised.
        """
        assert isinstance(init_info, BoundedNcclTrainerInitInfo)
        if source is None:
            raise ValueError("the nccl backend sends full weights: give it a WeightSource")
        engine = cls(
            client=client,
            source=source,
            is_sender=init_info.is_sender,
            packed=True,
            packed_buffer_size_bytes=init_info.bucket_bytes,
        )
        engine._bucket_bytes = init_info.bucket_bytes
        engine._full_sync_every = init_info.full_sync_every
        engine._sent = SentWeights() if init_info.full_sync_every > 1 else None
        if init_info.is_sender:
            engine._form_group(init_info)
        return engine

    def send_weights(self) -> None:
        """Sends the weights and has the actors load them; see `GlooTrainerWeightTransferEngine.send_weights`."""
        whole = self.source
        assert whole is not None
        if self._transfer_group is None:
            for _ in whole:
                pass
            return
        weights = iter(whole)
        try:
            with self._transfer_group.naming_silent_members(), self._transfer_group.bounded():
                if self._sent is not None and self._updates % self._full_sync_every:
                    self._send_changes(weights, self._sent)
                else:
                    self._send_all(weights, whole)
                torch.cuda.current_stream().synchronize()
            self._updates += 1
        finally:
            for _ in weights:
                pass

    def shutdown(self) -> None:
        """Ends the transfer group."""
        if self._transfer_group is not None:
            self._transfer_group.close()
        self._transfer_group = None
        self.model_update_group = None

    def _form_group(self, init_info: BoundedNcclTrainerInitInfo) -> None:
        transfer_group = TransferGroup.open(
            init_info.master_address, init_info.group_number, init_info.world_size, init_info.timeout_s
        )
        unique_id = bytes(NCCLLibrary().ncclGetUniqueId().internal)
        worker_info = {
            "store_address": transfer_group.rendezvous.master_address,
            "store_port": transfer_group.rendezvous.master_port,
            "group_number": init_info.group_number,
            "rank_offset": 1,
            "world_size": init_info.world_size,
            "timeout_s": init_info.timeout_s,
            "nccl_unique_id_b64": base64.b64encode(unique_id).decode(),
            "packed": True,
            "packed_buffer_size_bytes": init_info.bucket_bytes,
        }
        device = torch.accelerator.current_device_index()

        def open_communicator() -> None:
            with torch.accelerator.device_index(device):  # this thread has a current device of its own
                self.model_update_group = uid_init_process_group(unique_id, 0, init_info.world_size, device)

        with transfer_group.naming_silent_members():
            joined = transfer_group.start(partial(self.client.init_weight_transfer_engine, worker_info))
            transfer_group.meet()
            transfer_group.run(open_communicator)
            transfer_group.wait_for(joined)
        assert self.model_update_group is not None
        transfer_group.on_end(self.model_update_group.destroy)
        self.client = _EndsTransferGroup(self.client, transfer_group)
        self._transfer_group = transfer_group

    def _send_all(self, weights: Iterator[tuple[str, Tensor]], whole: WeightSource) -> None:
        self.sent_bytes = sum(Part(p.name, p.dtype, tuple(p.shape)).bytes for p in whole.metadata())
        passing = (
            weights if self._sent is None else ((part.name, tensor) for part, tensor in self._sent.remember(weights))
        )
        self.source = _Once(whole.metadata(), passing)
        try:
            super().send_weights()
        finally:
            self.source = whole

    def _send_changes(self, weights: Iterator[tuple[str, Tensor]], sent: SentWeights) -> None:
        self.client.start_weight_update()
        self.sent_bytes = 0
        bucket: list[tuple[Part, Patch]] = []
        size = 0
        for part, patch in sent.patches(weights):
            if bucket and size + part.bytes > self._bucket_bytes:
                self._send_bucket(bucket)
                bucket, size = [], 0
            bucket.append((part, patch))
            size += part.bytes
            self.sent_bytes += part.bytes
        self._send_bucket(bucket)
        self.client.finish_weight_update()

    def _send_bucket(self, bucket: list[tuple[Part, Patch]]) -> None:
        group, transfer_group = self.model_update_group, self._transfer_group
        assert group is not None
        assert transfer_group is not None
        info = {
            "names": [part.name for part, _ in bucket],
            "dtype_names": [str(part.dtype).removeprefix("torch.") for part, _ in bucket],
            "shapes": [list(part.shape) for part, _ in bucket],
            "changed": [part.changed for part, _ in bucket],
        }
        received = transfer_group.start(partial(self.client.update_weights, info))
        on_device = [(patch.indices.to(group.device), patch.values.to(group.device)) for _, patch in bucket]
        for indices, values in on_device:
            group.broadcast(indices, src=0)
            group.broadcast(values, src=0)
        torch.cuda.current_stream().synchronize()
        transfer_group.wait_for(received)


class _EndsTransferGroup:
    """A client whose failed calls end the transfer group, so that no broadcast waits for an actor that has failed."""

    def __init__(self, client: VLLMWeightSyncClient, transfer_group: TransferGroup) -> None:
        self._client = client
        self._transfer_group = transfer_group

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def ending_group(*arguments: Any, **options: Any) -> Any:
            try:
                return call(*arguments, **options)
            except Exception as error:
                self._transfer_group.break_off(str(error))
                raise

        return ending_group


class _Once(WeightSource):
    """Weights that are on their way already."""

    def __init__(self, metadata: list[ParamMeta], weights: Iterator[tuple[str, Tensor]]) -> None:
        self._metadata = metadata
        self._weights = weights

    def metadata(self) -> list[ParamMeta]:
        """Names, dtypes and shapes."""
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self._weights
