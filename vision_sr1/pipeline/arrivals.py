"""Scored groups as they arrive at one consumer of a stream: each once, whether or not replies were lost."""

from collections.abc import Container

import structlog
from prometheus_client import Counter

from vision_sr1.pipeline.wire import WireError, decode
from vision_sr1.streams import Entry, Stream
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

STRAYS = Counter("vision_sr1_learner_stray_groups", "Groups discarded because no step is waiting for them.", ["stream"])


class GroupArrivals:
    """The groups of `scored` or `evaluated`; a message that cannot be read arrives as an empty group."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._redelivered: list[Entry] = []

    async def open(self) -> None:
        """Makes the consumer group."""
        await self._stream.open()

    async def next(self, count: int, wait_s: float) -> list[tuple[Entry, pb.ScoredGroup]]:
        """Up to `count` groups that are there, or that come within `wait_s`."""
        entries, self._redelivered = self._redelivered[:count], self._redelivered[count:]
        return [(entry, await self._read(entry)) for entry in entries or await self._stream.read(count, wait_s)]

    async def recover(self, known: Container[bytes | str]) -> None:
        """Finds what arrived at this consumer, whoever it was then, and is not known by its entry id."""
        own = await self._stream.read_own()
        self._redelivered = [entry for entry in own if entry.entry_id not in known]

    async def acknowledge(self, entries: list[Entry]) -> None:
        """Removes groups from the stream."""
        await self._stream.acknowledge(entries)

    async def acknowledge_all(self) -> None:
        """Removes all that has arrived at this consumer, whoever it was then."""
        await self._stream.acknowledge(await self._stream.read_own())

    async def discard_stray(self, entry: Entry) -> None:
        """Removes a group that nobody waits for."""
        STRAYS.labels(self._stream.name).inc()
        log.info(
            "stray_group_discarded",
            message="Discarded a group that no step is waiting for",
            stream=self._stream.name,
            item=entry.item,
        )
        await self._stream.acknowledge([entry])

    async def _read(self, entry: Entry) -> pb.ScoredGroup:
        try:
            return decode(pb.ScoredGroup, entry.message)
        except WireError as error:
            await self._stream.dead_letter(entry, str(error))
            return pb.ScoredGroup(id=entry.item)
