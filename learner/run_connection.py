"""What a learner does on a run's Redis: images and prompts out, scored groups in, the fleet beside them."""

from collections.abc import Callable

from learner.connection.fleet import LearnerFleet
from learner.connection.images import RunImages
from learner.connection.session import RedisSession
from learner.groups.collector import GroupCollector
from learner.groups.issuer import PromptIssuer
from learner.groups.leadership import Leadership
from vision_sr1.config import Config
from vision_sr1.streams import forget


class RunConnection:
    """The parts, on one connection. Every rank makes one; `open` and `finish` are for rank 0."""

    def __init__(self, config: Config, is_stopping: Callable[[], bool]) -> None:
        self.session = RedisSession(config, is_stopping)
        self.images = RunImages(config, self.session)
        self.issuer = PromptIssuer(config, self.session, self.images)
        self.fleet = LearnerFleet(config, self.session)
        self.leadership = Leadership(self.session, self.fleet)
        self.collector = GroupCollector(config, self.session, self.images, self.leadership, self.fleet)

    def open(self, *, resume: bool) -> None:
        """Leads the run: a fresh one forgets what an earlier one of its name left, a resumed one takes it up."""
        if not resume:
            self.session.run(forget(self.session.redis, self.session.keys))
        self.collector.open()
        self.leadership.take()
        if resume:
            self.collector.acknowledge_all("evaluated")

    def finish(self) -> None:
        """Removes everything from the streams: the run is complete."""
        for name in ("scored", "evaluated"):
            self.collector.acknowledge_all(name)
        self.images.release_all()

    def close(self) -> None:
        """Closes the connection."""
        self.session.close()
