"""The learner's side of the `nccl` backend: vLLM's engine, whose waits have an end."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    VLLMWeightSyncClient,
    WeightSource,
)
from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine
from vllm.utils.nccl import unpinned_nccl_env
from vllm.utils.torch_utils import current_stream

from vision_sr1.weights.buckets import Part, Patch
from vision_sr1.weights.delta import SentWeights
from vision_sr1.weights.gloo_sender import GlooTrainerInitInfo
from vision_sr1.weights.transfer_group import TransferError, TransferGroup


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
    _calls: "_EndsTransferGroup | None" = None

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
            with self._transfer_group.naming_silent_members(), self._naming_causes():
                if self._sent is not None and self._updates % self._full_sync_every:
                    self._send_changes(weights, self._sent)
                else:
                    self._send_all(weights, whole)
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
        with unpinned_nccl_env():  # as the communicator: NCCL reads its environment at its first call
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

        def open_communicator() -> PyNcclCommunicator:
            """Returns when all members have joined, which may be long after the group has ended."""
            with torch.accelerator.device_index(device):  # this thread has a current device of its own
                communicator = uid_init_process_group(unique_id, 0, init_info.world_size, device)
            transfer_group.on_end(communicator.destroy)
            return communicator

        with transfer_group.naming_silent_members():
            joined = transfer_group.start(partial(self.client.init_weight_transfer_engine, worker_info))
            transfer_group.meet()
            self.model_update_group = transfer_group.run(open_communicator)
            transfer_group.wait_for(joined)
        self.client = self._calls = _EndsTransferGroup(self.client, transfer_group)
        self._transfer_group = transfer_group

    def _send_all(self, weights: Iterator[tuple[str, Tensor]], whole: WeightSource) -> None:
        self.sent_bytes = sum(Part(p.name, p.dtype, tuple(p.shape)).bytes for p in whole.metadata())
        self.source = _Once(whole.metadata(), weights if self._sent is None else _kept(weights, self._sent))
        try:
            super().send_weights()
        finally:
            self.source = whole

    def _broadcast(self, source: WeightSource, meta: list[ParamMeta]) -> None:
        """Bounds what has no end of its own; the client's calls, beside it, have theirs."""
        assert self._transfer_group is not None
        with self._transfer_group.bounded():
            super()._broadcast(source, meta)

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
        with transfer_group.bounded():
            for _, patch in bucket:
                group.broadcast(patch.indices, src=0)
                group.broadcast(patch.values, src=0)
            current_stream().synchronize()
        transfer_group.wait_for(received)

    @contextmanager
    def _naming_causes(self) -> Iterator[None]:
        """Has an error within that follows from the failure of one of the client's calls be that failure."""
        try:
            yield
        except TransferError as error:
            if self._calls is not None and self._calls.failure is not None:
                raise self._calls.failure from error
            raise


class _EndsTransferGroup:
    """A client whose failed calls end the transfer group, so that no broadcast waits for an actor that has failed.

    Attributes:
        failure: of the first call that failed.
    """

    def __init__(self, client: VLLMWeightSyncClient, transfer_group: TransferGroup) -> None:
        self.failure: Exception | None = None
        self._client = client
        self._transfer_group = transfer_group

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def ending_group(*arguments: Any, **options: Any) -> Any:
            try:
                return call(*arguments, **options)
            except Exception as error:
                self.failure = self.failure or error
                self._transfer_group.break_off(str(error))
                raise

        return ending_group


def _kept(weights: Iterator[tuple[str, Tensor]], sent: SentWeights) -> Iterator[tuple[str, Tensor]]:
    """The same where they are, remembered as they pass."""
    for name, tensor in weights:
        sent.keep(name, tensor)
        yield name, tensor


class _Once(WeightSource):
    """Weights that are on their way already.

    vLLM takes them on two CUDA streams in turn. What is gathered for several of them on one stream, the other waits
    for.
    """

    def __init__(self, metadata: list[ParamMeta], weights: Iterator[tuple[str, Tensor]]) -> None:
        self._metadata = metadata
        self._weights = weights

    def metadata(self) -> list[ParamMeta]:
        """Names, dtypes and shapes."""
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        before = current_stream()
        while True:
            stream = current_stream()
            if stream != before:
                stream.wait_stream(before)
                before = stream
            if (item := next(self._weights, None)) is None:
                return
            yield item
