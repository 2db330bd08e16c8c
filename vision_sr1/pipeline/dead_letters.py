"""The dead letters of a run: what could not be handled, why, and what becomes of it."""

import time
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from vision_sr1.pipeline.scored_groups import group_stream
from vision_sr1.streams.keys import DEAD_STREAM, Keys


class NoDeadLetterError(LookupError):
    """There is no dead letter of this name."""


@dataclass(frozen=True)
class DeadLetter:
    """One entry that could not be handled.

    Attributes:
        name: "{stream}/{item}", by which it is asked for.
        error: of its last delivery.
        consumer: which set it aside.
        age_s: since then.
    """

    entry_id: bytes
    name: str
    message: bytes
    error: str
    deliveries: int
    consumer: str
    age_s: float

    @property
    def stream(self) -> str:
        """Where it was."""
        return self.name.partition("/")[0]

    @property
    def item(self) -> str:
        """Its id there."""
        return self.name.partition("/")[2]


class DeadLetters:
    """Lists, retries and drops them."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis: Any = redis  # replies are typed as the union of all decodings
        self._keys = keys

    async def all(self) -> list[DeadLetter]:
        """Oldest first."""
        return [_letter(*entry) for entry in await self._redis.xrange(self._keys.stream(DEAD_STREAM))]

    async def get(self, name: str) -> DeadLetter:
        """One of them.

        Raises:
            NoDeadLetterError: there is none of this name.
        """
        for letter in await self.all():
            if letter.name == name:
                return letter
        raise NoDeadLetterError(f"no dead letter {name!r}; `vision-sr1 streams dead list` lists them")

    async def retry(self, letter: DeadLetter) -> None:
        """Puts an entry back into its stream, as if it had never been there.

        A prompt's group comes though an empty one came before. A rollout joins its group if that still waits for other
        members; otherwise it is scored for its trace alone.
        """
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(self._keys.written(DEAD_STREAM, letter.name), self._keys.failure(letter.stream, letter.item))
            if letter.stream == "rollouts":
                group, _, index = letter.item.rpartition("/")
                pipe.hdel(self._keys.partial(group), index)
            else:
                pipe.delete(self._keys.written(group_stream(letter.item), letter.item))
            pipe.xdel(self._keys.stream(DEAD_STREAM), letter.entry_id)
            pipe.xadd(self._keys.stream(letter.stream), {"id": letter.item, "message": letter.message})
            await pipe.execute()

    async def drop(self, letter: DeadLetter) -> None:
        """Delete a dead letter."""
        await self._redis.xdel(self._keys.stream(DEAD_STREAM), letter.entry_id)


def _letter(entry_id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    return DeadLetter(
        entry_id=entry_id,
        name=fields[b"id"].decode(),
        message=fields[b"message"],
        error=fields.get(b"error", b"").decode(errors="replace"),
        deliveries=int(fields.get(b"deliveries", b"1")),
        consumer=fields.get(b"consumer", b"").decode(errors="replace"),
        age_s=max(0.0, time.time() - int(entry_id.split(b"-")[0]) / 1000),
    )
