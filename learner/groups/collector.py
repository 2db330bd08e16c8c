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

from learner.connection.fleet import LearnerFleet
from learner.connection.images import RunImages
from learner.connection.session import RedisSession
from learner.distributed.rank_collectives import main_rank, share_groups
from learner.distributed.ranks import is_main
from learner.groups.leadership import Leadership, SupersededError
from learner.groups.stream_gauges import StreamGauges
from vision_sr1.config import Config
from vision_sr1.pipeline.lost_prompts import Whereabouts
from vision_sr1.pipeline.wire import WireError, decode
from vision_sr1.streams import Entry, Stream
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

GROUPS = Counter(
    "vision_sr1_learner_groups", "Groups collected, by purpose and whether they had rollouts.", ["purpose", "state"]
)
STRAYS = Counter("vision_sr1_learner_stray_groups", "Groups let go of because nobody waits for them.", ["stream"])
ASKED_AGAIN = Counter("vision_sr1_learner_prompts_asked_again", "Prompts issued again because the streams lost them.")

POLL_S = 1.0


class GroupsTimeoutError(RuntimeError):
    """No scored group came for too long; the message says where work is stuck."""


@dataclass(frozen=True)
class PendingGroups:
    """Groups that the learner waits for.

    Attributes:
        stream: `scored` or `evaluated`.
        policy_version: that the prompts were issued at.
        prompt_ids: whose groups are wanted; of rank 0.
        is_to_come: whether a prompt will be issued later; its group is kept until then.
    """

    stream: str
    purpose: "pb.Purpose"
    policy_version: int
    prompt_ids: set[str]
    is_to_come: Callable[[str], bool] = lambda prompt_id: False  # noqa: ARG005


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
    """Takes scored groups from the streams. Those to learn from stay there until a checkpoint holds them."""

    def __init__(
        self, config: Config, session: RedisSession, images: RunImages, leadership: Leadership, fleet: LearnerFleet
    ) -> None:
        self._config = config
        self._session = session
        self._images = images
        self._leadership = leadership
        self._fleet = fleet
        self._gauges = StreamGauges(session)
        self._streams = {
            name: Stream(
                session.redis, session.keys, name, config.streams, group="learner", consumer="learner", claims=False
            )
            for name in ("scored", "evaluated")
        }
        self._whereabouts = Whereabouts(session.redis, session.keys)
        self._collected: dict[str, Entry] = {}  # by prompt id, until a checkpoint holds them
        self._early: dict[str, tuple[Entry, pb.ScoredGroup]] = {}  # by id of prompts that are to come
        self._redelivered: dict[str, list[Entry]] = {"scored": [], "evaluated": []}

    def open(self) -> None:
        """Makes the consumer groups."""
        for stream in self._streams.values():
            self._session.run(stream.open())

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

    def acknowledge(self, prompt_ids: list[str]) -> None:
        """Removes the groups of these prompts from the streams: a checkpoint holds what was learned from them."""
        held = [entry for prompt_id in prompt_ids if (entry := self._collected.pop(prompt_id, None))]
        self._session.run(self._streams["scored"].acknowledge(held))
        self._images.release(prompt_ids)

    def acknowledge_all(self, name: str) -> None:
        """Removes all that has come to this learner on a stream, or to those before it."""
        stream = self._streams[name]
        self._session.run(stream.acknowledge(self._session.run(stream.read_own())))

    def _look(self, wait: _Wait) -> Event:
        """Takes what has come; what follows from it."""
        if self._session.was_interrupted() and self._leadership.is_held():
            self._recover()
        came = self._take(wait.pending, wait.wanted, wait.count - len(wait.groups))
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
        """Finds what this learner holds, whoever led the run when it came, and releases images that nobody needs.

        A server that comes back without its last writes has entries again that were acknowledged, and keeps images
        that were released.
        """
        known = {entry.entry_id for entry in self._collected.values()}
        known |= {entry.entry_id for entry, _ in self._early.values()}
        for name, redelivered in self._redelivered.items():
            own = self._session.run(self._streams[name].read_own())
            redelivered[:] = [entry for entry in own if entry.entry_id not in known]
        self._images.release_unused()

    def _take(self, pending: PendingGroups, wanted: set[str], count: int) -> list[pb.ScoredGroup]:
        """Up to `count` groups that are wanted and there, or that come within POLL_S."""
        if count <= 0:
            return []
        groups = []
        for prompt_id in sorted(wanted & self._early.keys())[:count]:
            self._collected[prompt_id], group = self._early.pop(prompt_id)
            groups.append(group)
        for entry in [] if groups else self._next(pending.stream, count):
            group = self._read_group(pending.stream, entry)
            if entry.item in wanted:
                if pending.stream == "scored":
                    self._collected[entry.item] = entry
                else:
                    self._session.run(self._streams[pending.stream].acknowledge([entry]))
                    self._images.release([entry.item])
                groups.append(group)
            elif pending.stream == "scored" and pending.is_to_come(entry.item):
                self._early[entry.item] = entry, group
            else:
                STRAYS.labels(pending.stream).inc()
                log.info("group let go of: nobody waits for it", stream=pending.stream, item=entry.item)
                self._session.run(self._streams[pending.stream].acknowledge([entry]))
        for group in groups:
            purpose = "evaluation" if pending.stream == "evaluated" else "train"
            GROUPS.labels(purpose, "complete" if group.rollouts else "empty").inc()
        return groups

    def _next(self, name: str, count: int) -> list[Entry]:
        """Entries that came to this consumer: earlier and were not seen, or now."""
        if waiting := self._redelivered[name]:
            self._redelivered[name] = waiting[count:]
            return waiting[:count]
        entries: list[Entry] = self._session.run(self._streams[name].read(count, POLL_S))
        return entries

    def _read_group(self, name: str, entry: Entry) -> pb.ScoredGroup:
        try:
            return decode(pb.ScoredGroup, entry.message)
        except WireError as error:
            self._session.run(self._streams[name].bury(entry, str(error)))
            return pb.ScoredGroup(id=entry.item)

    def _lost(self, wait: _Wait) -> list[str]:
        """Prompts that the streams have lost, as a server does that comes back without its last writes."""
        pending = wait.pending
        group_size = 1 if pending.purpose == pb.PURPOSE_EVALUATION else self._config.sampling.group_size
        lost: list[str] = self._session.run(self._whereabouts.lost(wait.wanted, pending.stream, group_size))
        if lost:
            ASKED_AGAIN.inc(len(lost))
            log.error("prompts were lost by the streams and are issued again", prompts=len(lost), stream=pending.stream)
        return lost

    def _stuck(self, wait: _Wait) -> str:
        return (
            f"no group on {wait.pending.stream!r} for {self._config.learner.groups_timeout_s:.0f} s "
            f"({len(wait.groups)} of {wait.count} came); stream depths: {self._gauges.depths()}; actors alive: "
            f"{len(self._fleet.actors())}. Look at the logs of the stage after the deepest stream, or raise "
            "learner.groups_timeout_s"
        )
