"""The control plane of a weight update: the four phases, called on every actor of a transfer group over gRPC."""

import base64
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from vision_sr1.config import Config, TlsConfig
from vision_sr1.pipeline.wire import SCHEMA_VERSION
from vision_sr1.runtime import rpc
from vision_sr1.v1 import actor_pb2 as pb
from vision_sr1.v1 import actor_pb2_grpc
from vision_sr1.v1.pipeline_pb2 import ActorInfo


class ActorUpdateError(RuntimeError):
    """An actor failed, or did not answer in time, in a phase of an update."""

    def __init__(self, actor_id: str, phase: str, reason: str) -> None:
        super().__init__(f"actor {actor_id} in {phase}: {reason}")
        self.actor_id = actor_id


class FleetClient:
    """vLLM's weight-sync client for several actors: each call goes to all of them and has a deadline.

    Set `policy_version` before the weights are sent: the last phase commits them under it.
    """

    def __init__(self, actors: list[ActorInfo], group_number: int, config: Config) -> None:
        self.policy_version = 0
        self.checksums: dict[str, str] = {}
        self.frozen_s: dict[str, float] = {}
        self._actors = actors
        self._group_number = group_number
        self._run = config.run.name
        self._settings = config.learner.weights
        self._timeout_s = self._settings.sync_timeout_s
        self._channels = [rpc.channel(actor.address, config.tls) for actor in actors]
        self._stubs = [actor_pb2_grpc.ActorStub(channel) for channel in self._channels]

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Has every actor join, at consecutive ranks."""
        offsets, rank = [], int(init_info["rank_offset"])
        for actor in self._actors:
            offsets.append(rank)
            rank += actor.world_size
        self._on_all(
            "InitWeightTransfer",
            lambda index: pb.InitWeightTransferRequest(
                schema_version=SCHEMA_VERSION,
                group_number=self._group_number,
                master_address=init_info.get("store_address") or init_info["master_address"],
                master_port=init_info.get("store_port") or init_info["master_port"],
                rank_offset=offsets[index],
                world_size=init_info["world_size"],
                bucket_bytes=init_info.get("packed_buffer_size_bytes", 0),
                timeout_s=self._timeout_s,
                delta=init_info.get("delta", False),
                nccl_unique_id=base64.b64decode(init_info.get("nccl_unique_id_b64", "")),
            ),
        )

    def start_weight_update(self) -> None:
        """Freezes generation on every actor."""
        request = pb.StartWeightUpdateRequest(
            mode=f"UPDATE_MODE_{self._settings.update_mode.upper()}",
            same_weights_grace_s=self._settings.same_weights_grace_s,
        )
        self._on_all("StartWeightUpdate", lambda _: request)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Has every actor receive what is named, or gives it the adapter."""
        if adapter := update_info.get("adapter"):
            self._on_all("UpdateWeights", lambda _: pb.UpdateWeightsRequest(adapter=pb.Adapter(**adapter)))
            return
        names, dtypes, shapes = (update_info[key] for key in ("names", "dtype_names", "shapes"))
        changed = update_info.get("changed") or [None] * len(names)
        parameters = [
            pb.ParameterInfo(name=name, dtype=dtype, shape=shape, changed=count)
            for name, dtype, shape, count in zip(names, dtypes, shapes, changed, strict=True)
        ]
        self._on_all("UpdateWeights", lambda _: pb.UpdateWeightsRequest(parameters=parameters))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Commits the update under `policy_version` and keeps each actor's checksum."""
        version = self.policy_version if weight_version is None else int(weight_version)
        request = pb.FinishWeightUpdateRequest(policy_version=version, run=self._run)
        replies = self._on_all("FinishWeightUpdate", lambda _: request)
        for actor, reply in zip(self._actors, replies, strict=True):
            self.checksums[actor.id], self.frozen_s[actor.id] = reply.checksum, reply.frozen_s

    def digests(self) -> dict[str, dict[str, str]]:
        """By actor, one digest per parameter that it holds."""
        replies = self._on_all("Checksums", lambda _: pb.ChecksumsRequest())
        return {
            actor.id: {parameter.name: parameter.digest for parameter in reply.digests}
            for actor, reply in zip(self._actors, replies, strict=True)
        }

    def ids(self, ranks: list[int]) -> list[str]:
        """The actors to which these ranks of the transfer group belong."""
        of_rank = [actor.id for actor in self._actors for _ in range(actor.world_size)]
        return sorted({of_rank[rank - 1] for rank in ranks})

    def close(self) -> None:
        """Closes all connections."""
        for channel in self._channels:
            channel.close()

    def _on_all(self, phase: str, request: Callable[[int], Any]) -> list[Any]:
        """Replies of all actors; the first error cancels the calls that are still out."""
        calls = [
            getattr(stub, phase).future(request(index), timeout=self._timeout_s)
            for index, stub in enumerate(self._stubs)
        ]
        ended: SimpleQueue[int] = SimpleQueue()
        for index, call in enumerate(calls):
            call.add_done_callback(lambda _, index=index: ended.put(index))
        for _ in calls:
            index = ended.get()
            if error := calls[index].exception():
                for call in calls:
                    call.cancel()
                raise ActorUpdateError(self._actors[index].id, phase, f"{error.code().name}: {error.details()}")
        return [call.result() for call in calls]


def answering(actors: list[ActorInfo], timeout_s: float, tls: TlsConfig) -> list[ActorInfo]:
    """Those whose server and engine answer in time: an announcement may outlive its actor by some heartbeats."""
    failed = failures(actors, "Status", pb.StatusRequest(ask_engine=True), timeout_s, tls)
    return [actor for actor in actors if actor.id not in failed]


def failures(actors: list[ActorInfo], call: str, request: Any, timeout_s: float, tls: TlsConfig) -> dict[str, str]:
    """Makes a call to all actors at once; by actor, the error of those that did not answer in time or refused."""
    channels = [rpc.channel(actor.address, tls) for actor in actors]
    calls = [
        getattr(actor_pb2_grpc.ActorStub(channel), call).future(request, timeout=timeout_s) for channel in channels
    ]
    failed = {
        actor.id: f"{error.code().name}: {error.details()}"
        for actor, made in zip(actors, calls, strict=True)
        if (error := made.exception())
    }
    for channel in channels:
        channel.close()
    return failed
