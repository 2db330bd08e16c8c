"""Sending one policy version to the actors given, in a transfer group of their own."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import structlog
import torch
from prometheus_client import Counter as Metric
from prometheus_client import Gauge, Histogram
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerWeightTransferEngine, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from learner.distributed.rank_collectives import main_rank
from learner.distributed.ranks import is_main
from learner.model.lora import adapter_config, adapter_parameters, adapter_shapes, merged_parameters, merged_shapes
from vision_sr1.config import Config
from vision_sr1.families import family_of
from vision_sr1.runtime.ports import address_towards
from vision_sr1.v1.pipeline_pb2 import ActorInfo
from vision_sr1.weights import plugin
from vision_sr1.weights.fleet_client import ActorUpdateError, FleetClient, answering
from vision_sr1.weights.transfer_group import SilentMembersError, TransferError

log = structlog.get_logger()

SYNC_SECONDS = Histogram("vision_sr1_weight_sync_seconds", "Duration of publishing a policy version.")
SYNC_BYTES = Metric("vision_sr1_weight_sync_bytes", "Bytes transferred, counted once per version.")
SYNC_FAILURES = Metric("vision_sr1_weight_sync_failures", "Failed attempts to publish a version.")
LOST_ACTORS = Metric("vision_sr1_weight_sync_lost_actors", "Actors that failed during a publication.")
POLICY_VERSION = Gauge("vision_sr1_learner_policy_version", "Policy version last published.")

PROBE_TIMEOUT_S = 5.0  # an engine answers between two of its steps


class EngineSource(WeightSource):
    """What actors need of a DeepSpeed engine's weights, in the dtype in which they hold them.

    All weights under the names that vLLM has for them, or only the adapters.
    """

    def __init__(self, engine: Any, dtype: torch.dtype, *, only_adapters: bool = False) -> None:
        self._policy = engine.module
        self._dtype = dtype
        self._wire_name = family_of(engine.module.config.model_type).wire_name
        self._shapes, self._parameters = (
            (adapter_shapes, adapter_parameters) if only_adapters else (merged_shapes, merged_parameters)
        )

    def metadata(self) -> list[ParamMeta]:
        """Names and full shapes; gathers nothing."""
        shapes = self._shapes(self._policy)
        return [ParamMeta(self._wire_name(name), self._dtype, tuple(shape)) for name, shape in shapes.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()  # the optimizer may write on other streams than the weights are read on
        with torch.no_grad():
            for name, tensor in self._parameters(self._policy):
                yield self._wire_name(name), tensor.detach().to(self._dtype)


class FleetTransfer:
    """Sends policy versions; forms a new transfer group whenever the fleet has changed.

    Attributes:
        members: the actors of the standing group.
        lost: those that broke the last transfer that failed.
        bytes: of all weights, as actors hold them.
    """

    def __init__(self, config: Config, engine: Any) -> None:
        plugin.register()
        self._config = config
        self._settings = config.learner.weights
        lora = config.learner.lora
        self._dtype = config.model.dtype
        self._source = EngineSource(engine, getattr(torch, self._dtype), only_adapters=lora.goes_to_actors)
        self._adapter_config = adapter_config(lora, config.model.path)
        self.bytes = sum(p.dtype.itemsize * torch.Size(p.shape).numel() for p in self._source.metadata())
        self._group_number = int(time.time())  # larger than any of an earlier learner
        self.lost: list[str] = []
        self.members: list[ActorInfo] = []
        self._transfer: TrainerWeightTransferEngine[Any] | None = None
        self._client: FleetClient | None = None

    @property
    def sent_bytes(self) -> int:
        """On the wire for the last version, once for all actors."""
        return int(getattr(self._transfer, "sent_bytes", self.bytes))

    @property
    def sent_s(self) -> float:
        """Seconds of the last transfer until everything had arrived; 0 where the backend does not say."""
        return float(getattr(self._transfer, "sent_s", 0.0))

    @property
    def frozen_s(self) -> dict[str, float]:
        """By actor, how long generation stood still for the last version."""
        return self._client.frozen_s if self._client is not None else {}

    def send(self, version: int, actors: list[ActorInfo]) -> bool:
        """Sends the weights to the actors given, as `version`. Every rank calls it; rank 0's actors count.

        Returns:
            Whether all of them hold the version now. After a failure the group is dissolved; the caller looks who is
            alive and calls again.
        """
        started = time.monotonic()
        failure: Exception | None = None
        if is_main():
            try:
                self._regroup(actors, version)
            except RuntimeError as error:
                failure = error
        if main_rank(int(failure is None)):
            try:
                self._run()
            except RuntimeError as error:
                failure = error
        if not main_rank(int(failure is None)):
            if is_main():
                SYNC_FAILURES.inc()
                self.lost = self._broken_by(failure)
                LOST_ACTORS.inc(len(self.lost))
                log.error(
                    "publish_failed",
                    message="Publishing failed; trying again with the remaining actors",
                    policy_version=version,
                    actors=_ids(self.members),
                    lost=self.lost,
                    error=str(failure),
                )
                self._dissolve()
            return False
        if is_main():
            SYNC_SECONDS.observe(time.monotonic() - started)
            SYNC_BYTES.inc(self.sent_bytes)
            POLICY_VERSION.set(version)
            log.info(
                "published",
                message="The policy version was published to all actors",
                policy_version=version,
                actors=len(self.members),
                frozen_s=round(max(self.frozen_s.values()), 3),
                seconds=round(time.monotonic() - started, 3),
            )
        return True

    def diagnose(self, version: int, actor_id: str) -> str:
        """Says what is wrong with an actor's weights, by sending all of them once more. Every rank calls it."""
        actors, before = self.members, self._digests().get(actor_id, {})
        self._dissolve()
        if not self.send(version, actors):
            return "sending all weights again failed"
        wrong = first_difference(before, self._digests().get(actor_id, {}))
        if wrong is None:
            return "it holds every parameter as the trainer sends it: the engine computes something else from them"
        return f"the first parameter that it did not hold as the trainer sends it: {wrong}"

    def reachable(self, actors: list[ActorInfo]) -> list[ActorInfo]:
        """Those that answer: all members of a standing group are taken to, others are asked."""
        if self._transfer is not None and _ids(actors) == _ids(self.members):
            return actors
        return answering(actors, PROBE_TIMEOUT_S, self._config.tls)

    def can_reach(self, actor: ActorInfo) -> bool:
        """Whether the actor takes weights in the way and the form in which they are sent; says so where it does not."""
        (backend, *_) = {member.weight_transfer for member in self.members} or {actor.weight_transfer}
        if (actor.weight_transfer, actor.dtype) == (backend, self._dtype):
            return True
        log.error(
            "actor_incompatible",
            message="The actor has another dtype or transfer backend; start it with the run's configuration",
            actor=actor.id,
            dtype=actor.dtype,
            weight_transfer=actor.weight_transfer,
            expected_dtype=self._dtype,
            expected_weight_transfer=backend,
        )
        return False

    def _run(self) -> None:
        """Runs the transfer; ranks beside rank 0 gather along."""
        if is_main():
            assert self._transfer is not None
            self._transfer.send_weights()
            assert self._client is not None
            self._compare(self._client)
        else:
            for _ in self._source:
                pass

    def _compare(self, client: FleetClient) -> None:
        """Raises where like actors hold different weights, naming the first that is other in one than in most."""
        like: dict[tuple[str, int], list[str]] = {}
        for actor in self.members:
            like.setdefault((actor.device, actor.world_size), []).append(actor.id)
        for actors in like.values():
            (usual, _), *others = Counter(client.checksums[actor] for actor in actors).most_common()
            if not others:
                continue
            odd = next(actor for actor in actors if client.checksums[actor] != usual)
            one = next(actor for actor in actors if client.checksums[actor] == usual)
            digests = client.digests()
            wrong = first_difference(digests[odd], digests[one])
            raise ActorUpdateError(odd, "FinishWeightUpdate", f"holds other weights than {one}: {wrong}")

    def _broken_by(self, failure: Exception | None) -> list[str]:
        """The actors that broke a publication."""
        assert self._client is not None
        if isinstance(failure, SilentMembersError):
            return self._client.ids(failure.ranks)
        if isinstance(failure, TransferError) and failure.breaker:  # not the trainer itself, which is rank 0
            return self._client.ids([failure.breaker])
        return [failure.actor_id] if isinstance(failure, ActorUpdateError) else []

    def _digests(self) -> dict[str, dict[str, str]]:
        return self._client.digests() if self._client is not None else {}

    def _regroup(self, actors: list[ActorInfo], version: int) -> None:
        """Has a transfer group of these actors, to which this version can be sent."""
        if self._client is not None and _ids(actors) == _ids(self.members):
            self._client.policy_version = version
            return
        self._dissolve()
        self._group_number += 1
        self.members = actors
        self._client = FleetClient(actors, self._group_number, self._config)
        self._client.policy_version = version
        self._transfer = WeightTransferTrainerFactory.trainer_init(
            self._init_info(actors), client=self._client, source=self._source
        )

    def _init_info(self, actors: list[ActorInfo]) -> Any:
        backend = actors[0].weight_transfer
        if backend == "adapter":
            from vision_sr1.weights.adapter_sender import AdapterTrainerInitInfo

            return AdapterTrainerInitInfo(rank=0, config=self._adapter_config)
        world_size = 1 + sum(actor.world_size for actor in actors)
        host, _, port = actors[0].address.rpartition(":")
        bucket_bytes = int(self._settings.bucket_mib * 2**20)
        from vision_sr1.weights.gloo_sender import GlooTrainerInitInfo
        from vision_sr1.weights.nccl_sender import BoundedNcclTrainerInitInfo

        return (GlooTrainerInitInfo if backend == "gloo" else BoundedNcclTrainerInitInfo)(
            rank=0,
            master_address=address_towards(host, int(port)),
            group_number=self._group_number,
            world_size=world_size,
            bucket_bytes=bucket_bytes,
            timeout_s=self._settings.sync_timeout_s,
            full_sync_every=self._settings.full_sync_every if self._settings.send == "delta" else 1,
        )

    def _dissolve(self) -> None:
        if self._transfer is not None:
            self._transfer.shutdown()
        if self._client is not None:
            self._client.close()
        self._transfer, self._client, self.members = None, None, []


def first_difference(one: dict[str, str], other: dict[str, str]) -> str | None:
    """The first parameter, in the model's order, whose digests differ; None where none does."""
    return next((name for name, digest in one.items() if other.get(name) != digest), None)


def _ids(actors: list[ActorInfo]) -> list[str]:
    return [actor.id for actor in actors]
