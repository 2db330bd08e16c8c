"""What a stream holds, to look at."""

from typing import Any

from redis.asyncio import Redis


async def stream_entries(redis: Redis, stream: str) -> list[dict[bytes, bytes]]:
    """The fields of each entry, oldest first; Redis' own types cover decoded replies too."""
    found: Any = await redis.xrange(stream)
    return [fields for _, fields in found]
