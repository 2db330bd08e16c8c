"""The actor's side of the `gloo` backend: weights for CPU actors.

An update is received whole into memory before the model is touched, so that a broadcast which breaks off leaves the
actor on the weights it had.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from vision_sr1.weights.buckets import Part, Patch, empty_buffer, views
from vision_sr1.weights.delta import patched
from vision_sr1.weights.digests import digest
from vision_sr1.weights.failures import keeps_failure
from vision_sr1.weights.files import read_weights
from vision_sr1.weights.gloo_group import GlooGroup
from vision_sr1.weights.transfer_group import Rendezvous, TransferGroup


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """Where the trainer waits.

    Attributes:
        rank_offset: the rank of this actor's first worker.
        delta: later updates may carry changes alone: keep what was loaded.
    """

    master_address: str
    master_port: int
    group_number: int
    rank_offset: int
    world_size: int
    timeout_s: float
    delta: bool = False


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """What the next bucket carries, in its order; see `Part`.

    Attributes:
        also: in place of a bucket: wait until all are there, or forget them.
        folder: in place of a bucket: read the safetensors files there.
    """

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    changed: list[int | None]
    also: Literal["", "complete", "forget"] = ""
    folder: str = ""

    def parts(self) -> list[Part]:
        """The same as one list."""
        return [
            Part(name, getattr(torch, dtype), tuple(shape), changed)
            for name, dtype, shape, changed in zip(self.names, self.dtype_names, self.shapes, self.changed, strict=True)
        ]


PAGE = 4096  # bytes
BUCKETLESS: dict[str, Any] = {"names": [], "dtype_names": [], "shapes": [], "changed": []}
COMPLETE = BUCKETLESS | {"also": "complete"}
FORGET = BUCKETLESS | {"also": "forget"}
Contents = Sequence[tuple[str, Tensor | Patch]]


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """Receives packed buckets by broadcast and loads them in checkpoint format.

    Keeps `digests` of what it loads: most of it the CPU's matrix kernels turn into a form of their own.

    Attributes:
        failure: what has gone wrong; raised below, but kept where vLLM calls.
    """

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo
    supports_draft_weight_update = False

    def __init__(
        self, config: WeightTransferConfig, vllm_config: Any, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self.failure = ""
        self._group: GlooGroup | None = None
        self._delta = False
        self._digests: dict[str, str] = {}
        self._held: dict[str, Tensor] = {}
        self._whole: dict[str, Tensor] = {}
        self._new_digests: dict[str, str] = {}
        self._received: list[Callable[[], Contents]] = []
        self._folder = ""
        self._base_is_gone = False  # what changes are to: replaced by a checkpoint, under names of its own
        self._bucket: Future[Contents] | None = None

    @keeps_failure
    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Joins the transfer group, leaving any earlier one.

        Raises:
            TransferError: not all members came in time.
        """
        self.shutdown()
        self._delta = init_info.delta
        transfer_group = TransferGroup(
            Rendezvous(
                master_address=init_info.master_address,
                master_port=init_info.master_port,
                group_number=init_info.group_number,
                rank=init_info.rank_offset + self.parallel_config.rank,
                world_size=init_info.world_size,
                timeout_s=init_info.timeout_s,
            )
        )
        self._group = GlooGroup(transfer_group)

    def start_weight_update(self) -> None:
        """Forgets what an earlier update left that was not finished."""
        self._received, self._folder, self._whole = [], "", {}

    @keeps_failure
    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Begins to receive a bucket; unlike the base class, without synchronizing an accelerator."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        """Begins to receive a bucket, behind those before it, while the model goes on generating.

        Raises:
            RuntimeError: no group was joined.
            TransferError: asked to wait for all buckets, and one did not come in time or a member broke the group off.
        """
        if update_info.also == "forget":
            self.start_weight_update()
        if update_info.also == "complete":
            self._complete()
        self._folder = update_info.folder or self._folder
        parts = update_info.parts()
        if not parts:
            return
        if self._group is None:
            raise RuntimeError("init_transfer_engine() must come before receive_weights()")
        group, before = self._group, self._bucket

        def receive() -> Contents:
            buffer = empty_buffer(parts, self.device)
            buffer[::PAGE] = 0  # the system gives it its memory now, while an earlier bucket is on the wire
            if before is not None:
                before.result()  # nothing is received behind what has failed: it would be other bytes
            group.broadcast(buffer)
            return list(views(parts, buffer))

        self._bucket = group.transfer_group.start(receive)
        self._received.append(partial(group.transfer_group.wait_for, self._bucket))

    @keeps_failure
    def finish_weight_update(self) -> None:
        """Loads what was received and completed; does nothing where nothing was."""
        if not self._whole:
            return
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

        initialize_layerwise_reload(self.model)
        try:
            self.model.load_weights(iter(self._whole.items()))
        finally:
            finalize_layerwise_reload(self.model, self.model_config)
        # The output head of a model with tied embeddings keeps a prepacked copy that layerwise reloading misses.
        for module in self.model.modules():
            method = getattr(module, "quant_method", None)
            if isinstance(method, UnquantizedEmbeddingMethod):
                method.process_weights_after_loading(module)
        digests = self._digests | self._new_digests
        self._digests = {name: digests[name] for name in self._whole}
        self._held = self._whole if self._delta and not self._folder else {}
        self._base_is_gone = self._delta and bool(self._folder)
        self.start_weight_update()

    def digests(self) -> dict[str, str]:
        """One per parameter of the last version, by its name in the checkpoint."""
        return self._digests

    def _complete(self) -> None:
        """Waits for all buckets and makes whole parameters of them."""
        contents: Contents = [item for received in self._received for item in received()]
        held = self._held
        if contents and self._base_is_gone:
            raise RuntimeError(
                "the weights to which these may be changes were replaced by a checkpoint's: send all in a new group"
            )
        if self._folder:  # all parameters, under names of their own, which no changes will have
            contents, held = list(read_weights(self._folder)), {}
        if not contents:
            return
        self._whole, self._new_digests = dict(held), {}
        for name, content in contents:
            self._whole[name] = patched(self._whole[name], content) if isinstance(content, Patch) else content
            self._new_digests[name] = digest(self._whole[name])

    def shutdown(self) -> None:
        """Leaves the group."""
        if self._group is not None:
            self._group.close()
        self._group = None
        self._held, self._base_is_gone, self._bucket = {}, False, None
        self.start_weight_update()
