"""Over real gloo groups, receivers get what the trainer holds, however late they hear of a bucket."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from vision_sr1.weights.buckets import Patch, empty_buffer, views
from vision_sr1.weights.gloo_group import GlooGroup
from vision_sr1.weights.gloo_receiver import GlooUpdateInfo
from vision_sr1.weights.gloo_sender import GlooTrainerInitInfo, GlooTrainerWeightTransferEngine
from vision_sr1.weights.transfer_group import Rendezvous, TransferGroup

pytestmark = pytest.mark.slow

RECEIVERS = 2
TIMEOUT_S = 60.0


class Weights(WeightSource):
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.tensors.items())


class Receivers:
    """Members of the group in threads of this process, which hear of each bucket after a while."""

    def __init__(self) -> None:
        self.held: list[dict[str, Tensor]] = [{} for _ in range(RECEIVERS)]
        self._pool = ThreadPoolExecutor(RECEIVERS)
        self._groups: list[GlooGroup] = []
        self._turns: list[Future[None]] = []

    def init_weight_transfer_engine(self, info: dict[str, Any]) -> None:
        def join(rank: int) -> GlooGroup:
            where = Rendezvous(
                info["master_address"], info["master_port"], info["group_number"], rank, info["world_size"], TIMEOUT_S
            )
            return GlooGroup(TransferGroup(where))

        self._groups = list(self._pool.map(join, range(1, RECEIVERS + 1)))

    def start_weight_update(self) -> None: ...

    def update_weights(self, info: dict[str, Any]) -> None:
        time.sleep(random.uniform(0, 0.02))
        parts = GlooUpdateInfo(**info).parts()

        def receive(index: int) -> None:
            buffer = empty_buffer(parts, torch.device("cpu"))
            group = self._groups[index]
            group.transfer_group.run(lambda: group.broadcast(buffer))
            for name, content in views(parts, buffer):
                assert not isinstance(content, Patch)
                self.held[index][name] = content

        for turn in self._turns:
            turn.result(TIMEOUT_S)
        self._turns = [self._pool.submit(receive, index) for index in range(RECEIVERS)]

    def finish_weight_update(self) -> None:
        for turn in self._turns:
            turn.result(TIMEOUT_S)


@pytest.mark.parametrize("bucket_bytes", [1, 3000, 10**6])
def test_all_receivers_get_all_weights_in_any_number_of_buckets(bucket_bytes: int):
    weights = {f"w{i}": torch.randn(i, 7) for i in range(1, 30)}
    receivers = Receivers()
    trainer = GlooTrainerWeightTransferEngine.trainer_init(
        GlooTrainerInitInfo(
            rank=0,
            master_address="127.0.0.1",
            group_number=1,
            world_size=1 + RECEIVERS,
            bucket_bytes=bucket_bytes,
            timeout_s=TIMEOUT_S,
        ),
        client=receivers,
        source=Weights(weights),
    )
    for _ in range(3):
        for tensor in weights.values():
            tensor.normal_()
        trainer.send_weights()
        for held in receivers.held:
            assert held.keys() == weights.keys()
            assert all(torch.equal(held[name], tensor) for name, tensor in weights.items())
        assert trainer.sent_bytes >= sum(tensor.nbytes for tensor in weights.values())
    trainer.shutdown()
