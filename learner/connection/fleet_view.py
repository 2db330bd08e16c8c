"""The fleet as the learner sees it: actors that can be counted on, and the weights that they are to hold."""

from pathlib import Path

from learner.connection.session import RedisSession
from vision_sr1.config import Config
from vision_sr1.pipeline.fleet import Fleet, FleetView, file_digests
from vision_sr1.pipeline.wire import SCHEMA_VERSION
from vision_sr1.v1 import pipeline_pb2 as pb


class LearnerFleet:
    """The actors of a run. Only rank 0 announces anything."""

    def __init__(self, config: Config, session: RedisSession) -> None:
        self._run = config.run
        self._session = session
        self._fleet = Fleet(session.redis, session.keys)
        self._view = FleetView(self._fleet)
        self._published: pb.PublishedWeights | None = None

    def actors(self) -> list[pb.ActorInfo]:
        """Those that can be counted on."""
        actors: list[pb.ActorInfo] = self._session.run(self._view.look())
        return actors

    def announced(self) -> list[pb.ActorInfo]:
        """All that are there, counted on or not."""
        actors: list[pb.ActorInfo] = self._session.run(self._fleet.alive())
        return actors

    def is_behind(self, policy_version: int) -> bool:
        """Whether an actor that can be counted on lacks the version."""
        return any(actor.policy_version != policy_version for actor in self.actors())

    def exclude(self, actor_ids: list[str], *, for_good: bool = False) -> None:
        """Does not count on these until their next heartbeat, or until they are started again."""
        if actor_ids:
            self._session.run(self._view.exclude(actor_ids, for_good=for_good))

    def announce(self, policy_version: int, folder: Path | None = None) -> None:
        """Announces the current version, and the folder where actors that come late can read it."""
        weights = pb.PublishedWeights(schema_version=SCHEMA_VERSION, run=self._run.name, policy_version=policy_version)
        if folder is not None:
            weights.folder = str(folder.relative_to(self._run.path))
            weights.sha256.update(file_digests(folder))
        self._published = weights
        self.announce_again()

    def announce_again(self) -> None:
        """Announces what this learner announced last; where that is nothing, what another did is withdrawn."""
        self._session.run(self._fleet.publish(self._published))
