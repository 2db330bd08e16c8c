"""The learner's side of the streams: rank 0 feeds prompts and collects groups, all ranks learn of what it found.

Waiting is collective: rank 0 looks, and tells the others each time what to do next, so that no rank is left in a
collective which another will not join.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import structlog
import torch
import torch.distributed as dist
from prometheus_client import Counter, Gauge

from learner.engine import is_main
from learner.feeder import sampling_seed
from vision_sr1.config import Config
from vision_sr1.dataset import QuestionRow
from vision_sr1.fleet import Fleet, FleetView, file_digests
from vision_sr1.streams import Blobs, Entry, Keys, Output, Stream, connect
from vision_sr1.v1 import pipeline_pb2 as pb
from vision_sr1.wire import SCHEMA_VERSION, WireError, decode

log = structlog.get_logger()

GROUPS = Counter(
    "vision_sr1_learner_groups", "Groups collected, by purpose and whether they had rollouts.", ["purpose", "state"]
)
DEPTH = Gauge("vision_sr1_stream_depth", "Entries in a stream.", ["stream"])
AGE = Gauge("vision_sr1_stream_age_seconds", "Age of a stream's oldest entry.", ["stream"])

POLL_S = 1.0
_WAIT, _REPUBLISH, _DONE, _STOP = range(4)


class StoppedError(Exception):
    """The learner was asked to stop while it waited."""


class GroupsTimeoutError(RuntimeError):
    """No scored group came for too long; the message says where work is stuck."""


class LearnerStreams:
    """Prompts out, scored groups in."""

    def __init__(self, config: Config, is_stopping: Callable[[], bool]) -> None:
        self._config = config
        self.is_stopping = is_stopping
        self._runner = asyncio.Runner()
        self._redis = self._run(connect(config.streams))
        keys = Keys(config.run.name)
        self._blobs = Blobs(self._redis, keys, config.streams.image_ttl_s)
        self._fleet = Fleet(self._redis, keys)
        self._view = FleetView(self._fleet)
        self._streams = {
            name: Stream(self._redis, keys, name, config.streams, group="learner", consumer="learner", claims=False)
            for name in ("prompts", "rollouts", "scored", "evaluated")
        }
        self._keys = keys
        self._collected: dict[str, Entry] = {}  # by prompt id, until a checkpoint holds them
        self._redelivered: list[Entry] = []

    def open(self, *, resume: bool) -> None:
        """Makes the groups; a fresh run forgets what an earlier one of its name left, a resumed one takes it up."""
        for name in ("scored", "evaluated"):
            self._run(self._streams[name].open())
        self._run(self._fleet.publish(None))  # what an earlier learner published is not what this one holds
        if resume:
            self._redelivered = self._run(self._streams["scored"].read_own())
            self._run(self._acknowledge_own("evaluated"))
        else:
            self._run(self._forget())

    def feed(self, prompts: Iterable[tuple[str, QuestionRow]], purpose: Any, policy_version: int) -> None:
        """Issues prompts, to be answered under `policy_version` or a later one."""
        self._run(self._feed(prompts, purpose, policy_version))

    def collect(
        self, name: str, count: int, republish: Callable[[], None], stale: Callable[[], bool]
    ) -> list[pb.ScoredGroup]:
        """Waits for `count` groups on a stream; every rank calls it and gets them.

        Args:
            name: `scored` or `evaluated`.
            republish: called on every rank when rank 0's `stale` says that an actor lacks the current version.

        Raises:
            StoppedError: the learner was asked to stop.
            GroupsTimeoutError: nothing came for `groups_timeout_s`.
        """
        groups: list[pb.ScoredGroup] = []
        quiet_since = time.monotonic()
        while True:
            command, failure = _WAIT, ""
            if is_main():
                before = len(groups)
                groups += self._take(name, count - len(groups))
                if len(groups) > before:
                    quiet_since = time.monotonic()
                if self.is_stopping():
                    command = _STOP
                elif len(groups) >= count:
                    command = _DONE
                elif time.monotonic() - quiet_since > self._config.learner.groups_timeout_s:
                    command, failure = _STOP, self._stuck(name, len(groups), count)
                elif stale():
                    command = _REPUBLISH
            told = torch.tensor(command)
            dist.broadcast(told, 0)
            command = int(told)
            if command == _STOP:
                if failure:
                    raise GroupsTimeoutError(failure)
                raise StoppedError
            if command == _REPUBLISH:
                republish()
            if command == _DONE:
                return share(groups)

    def images(self, sha256s: Iterable[str]) -> dict[str, bytes]:
        """Encoded images by their hash."""

        async def fetch() -> dict[str, bytes]:
            return {sha: await self._blobs.get(pb.ImageRef(sha256=sha)) for sha in sha256s}

        return self._run(fetch())

    def image_refs(self, images: list[bytes]) -> list[pb.ImageRef]:
        """Stores encoded images for the actors."""

        async def put() -> list[pb.ImageRef]:
            return [await self._blobs.put(image) for image in images]

        return self._run(put())

    def acknowledge(self, prompt_ids: Iterable[str]) -> None:
        """Lets go of the groups of these prompts: a checkpoint holds them."""
        held = [entry for prompt_id in prompt_ids if (entry := self._collected.pop(prompt_id, None))]
        self._run(self._streams["scored"].acknowledge(held))

    def observe(self) -> None:
        """Sets the metrics of all streams."""

        async def look() -> None:
            for name, stream in self._streams.items():
                DEPTH.labels(name).set(await stream.depth())
                AGE.labels(name).set(await stream.age_s())

        self._run(look())

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
        self._run(self._fleet.publish(weights))

    def close(self) -> None:
        """Closes the connection."""
        self._run(self._redis.aclose())
        self._runner.close()

    def _run(self, work: Any) -> Any:
        return self._runner.run(work)

    def _take(self, name: str, count: int) -> list[pb.ScoredGroup]:
        stream = self._streams[name]
        if name == "scored" and self._redelivered:
            entries, self._redelivered = self._redelivered[:count], self._redelivered[count:]
        else:
            entries = self._run(stream.read(count, POLL_S)) if count else []
        if name == "scored":
            self._collected.update({entry.item: entry for entry in entries})
        else:
            self._run(stream.acknowledge(entries))
        groups = []
        for entry in entries:
            try:
                group = decode(pb.ScoredGroup, entry.message)
            except WireError as error:
                self._run(stream.set_aside(entry, str(error), []))
                group = pb.ScoredGroup(id=entry.item)
            purpose = "evaluation" if name == "evaluated" else "train"
            GROUPS.labels(purpose, "complete" if group.rollouts else "empty").inc()
            groups.append(group)
        return groups

    async def _feed(self, prompts: Iterable[tuple[str, QuestionRow]], purpose: Any, policy_version: int) -> None:
        sampling = self._config.sampling
        evaluation = purpose == pb.PURPOSE_EVALUATION
        outputs = []
        for prompt_id, row in prompts:
            prompt = pb.Prompt(
                schema_version=SCHEMA_VERSION,
                id=prompt_id,
                run=self._config.run.name,
                purpose=purpose,
                question=row.question,
                answer=row.answer,
                data_source=row.data_source,
                images=[await self._blobs.put(image) for image in row.images],
                group_size=1 if evaluation else sampling.group_size,
                sampling=pb.SamplingParams(
                    temperature=0.0 if evaluation else sampling.temperature,
                    top_p=1.0 if evaluation else sampling.top_p,
                    max_tokens=sampling.max_tokens,
                    seed=sampling_seed(self._config.run.seed, prompt_id) if sampling.seeded else None,
                ),
                policy_version=policy_version,
                issued_at=time.time(),
            )
            outputs.append(Output("prompts", prompt_id, prompt.SerializeToString()))
        await self._streams["prompts"].append(outputs)

    async def _acknowledge_own(self, name: str) -> None:
        await self._streams[name].acknowledge(await self._streams[name].read_own())

    async def _forget(self) -> None:
        streams = {self._keys.stream(name) for name in (*self._streams, "dead")}
        kept = (self._keys.actors, self._keys.stream("blob"))
        async for key in self._redis.scan_iter(match=self._keys.stream("*"), count=1000):
            name = key.decode()
            if name in streams:
                await self._redis.xtrim(name, maxlen=0, approximate=False)
            elif not name.startswith(kept):
                await self._redis.delete(name)

    def _stuck(self, name: str, have: int, wanted: int) -> str:
        depths = ", ".join(f"{s}: {self._run(stream.depth())}" for s, stream in self._streams.items())
        return (
            f"no group on {name!r} for {self._config.learner.groups_timeout_s:.0f} s ({have} of {wanted} came); "
            f"stream depths: {depths}; actors alive: {len(self.actors())}. Look at the logs of the stage after the "
            "deepest stream, or raise learner.groups_timeout_s"
        )


def share(groups: list[pb.ScoredGroup]) -> list[pb.ScoredGroup]:
    """Gives rank 0's groups to every rank, as serialized messages."""
    blobs = [group.SerializeToString() for group in groups]
    lengths = torch.tensor([len(blob) for blob in blobs], dtype=torch.int64)
    count = torch.tensor(len(blobs))
    dist.broadcast(count, 0)
    if dist.get_world_size() == 1:
        return groups
    if not is_main():
        lengths = torch.zeros(int(count), dtype=torch.int64)
    dist.broadcast(lengths, 0)
    payload = torch.frombuffer(bytearray(b"".join(blobs) or b"\0"), dtype=torch.uint8)
    if not is_main():
        payload = torch.zeros(max(1, int(lengths.sum())), dtype=torch.uint8)
    dist.broadcast(payload, 0)
    if is_main():
        return groups
    data, start, shared = payload.numpy().tobytes(), 0, []
    for length in lengths.tolist():
        shared.append(pb.ScoredGroup.FromString(data[start : start + length]))
        start += length
    return shared
