"""What the launcher sees of a run that goes on: depths of streams, and what has not started yet."""

import contextlib
import socket
import time
from collections.abc import Mapping

import redis

from vision_sr1.config import Config
from vision_sr1.run_folder.names import LOGS
from vision_sr1.runtime.hub import bytes_of_download
from vision_sr1.runtime.ports import host_and_port
from vision_sr1.streams import Keys

STREAMS = ("prompts", "rollouts", "scored")
NAME_AFTER_S = 30.0  # until then nothing is unusual, and logs need not be looked at
CONNECT_TIMEOUT_S = 0.2


class RunState:
    """Asks the run's Redis.

    Args:
        config: with the ports that are used.
        environment: of the run's services.
        has_learner: whether weights are published.
    """

    def __init__(self, config: Config, environment: Mapping[str, str], *, has_learner: bool) -> None:
        url = environment.get("VISION_SR1_REDIS_URL", config.streams.url or "")
        secret = config.streams.password.get_secret_value() if config.streams.password else None
        password = environment.get("VISION_SR1_REDIS_PASSWORD", secret)
        self._client = (
            redis.Redis.from_url(url, password=password, socket_timeout=1.0) if "sentinel" not in url else None
        )
        self._keys = Keys(config.streams_name)
        self._config = config
        self._has_learner = has_learner
        self._started = time.monotonic()

    def depths(self) -> dict[str, int]:
        """Entries by stream; empty while Redis cannot be read."""
        if self._client is None:
            return {}
        with contextlib.suppress(redis.RedisError):
            return {name: int(self._client.xlen(self._keys.stream(name))) for name in STREAMS}
        return {}

    def starting(self) -> str:
        """What is waited for before the first batch; after a while, where to look."""
        if time.monotonic() - self._started < NAME_AFTER_S:
            return f"starting services: waiting for {self._awaited()}"
        return f"waiting for {self._awaited()} (logs: {self._config.services_path / LOGS})"

    def _awaited(self) -> str:
        count, reward = self._config.actors.count, self._config.reward
        try:
            socket.create_connection((reward.host, reward.port), timeout=CONNECT_TIMEOUT_S).close()
        except OSError:
            return f"the reward service to listen at {host_and_port(reward.host, reward.port)}"
        if self._client is None:
            return "the first batch"
        try:
            actors = int(self._client.scard(self._keys.actors))
            is_published = not self._has_learner or bool(self._client.exists(self._keys.published))
        except redis.RedisError as error:
            return f"Redis ({error})"
        if actors < count:
            if (size := bytes_of_download(self._config.model.path)) is not None:
                return f"the download of {self._config.model.path}: {size / 2**30:.1f} GiB so far"
            return f"actors to load the model: {actors} of {count} did"
        return "the first batch" if is_published else "the learner to publish its weights"

    def close(self) -> None:
        """Closes the connection."""
        if self._client is not None:
            self._client.close()
