"""Where the prompts of a run are: found out by reading the streams, when something seems to be lost."""

from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis

from vision_sr1.pipeline.scored_groups import ASSEMBLED
from vision_sr1.streams.keys import Keys

AT_ONCE = 256


class LostPrompts:
    """Looks for prompts on all streams.

    The streams are read in the order in which work goes through them, so that an item that moves meanwhile is seen.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis: Any = redis  # replies are typed as the union of all decodings
        self._keys = keys

    async def find(self, prompt_ids: Iterable[str], final_stream: str, group_size: int) -> list[str]:
        """Those whose groups will never come, and forgets that they, and what is missing of them, were ever written.

        Args:
            final_stream: where their groups are to come.
            group_size: rollouts that make a group.
        """
        wanted = set(prompt_ids)
        missing = wanted - await self._items("prompts")
        members: dict[str, set[int]] = {prompt_id: set() for prompt_id in missing}
        for rollout in await self._items("rollouts"):
            prompt_id, _, index = rollout.rpartition("/")
            if prompt_id in members:
                members[prompt_id].add(int(index))
        for prompt_id, found in members.items():
            found |= {int(field) for field in await self._redis.hkeys(self._keys.partial(prompt_id))}
        arrived = await self._items(ASSEMBLED) | await self._items(final_stream)
        lost = sorted(p for p, found in members.items() if p not in arrived and len(found) < group_size)
        for prompt_id in lost:
            gone = set(range(group_size)) - members[prompt_id]
            await self._redis.delete(
                self._keys.written("prompts", prompt_id),
                *(self._keys.written(stream, prompt_id) for stream in (ASSEMBLED, final_stream)),
                *(self._keys.written("rollouts", f"{prompt_id}/{index}") for index in gone),
            )
        return lost

    async def _items(self, stream: str) -> set[str]:
        """Ids of a stream's entries."""
        items: set[str] = set()
        start = "-"
        while True:
            entries = await self._redis.xrange(self._keys.stream(stream), min=start, count=AT_ONCE)
            items |= {fields[b"id"].decode() for _, fields in entries}
            if len(entries) < AT_ONCE:
                return items
            start = f"({entries[-1][0].decode()}"
