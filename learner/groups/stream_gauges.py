"""Depth and age of a run's streams, as metrics."""

import time

from prometheus_client import Gauge

from learner.connection.session import RedisSession
from vision_sr1.streams.keys import STREAMS
from vision_sr1.streams.status import depth_and_age

DEPTH = Gauge("vision_sr1_stream_depth", "Entries in a stream.", ["stream"])
AGE = Gauge("vision_sr1_stream_age_seconds", "Age of a stream's oldest entry.", ["stream"])

UPDATE_EVERY_S = 5.0


class StreamGauges:
    """Sets the gauges of all streams."""

    def __init__(self, session: RedisSession) -> None:
        self._session = session
        self._updated_at = float("-inf")

    def update(self) -> None:
        """Sets them, where that was not done for UPDATE_EVERY_S."""
        if time.monotonic() - self._updated_at < UPDATE_EVERY_S:
            return
        self._updated_at = time.monotonic()
        for name in STREAMS:
            depth, age_s = self._look(name)
            DEPTH.labels(name).set(depth)
            AGE.labels(name).set(age_s)

    def depths(self) -> str:
        """As a sentence has them."""
        return ", ".join(f"{name}: {self._look(name)[0]}" for name in STREAMS)

    def _look(self, name: str) -> tuple[int, float]:
        found: tuple[int, float] = self._session.run(
            depth_and_age(self._session.redis, self._session.keys.stream(name))
        )
        return found
