"""The control plane of a weight update: the four phases, called on every actor of a transfer group over gRPC."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from vision_sr1.v1 import actor_pb2 as pb
from vision_sr1.v1 import actor_pb2_grpc
from vision_sr1.v1.pipeline_pb2 import ActorInfo
from vision_sr1.wire import SCHEMA_VERSION

UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))  # an adapter is one message


class ActorUpdateError(RuntimeError):
    """An actor failed, or did not answer in time, in a phase of an update."""

    def __init__(self, actor_id: str, phase: str, reason: str) -> None:
        super().__init__(f"actor {actor_id} in {phase}: {reason}")
        self.actor_id = actor_id


class FleetClient:
    """vLLM's weight-sync client for several actors: each call goes to all of them and has a deadline.

    Set `policy_version` before the weights are sent: the last phase commits them under it.
    """

    def __init__(self, actors: list[ActorInfo], epoch: int, timeout_s: float) -> None:
        self.policy_version = 0
        self.checksums: dict[str, str] = {}
        self._actors = actors
        self._epoch = epoch
        self._timeout_s = timeout_s
        self._channels = [grpc.insecure_channel(actor.address, UNLIMITED) for actor in actors]
        self._stubs = [actor_pb2_grpc.ActorStub(channel) for channel in self._channels]
        self._pool = ThreadPoolExecutor(len(actors))

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Has every actor join, at consecutive ranks."""
        offsets, rank = [], int(init_info["rank_offset"])
        for actor in self._actors:
            offsets.append(rank)
            rank += actor.world_size
        bucket_bytes = init_info.get("bucket_bytes", init_info.get("packed_buffer_size_bytes", 0))
        self._on_all(
            "InitWeightTransfer",
            lambda index: pb.InitWeightTransferRequest(
                schema_version=SCHEMA_VERSION,
                epoch=self._epoch,
                master_address=init_info["master_address"],
                master_port=init_info["master_port"],
                rank_offset=offsets[index],
                world_size=init_info["world_size"],
                bucket_bytes=bucket_bytes,
                timeout_s=self._timeout_s,
            ),
        )

    def start_weight_update(self) -> None:
        """Freezes generation on every actor."""
        self._on_all("StartWeightUpdate", lambda _: pb.StartWeightUpdateRequest())

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Has every actor receive; returns when all have loaded the parameters, or hold the adapter."""
        if adapter := update_info.get("adapter"):
            self._on_all("UpdateWeights", lambda _: pb.UpdateWeightsRequest(adapter=pb.Adapter(**adapter)))
            return
        parameters = [
            pb.ParameterInfo(name=name, dtype=dtype, shape=shape)
            for name, dtype, shape in zip(
                update_info["names"], update_info["dtype_names"], update_info["shapes"], strict=True
            )
        ]
        self._on_all("UpdateWeights", lambda _: pb.UpdateWeightsRequest(parameters=parameters))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Commits the update under `policy_version` and keeps each actor's checksum."""
        version = self.policy_version if weight_version is None else int(weight_version)
        replies = self._on_all("FinishWeightUpdate", lambda _: pb.FinishWeightUpdateRequest(policy_version=version))
        self.checksums = {actor.id: reply.checksum for actor, reply in zip(self._actors, replies, strict=True)}

    def close(self) -> None:
        """Closes all connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for channel in self._channels:
            channel.close()

    def _on_all(self, phase: str, request: Callable[[int], Any]) -> list[Any]:
        def call(index: int) -> Any:
            return getattr(self._stubs[index], phase)(request(index), timeout=self._timeout_s)

        calls = [self._pool.submit(call, index) for index in range(len(self._stubs))]
        replies = []
        for actor, pending in zip(self._actors, calls, strict=True):
            try:
                replies.append(pending.result())
            except grpc.RpcError as error:
                raise ActorUpdateError(actor.id, phase, f"{error.code().name}: {error.details()}") from error
        return replies


def answers(actor: ActorInfo, timeout_s: float) -> bool:
    """Whether an actor answers a status call in time; its announcement may outlive it by some heartbeats."""
    with grpc.insecure_channel(actor.address) as channel:
        try:
            actor_pb2_grpc.ActorStub(channel).Status(pb.StatusRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return True
