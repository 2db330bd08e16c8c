"""Waiting for scored groups: what has come, or what the loop is to do before it waits on.

Waiting is collective: rank 0 looks, and tells the others each time what happened, so that no rank is left in a
collective which another will not join.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from learner.connection.fleet_view import LearnerFleet
from learner.connection.images import RunImages
from learner.connection.session import RedisSession
from learner.distributed.rank_collectives import main_rank, share_groups
from learner.distributed.ranks import is_main
from learner.groups.leadership import Leadership, SupersededError
from learner.groups.stream_gauges import StreamGauges
from learner.groups.training_groups import STREAM as SCORED
from learner.groups.training_groups import TrainingGroups
from vision_sr1.config import Config
from vision_sr1.pipeline.evaluation_prompts import STREAM as EVALUATED
from vision_sr1.pipeline.evaluation_prompts import EvaluationPrompts
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

GROUPS = Counter(
    "vision_sr1_learner_groups", "Groups collected, by purpose and whether they had rollouts.", ["purpose", "state"]
)
ASKED_AGAIN = Counter("vision_sr1_learner_prompts_asked_again", "Prompts issued again because Redis lost them.")

POLL_S = 1.0


class GroupsTimeoutError(RuntimeError):
    """No scored group came for too long; the message says where work is stuck."""


@dataclass(frozen=True)
class PendingGroups:
    """Groups that the learner waits for.

    Attributes:
        purpose: of their prompts, training or evaluation.
        policy_version: that the prompts were issued at.
        prompt_ids: whose groups are wanted; of rank 0.
        is_to_come: whether a prompt will be issued later; its group is kept until then.
    """

    purpose: "pb.Purpose"
    policy_version: int
    prompt_ids: set[str]
    is_to_come: Callable[[str], bool] = lambda prompt_id: False  # noqa: ARG005

    @property
    def is_evaluation(self) -> bool:
        """Whether they are of evaluation."""
        return self.purpose == pb.PURPOSE_EVALUATION

    @property
    def stream(self) -> str:
        """The stream that they come on."""
        return EVALUATED if self.is_evaluation else SCORED


@dataclass(frozen=True)
class GroupsComplete:
    """All groups that were waited for, on every rank."""

    groups: list[pb.ScoredGroup]


@dataclass(frozen=True)
class PromptsLost:
    """The streams have lost these prompts, which are to be issued again; their ids on rank 0 alone."""

    prompt_ids: list[str]


@dataclass(frozen=True)
class ActorBehind:
    """An actor lacks the policy version that is waited at: it is to be published again."""


@dataclass(frozen=True)
class StopRequested:
    """The learner was asked to stop."""


@dataclass(frozen=True)
class Idle:
    """Nothing to act on; comes about once a second."""


Event = GroupsComplete | PromptsLost | ActorBehind | StopRequested | Idle
# As other ranks have them, where rank 0 tells them the place in this list.
_ELSEWHERE: tuple[Event, ...] = (GroupsComplete([]), PromptsLost([]), ActorBehind(), StopRequested(), Idle())
_KINDS = [type(event) for event in _ELSEWHERE]


@dataclass
class _Wait:
    """Where a wait stands: groups that came, those that are still wanted, and since when none came."""

    pending: PendingGroups
    count: int
    wanted: set[str]
    groups: list[pb.ScoredGroup] = field(default_factory=list)
    quiet_since: float = field(default_factory=time.monotonic)
    looked_at: float = field(default_factory=time.monotonic)


class GroupCollector:
    """Waits for scored groups, of training or of evaluation."""

    def __init__(
        self,
        config: Config,
        session: RedisSession,
        images: RunImages,
        leadership: Leadership,
        fleet: LearnerFleet,
        training: TrainingGroups,
        evaluation: EvaluationPrompts,
    ) -> None:
        self._config = config
        self._session = session
        self._images = images
        self._leadership = leadership
        self._fleet = fleet
        self._training = training
        self._evaluation = evaluation
        self._gauges = StreamGauges(session)

    def events(self, pending: PendingGroups, count: int) -> Iterator[Event]:
        """Waits for `count` of the pending groups; every rank iterates, and gets the same kinds of events.

        The last event is `GroupsComplete` or `StopRequested`. What others ask for, the loop does before it goes on.

        Raises:
            GroupsTimeoutError: nothing came for `learner.groups_timeout_s`.
            SupersededError: another learner leads the run.
        """
        wait = _Wait(pending, count, set(pending.prompt_ids))
        while True:
            event: Event = Idle()
            failure: RuntimeError | None = None
            if is_main():
                try:
                    event = self._look(wait)
                except (GroupsTimeoutError, SupersededError) as error:
                    event, failure = StopRequested(), error
                except RedisError:
                    if not self._session.is_stopping():
                        raise
                    event = StopRequested()
            told = main_rank(_KINDS.index(type(event)))
            if failure is not None:
                raise failure
            if not is_main():
                event = _ELSEWHERE[told]
            if isinstance(event, GroupsComplete):
                event = GroupsComplete(share_groups(wait.groups))
            yield event
            if isinstance(event, (GroupsComplete, StopRequested)):
                return

    def _look(self, wait: _Wait) -> Event:
        """Takes what has come; what follows from it."""
        if self._session.was_interrupted() and self._leadership.is_held():
            self._recover()
        came = self._collect(wait)
        wait.groups += came
        wait.wanted -= {group.id for group in came}
        now = time.monotonic()
        if came:
            wait.quiet_since = wait.looked_at = now
        if self._session.is_stopping():
            return StopRequested()
        if not self._leadership.is_held():
            raise SupersededError(f"another learner has taken over the run {self._config.run.name!r}")
        if len(wait.groups) >= wait.count:
            return GroupsComplete(wait.groups)
        if now - wait.quiet_since > self._config.learner.groups_timeout_s:
            raise GroupsTimeoutError(self._stuck(wait))
        if self._fleet.is_behind(wait.pending.policy_version):
            return ActorBehind()
        self._gauges.update()
        if now - wait.looked_at > 2 * self._config.streams.lease_s:
            wait.looked_at = now
            if lost := self._lost(wait):
                return PromptsLost(lost)
        return Idle()

    def _recover(self) -> None:
        """Finds what arrived while replies were lost, and releases images that nobody needs."""
        self._training.recover()
        self._session.run(self._evaluation.recover())
        self._images.release_unused()

    def _collect(self, wait: _Wait) -> list[pb.ScoredGroup]:
        """Groups that are wanted and there, or that come within POLL_S."""
        pending, count = wait.pending, wait.count - len(wait.groups)
        if count <= 0:
            return []
        groups: list[pb.ScoredGroup] = (
            self._session.run(self._evaluation.collect(wait.wanted, count, POLL_S))
            if pending.is_evaluation
            else self._training.collect(wait.wanted, count, POLL_S, pending.is_to_come)
        )
        for group in groups:
            purpose = "evaluation" if pending.is_evaluation else "train"
            GROUPS.labels(purpose, "complete" if group.rollouts else "empty").inc()
        return groups

    def _lost(self, wait: _Wait) -> list[str]:
        """Prompts that the streams have lost, as a server does that comes back without its last writes."""
        lost: list[str] = (
            self._session.run(self._evaluation.lost(wait.wanted))
            if wait.pending.is_evaluation
            else self._training.lost(wait.wanted)
        )
        if lost:
            ASKED_AGAIN.inc(len(lost))
            log.error(
                "prompts_reissued",
                message="Redis lost prompts; issuing them again",
                prompts=len(lost),
                stream=wait.pending.stream,
            )
        return lost

    def _stuck(self, wait: _Wait) -> str:
        return (
            f"timed out after {self._config.learner.groups_timeout_s:.0f} s waiting for {wait.pending.stream} groups: "
            f"received {len(wait.groups)} of {wait.count}; stream depths: {self._gauges.depths()}; actors alive: "
            f"{len(self._fleet.actors())}. Look at the logs of the service that reads the deepest stream, or raise "
            "learner.groups_timeout_s"
        )
