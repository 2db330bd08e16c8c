"""The actor's side of the `gloo` backend: weights for CPU actors.

An update is received whole into memory before the model is touched, so that a broadcast which breaks off leaves the
actor on the weights it had.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from vision_sr1.weights.gloo_group import Rendezvous, broadcast, buckets, empty_buffer, join_group, views


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """Where the trainer waits; `rank_offset` is the rank of this actor's first worker."""

    master_address: str
    master_port: int
    epoch: int
    rank_offset: int
    world_size: int
    bucket_bytes: int
    timeout_s: float


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """The parameters of one update, in the order in which they are sent."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]

    def parameters(self) -> list[ParamMeta]:
        """The same as one list."""
        return [
            ParamMeta(name, getattr(torch, dtype), tuple(shape))
            for name, dtype, shape in zip(self.names, self.dtype_names, self.shapes, strict=True)
        ]


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """Receives packed buckets by broadcast and loads them in checkpoint format."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo
    supports_draft_weight_update = False

    def __init__(
        self, config: WeightTransferConfig, vllm_config: Any, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self._group: dist.ProcessGroupGloo | None = None
        self._bucket_bytes = 0
        self._staged: list[tuple[str, Tensor]] = []

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Joins the group of this epoch, leaving any earlier one."""
        self.shutdown()
        self._bucket_bytes = init_info.bucket_bytes
        self._group = join_group(
            Rendezvous(
                master_address=init_info.master_address,
                master_port=init_info.master_port,
                epoch=init_info.epoch,
                rank=init_info.rank_offset + self.parallel_config.rank,
                world_size=init_info.world_size,
                timeout_s=init_info.timeout_s,
            )
        )

    def start_weight_update(self) -> None:
        """Forgets what an earlier update left that was not finished."""
        self._staged = []

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receives one chunk; unlike the base class, without synchronizing an accelerator."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        """Receives all parameters named, bucket by bucket; where none is, forgets those received before.

        Raises:
            RuntimeError: no group was joined, or the sender stopped for longer than the timeout.
        """
        staged = []
        for bucket in buckets(update_info.parameters(), self._bucket_bytes):
            if self._group is None:
                raise RuntimeError("init_transfer_engine() must come before receive_weights()")
            buffer = empty_buffer(bucket)
            broadcast(self._group, buffer)
            staged += list(views(buffer, bucket))
        self._staged = staged

    def finish_weight_update(self) -> None:
        """Loads what was received; does nothing where nothing was."""
        if not self._staged:
            return
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

        initialize_layerwise_reload(self.model)
        self.model.load_weights(iter(self._staged))
        finalize_layerwise_reload(self.model, self.model_config)
        self._staged = []
        # The output head of a model with tied embeddings keeps a prepacked copy that layerwise reloading misses.
        for module in self.model.modules():
            method = getattr(module, "quant_method", None)
            if isinstance(method, UnquantizedEmbeddingMethod):
                method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Leaves the group."""
        self._group = None
