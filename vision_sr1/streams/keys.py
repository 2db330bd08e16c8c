"""Names of a run's keys. The braces put all of them in one slot of a Redis cluster, as the scripts need."""

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

STREAMS = ("prompts", "rollouts", "assembled", "scored", "evaluated")
DEAD_STREAM = "dead"


@dataclass(frozen=True)
class Keys:
    """The keys of one run."""

    run: str

    def stream(self, name: str) -> str:
        """The stream `prompts`, `rollouts`, `assembled`, `scored`, `evaluated` or `dead`."""
        return f"vision_sr1:{{{self.run}}}:{name}"

    def written(self, stream: str, item: str) -> str:
        """Marks that `item` was written to `stream`, so that a repeated delivery does not write it again."""
        return f"{self.stream(stream)}:written:{item}"

    def failure(self, stream: str, item: str) -> str:
        """Why `item` could not be handled when it was last delivered."""
        return f"{self.stream(stream)}:failure:{item}"

    def partial(self, group: str) -> str:
        """The scored rollouts of a group that is not complete yet, by sample index."""
        return f"{self.stream('partial')}:{group}"

    def blob(self, sha256: str) -> str:
        """An image."""
        return f"{self.stream('blob')}:{sha256}"

    @property
    def learner(self) -> str:
        """How many learners have led the run: each knows by it whether another has taken its place."""
        return self.stream("learner")

    @property
    def actors(self) -> str:
        """Ids of actors that have registered."""
        return self.stream("actors")

    @property
    def published(self) -> str:
        """The policy version published last."""
        return self.stream("published")

    def actor(self, actor_id: str) -> str:
        """One actor's announcement; expires without heartbeats."""
        return f"{self.actors}:{actor_id}"


async def forget(redis: Redis, keys: Keys) -> None:
    """Empties a run's streams and deletes what else is kept of it, but for its images and its actors."""
    client: Any = redis  # replies are typed as the union of all decodings
    streams = {keys.stream(name) for name in (*STREAMS, DEAD_STREAM)}
    async for key in client.scan_iter(match=keys.stream("*"), count=1000):
        name = key.decode()
        if name in streams:
            await client.xtrim(name, maxlen=0, approximate=False)
        elif not name.startswith((keys.blob(""), keys.actors)):
            await client.delete(name)
