"""A connection to a real Redis."""

from collections.abc import AsyncIterator

import pytest

from vision_sr1.config import Config
from vision_sr1.streams import RetryingRedis, connect


@pytest.fixture
async def redis(redis_config: Config) -> AsyncIterator[RetryingRedis]:
    client = await connect(redis_config.streams)
    yield client
    await client.aclose()
