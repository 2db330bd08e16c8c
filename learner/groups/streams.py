"""The learner's side of the streams: rank 0 feeds prompts and collects groups, all ranks learn of what it found.

Waiting is collective: rank 0 looks, and tells the others each time what to do next, so that no rank is left in a
collective which another will not join.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import Counter, Gauge
from redis.exceptions import RedisError

from learner.distributed.rank_collectives import main_rank, share_groups
from learner.distributed.ranks import is_main
from vision_sr1.config import Config
from vision_sr1.data import QuestionRow
from vision_sr1.pipeline.fleet import Fleet, FleetView, file_digests
from vision_sr1.pipeline.lost_prompts import Whereabouts
from vision_sr1.pipeline.prompt_message import prompt_message
from vision_sr1.pipeline.wire import SCHEMA_VERSION, WireError, decode
from vision_sr1.streams import Blobs, Entry, Keys, Output, PromptImages, Stream, connect, forget
from vision_sr1.streams.keys import STREAMS
from vision_sr1.streams.status import depth_and_age
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

GROUPS = Counter(
    "vision_sr1_learner_groups", "Groups collected, by purpose and whether they had rollouts.", ["purpose", "state"]
)
STRAYS = Counter("vision_sr1_learner_stray_groups", "Groups let go of because nobody waits for them.", ["stream"])
ASKED_AGAIN = Counter("vision_sr1_learner_prompts_asked_again", "Prompts issued again because the streams lost them.")
DEPTH = Gauge("vision_sr1_stream_depth", "Entries in a stream.", ["stream"])
AGE = Gauge("vision_sr1_stream_age_seconds", "Age of a stream's oldest entry.", ["stream"])

POLL_S = 1.0
OBSERVE_S = 5.0
SCARCE_MEMORY = 0.8  # of what the server may use
_WAIT, _REPUBLISH, _DONE, _STOP = range(4)


class StoppedError(Exception):
    """The learner was asked to stop while it waited."""


class GroupsTimeoutError(RuntimeError):
    """No scored group came for too long; the message says where work is stuck."""


class SupersededError(RuntimeError):
    """Another learner leads this run."""


@dataclass(frozen=True)
class Asked:
    """Groups that the learner waits for.

    Attributes:
        stream: `scored` or `evaluated`.
        policy_version: that the prompts were issued at.
        prompt_ids: whose groups are wanted; of rank 0.
        row: what a prompt was made of.
        is_to_come: whether a prompt will be issued later; its group is kept until then.
    """

    stream: str
    purpose: "pb.Purpose"
    policy_version: int
    prompt_ids: set[str]
    row: Callable[[str], QuestionRow]
    is_to_come: Callable[[str], bool] = lambda prompt_id: False  # noqa: ARG005


@dataclass
class _Waiting:
    """Where a wait for groups stands: those that came, those that are still wanted, and since when none came."""

    asked: Asked
    count: int
    wanted: set[str]
    groups: list[pb.ScoredGroup] = field(default_factory=list)
    quiet_since: float = field(default_factory=time.monotonic)
    looked_at: float = field(default_factory=time.monotonic)


class LearnerStreams:
    """Prompts out, scored groups in.

    Attributes:
        attempt: how many learners have led the run before this one, where it was resumed.
    """

    def __init__(self, config: Config, is_stopping: Callable[[], bool]) -> None:
        self._config = config
        self.is_stopping = is_stopping
        self.attempt = 0
        self._runner = asyncio.Runner()
        self._redis = self._run(connect(config.streams, hurried=is_stopping))
        keys = Keys(config.run.name)
        self._blobs = Blobs(self._redis, keys, config.streams.image_ttl_s)
        self._fleet = Fleet(self._redis, keys)
        self._view = FleetView(self._fleet)
        self._streams = {
            name: Stream(self._redis, keys, name, config.streams, group="learner", consumer="learner", claims=False)
            for name in STREAMS
        }
        self._keys = keys
        self._whereabouts = Whereabouts(self._redis, keys)
        self._collected: dict[str, Entry] = {}  # by prompt id, until a checkpoint holds them
        self._early: dict[str, tuple[Entry, pb.ScoredGroup]] = {}  # by id of prompts that are to come
        self._redelivered: dict[str, list[Entry]] = {"scored": [], "evaluated": []}
        self._observed_at = float("-inf")
        self._interruptions = 0
        self._server = ""  # the server that answered last, as it names this start of it
        self._images = PromptImages(self._blobs)
        self._published: pb.PublishedWeights | None = None

    def open(self, *, resume: bool) -> None:
        """Makes the groups; a fresh run forgets what an earlier one of its name left, a resumed one takes it up."""
        if not resume:
            self._run(forget(self._redis, self._keys))
        for name in ("scored", "evaluated"):
            self._run(self._streams[name].open())
        self._run(self._fleet.publish(None))  # what an earlier learner published is not what this one holds
        self._generation = int(self._run(self._redis.incr(self._keys.learner)))
        self.attempt = self._generation - 1
        if resume:
            self._run(self._acknowledge_own("evaluated"))

    def finish(self) -> None:
        """Lets go of everything: the run is complete."""
        for name in ("scored", "evaluated"):
            self._run(self._acknowledge_own(name))
        self._run(self._blobs.release_all_but(()))

    def feed(self, prompts: Iterable[tuple[str, QuestionRow]], purpose: Any, policy_version: int) -> None:
        """Issues prompts, to be answered under `policy_version` or a later one."""
        self._run(self._feed(prompts, purpose, policy_version))

    def collect(
        self,
        asked: Asked,
        count: int,
        *,
        republish: Callable[[], None],
        stale: Callable[[], bool],
        meanwhile: Callable[[], None],
    ) -> list[pb.ScoredGroup]:
        """Waits for `count` of the groups asked for; every rank calls it and gets them.

        Args:
            republish: called on every rank when rank 0's `stale` says that an actor lacks the current version.
            meanwhile: called on every rank about once a second.

        Raises:
            StoppedError: the learner was asked to stop.
            GroupsTimeoutError: nothing came for `groups_timeout_s`.
            SupersededError: another learner leads the run.
        """
        waiting = _Waiting(asked, count, set(asked.prompt_ids))
        while True:
            command = _WAIT
            failure: RuntimeError | None = None
            if is_main():
                try:
                    command = self._look(waiting, stale)
                except (GroupsTimeoutError, SupersededError) as error:
                    command, failure = _STOP, error
                except RedisError:
                    if not self.is_stopping():
                        raise
                    command = _STOP
            command = main_rank(command)
            if command == _STOP:
                raise failure or StoppedError
            if command == _REPUBLISH:
                republish()
            if command == _DONE:
                return share_groups(waiting.groups)
            meanwhile()

    def _look(self, waiting: _Waiting, stale: Callable[[], bool]) -> int:
        """Takes what has come, and says what all ranks are to do next."""
        asked = waiting.asked
        if self._is_unsure() and self._leads():
            self._take_stock()
        came = self._take(asked, waiting.wanted, waiting.count - len(waiting.groups))
        waiting.groups += came
        waiting.wanted -= {group.id for group in came}
        now = time.monotonic()
        if came:
            waiting.quiet_since = waiting.looked_at = now
        if self.is_stopping():
            return _STOP
        if not self._leads():
            raise SupersededError(f"another learner has taken over the run {self._config.run.name!r}")
        if len(waiting.groups) >= waiting.count:
            return _DONE
        if now - waiting.quiet_since > self._config.learner.groups_timeout_s:
            raise GroupsTimeoutError(self._stuck(asked.stream, len(waiting.groups), waiting.count))
        if stale():
            return _REPUBLISH
        if now - self._observed_at > OBSERVE_S:
            self._observed_at = now
            self._observe()
        if now - waiting.looked_at > 2 * self._config.streams.lease_s:
            waiting.looked_at = now
            self._ask_again(asked, waiting.wanted)
        return _WAIT

    def images(self, sha256s: Iterable[str]) -> dict[str, bytes]:
        """Encoded images by their hash."""

        async def fetch() -> dict[str, bytes]:
            return {sha: await self._blobs.get(pb.ImageRef(sha256=sha)) for sha in sha256s}

        return self._run(fetch())

    def image_refs(self, images: list[bytes]) -> list[pb.ImageRef]:
        """Stores encoded images for the actors, for use at once."""

        async def put() -> list[pb.ImageRef]:
            refs = [await self._blobs.put(image) for image in images]
            await self._blobs.release(ref.sha256 for ref in refs if ref.sha256 not in self._images)
            return refs

        return self._run(put())

    def acknowledge(self, prompt_ids: Iterable[str]) -> None:
        """Lets go of the groups of these prompts: a checkpoint holds them."""
        ids = list(prompt_ids)
        held = [entry for prompt_id in ids if (entry := self._collected.pop(prompt_id, None))]
        self._run(self._streams["scored"].acknowledge(held))
        self._run(self._images.release(ids))

    def memory_is_scarce(self) -> bool:
        """Whether Redis is about to refuse writes: a checkpoint would let go of what has been learned from."""
        memory = self._run(self._redis.info("memory"))
        allowed = int(memory.get("maxmemory", 0))
        return allowed > 0 and int(memory["used_memory"]) > SCARCE_MEMORY * allowed

    def actors(self) -> list[pb.ActorInfo]:
        """Those that can be counted on."""
        return self._run(self._view.look())

    def set_aside(self, actor_ids: list[str], *, for_good: bool = False) -> None:
        """Does not count on these until their hearts beat again, or until they are started again."""
        if actor_ids:
            self._run(self._view.set_aside(actor_ids, for_good=for_good))

    def published(self, policy_version: int, folder: Path | None = None) -> None:
        """Says that this is the current version, and where actors that come late can read it."""
        weights = pb.PublishedWeights(schema_version=SCHEMA_VERSION, policy_version=policy_version)
        if folder is not None:
            weights.folder = str(folder.relative_to(self._config.run.path))
            weights.sha256.update(file_digests(folder))
        self._published = weights
        self._run(self._fleet.publish(weights))

    def close(self) -> None:
        """Closes the connection."""
        self._run(self._redis.aclose())
        self._runner.close()

    def _run(self, work: Any) -> Any:
        return self._runner.run(work)

    def _leads(self) -> bool:
        """Whether no other learner has taken over since this one opened the streams."""
        generation = self._run(self._redis.get(self._keys.learner))
        if generation is None:  # the server has lost everything: what only this learner knows is written again
            self._run(self._redis.set(self._keys.learner, self._generation))
            self._run(self._fleet.publish(self._published))
            return True
        return int(generation) == self._generation

    def _observe(self) -> None:
        """Sets the metrics of all streams."""

        async def look() -> None:
            for name in self._streams:
                depth, age_s = await depth_and_age(self._redis, self._keys.stream(name))
                DEPTH.labels(name).set(depth)
                AGE.labels(name).set(age_s)

        self._run(look())

    def _is_unsure(self) -> bool:
        """Whether this is the first call, a reply was lost since the last, or the server is another than it was."""
        server = self._run(self._redis.info("server"))["run_id"]
        interruptions = self._redis.patience.interruptions
        unsure = interruptions > self._interruptions or server != self._server
        self._interruptions, self._server = interruptions, server
        return unsure

    def _take_stock(self) -> None:
        """Finds what this learner holds, whoever led the run when it came, and lets go of images that nobody needs.

        A server that comes back without its last writes has entries again that were acknowledged, and keeps images
        that were let go of.
        """
        known = {entry.entry_id for entry in self._collected.values()}
        known |= {entry.entry_id for entry, _ in self._early.values()}
        for name, waiting in self._redelivered.items():
            waiting[:] = [e for e in self._run(self._streams[name].read_own()) if e.entry_id not in known]
        self._run(self._blobs.release_all_but(self._images))

    def _take(self, asked: Asked, wanted: set[str], count: int) -> list[pb.ScoredGroup]:
        """Up to `count` groups that are wanted and there, or that come within POLL_S."""
        if count <= 0:
            return []
        groups = []
        for prompt_id in sorted(wanted & self._early.keys())[:count]:
            self._collected[prompt_id], group = self._early.pop(prompt_id)
            groups.append(group)
        for entry in [] if groups else self._next(asked.stream, count):
            group = self._read_group(asked.stream, entry)
            if entry.item in wanted:
                if asked.stream == "scored":
                    self._collected[entry.item] = entry
                else:
                    self._run(self._streams[asked.stream].acknowledge([entry]))
                    self._run(self._images.release([entry.item]))
                groups.append(group)
            elif asked.stream == "scored" and asked.is_to_come(entry.item):
                self._early[entry.item] = entry, group
            else:
                STRAYS.labels(asked.stream).inc()
                log.info("group let go of: nobody waits for it", stream=asked.stream, item=entry.item)
                self._run(self._streams[asked.stream].acknowledge([entry]))
        for group in groups:
            purpose = "evaluation" if asked.stream == "evaluated" else "train"
            GROUPS.labels(purpose, "complete" if group.rollouts else "empty").inc()
        return groups

    def _next(self, name: str, count: int) -> list[Entry]:
        """Entries that came to this consumer: earlier and were not seen, or now."""
        if waiting := self._redelivered[name]:
            self._redelivered[name] = waiting[count:]
            return waiting[:count]
        entries: list[Entry] = self._run(self._streams[name].read(count, POLL_S))
        return entries

    def _read_group(self, name: str, entry: Entry) -> pb.ScoredGroup:
        try:
            return decode(pb.ScoredGroup, entry.message)
        except WireError as error:
            self._run(self._streams[name].bury(entry, str(error)))
            return pb.ScoredGroup(id=entry.item)

    def _ask_again(self, asked: Asked, wanted: set[str]) -> None:
        """Issues prompts once more that the streams have lost, as a server does that comes back without its last
        writes."""
        group_size = 1 if asked.purpose == pb.PURPOSE_EVALUATION else self._config.sampling.group_size
        lost = self._run(self._whereabouts.lost(wanted, asked.stream, group_size))
        if lost:
            ASKED_AGAIN.inc(len(lost))
            log.error("prompts were lost by the streams and are issued again", prompts=len(lost), stream=asked.stream)
            self.feed([(prompt_id, asked.row(prompt_id)) for prompt_id in lost], asked.purpose, asked.policy_version)

    async def _feed(self, prompts: Iterable[tuple[str, QuestionRow]], purpose: Any, policy_version: int) -> None:
        outputs = []
        for prompt_id, row in prompts:
            images = await self._images.put(prompt_id, row.images)
            prompt = prompt_message(self._config, prompt_id, row, images, purpose, policy_version)
            outputs.append(Output("prompts", prompt_id, prompt.SerializeToString()))
        await self._streams["prompts"].append(outputs)

    async def _acknowledge_own(self, name: str) -> None:
        await self._streams[name].acknowledge(await self._streams[name].read_own())

    def _stuck(self, name: str, have: int, wanted: int) -> str:
        depths = ", ".join(f"{s}: {self._run(stream.depth())}" for s, stream in self._streams.items())
        return (
            f"no group on {name!r} for {self._config.learner.groups_timeout_s:.0f} s ({have} of {wanted} came); "
            f"stream depths: {depths}; actors alive: {len(self.actors())}. Look at the logs of the stage after the "
            "deepest stream, or raise learner.groups_timeout_s"
        )
