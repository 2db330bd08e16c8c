"""Publishing: a policy version goes to all actors that can be counted on, however often some of them fail."""

import time
from collections import Counter
from collections.abc import Callable

import structlog
import torch
import torch.distributed as dist

from learner.connection.fleet_view import LearnerFleet
from learner.devices.turns import ACTOR_START_S
from learner.distributed.ranks import is_main
from learner.publishing.fleet_transfer import FleetTransfer
from learner.publishing.probe import Probe, WeightsDivergedError
from learner.publishing.tolerance import Tolerance
from learner.stop_request import StoppedError
from vision_sr1.config import Config
from vision_sr1.v1.pipeline_pb2 import ActorInfo

log = structlog.get_logger()

ACTOR_WAIT_S = 300.0  # once there has been one


class PublishError(RuntimeError):
    """A policy version could not be published to any actor."""


class Publisher:
    """Brings the fleet to a policy version and looks whether it has arrived. Every rank calls its methods."""

    def __init__(
        self,
        config: Config,
        transfer: FleetTransfer,
        fleet: LearnerFleet,
        probe: Probe,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._settings = config.learner.weights
        self._transfer = transfer
        self._fleet = fleet
        self._probe = probe
        self._is_stopping = is_stopping
        self._published = False
        self._verified = False
        self._tolerance = Tolerance(config.model.dtype, config.learner.weights.verify_tolerance)

    def publish(self, version: int) -> None:
        """Sends the version to every actor that answers; tries again with the survivors where one fails.

        Raises:
            PublishError: no attempt succeeded, or there was no actor for ACTOR_WAIT_S (at first ACTOR_START_S).
            StoppedError: the learner was asked to stop while it waited for an actor.
            WeightsDivergedError: an actor computes something else than the trainer.
            ImagesIgnoredError: the trainer or an actor ignores images.
        """
        failures: Counter[str] = Counter()
        for _ in range(self._settings.attempts):
            if self._transfer.send(version, self._wait_for_actors()):
                self._published = True
                if is_main():
                    self._fleet.announce(version)
                if self._settings.verify_every and (not self._verified or version % self._settings.verify_every == 0):
                    self._verify(version)
                return
            if is_main():
                failures.update(self._transfer.lost)
                again = [actor for actor in self._transfer.lost if failures[actor] > 1]
                self._fleet.exclude(self._transfer.lost)
                self._fleet.exclude(again, for_good=True)
        raise PublishError(
            f"policy version {version} could not be published in {self._settings.attempts} attempts; see the log for "
            "the actors and phases that failed"
        )

    def _verify(self, version: int) -> None:
        comparisons = self._probe.comparisons(version, self._transfer.members)
        self._verified = True
        found = {actor: comparison.deviation for actor, comparison in comparisons.items()}
        worst = max(found, key=lambda actor: found[actor], default=None)
        if worst is None:
            return
        limit = self._tolerance.limit
        verdict = self._tolerance.judge(found[worst])
        if verdict == "different":
            raise WeightsDivergedError(
                f"policy version {version}: log-probabilities of actor {worst} differ from the trainer's by "
                f"{found[worst]:.4f} on average, more than {limit:.4f} (learner.weights.verify_tolerance); "
                + self._transfer.diagnose(version, worst)
            )
        if verdict == "suspect" and is_main():
            log.warning(
                "weights_suspect",
                message="Log-probabilities of an actor differ from the trainer's more than rounding explains at most "
                "sizes; the run goes on",
                policy_version=version,
                actor=worst,
                mean_difference=found[worst],
                stops_at=limit,
            )

    def _wait_for_actors(self) -> list[ActorInfo]:
        """The actors that answer; on ranks beside rank 0 an empty list."""
        timeout_s = ACTOR_WAIT_S if self._published else ACTOR_START_S
        deadline = time.monotonic() + timeout_s
        while True:
            actors = self._reachable() if is_main() else []
            state = torch.tensor([len(actors), int(self._is_stopping()), int(time.monotonic() > deadline)])
            dist.broadcast(state, 0)
            if state[0]:
                return actors
            if state[1]:
                raise StoppedError
            if state[2]:
                raise PublishError(f"no actor announced itself for {timeout_s:.0f} s; are the actors running?")
            time.sleep(0.5)

    def _reachable(self) -> list[ActorInfo]:
        actors = self._fleet.actors()
        if strangers := [actor for actor in actors if not self._transfer.can_reach(actor)]:
            self._fleet.exclude([actor.id for actor in strangers], for_good=True)
            actors = [actor for actor in actors if actor not in strangers]
        reachable = self._transfer.reachable(actors)
        self._fleet.exclude([actor.id for actor in actors if actor not in reachable])
        return reachable
