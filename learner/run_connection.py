"""What a learner does on a run's Redis: prompts and their images out, scored groups in, the fleet beside them."""

from collections.abc import Callable, Iterable

from learner.connection.fleet_view import LearnerFleet
from learner.connection.images import RunImages
from learner.connection.session import RedisSession
from learner.groups.collector import GroupCollector
from learner.groups.leadership import Leadership
from learner.groups.training_groups import TrainingGroups
from vision_sr1.config import Config
from vision_sr1.data import QuestionRow
from vision_sr1.pipeline.evaluation_prompts import EvaluationPrompts
from vision_sr1.pipeline.prompt_issuer import PromptIssuer
from vision_sr1.streams import forget
from vision_sr1.v1 import pipeline_pb2 as pb


class RunConnection:
    """The parts, on one connection. Every rank makes one; `open`, `issue` and `finish` are for rank 0."""

    def __init__(self, config: Config, is_stopping: Callable[[], bool]) -> None:
        self.session = RedisSession(config, is_stopping)
        self.images = RunImages(config, self.session)
        self.fleet = LearnerFleet(config, self.session)
        self.leadership = Leadership(self.session, self.fleet)
        self.training_groups = TrainingGroups(config, self.session, self.images)
        redis, of_prompts = self.session.redis, self.images.of_prompts
        self._issuer = PromptIssuer(config, redis, of_prompts)
        self._evaluation = EvaluationPrompts(config, redis, of_prompts, consumer="learner")
        self.collector = GroupCollector(
            config,
            self.session,
            self.images,
            self.leadership,
            self.fleet,
            self.training_groups,
            self._evaluation,
        )

    def open(self, *, resume: bool) -> None:
        """Leads the run: a fresh one forgets what an earlier one of its name left, a resumed one takes it up."""
        if not resume:
            self.session.run(forget(self.session.redis, self.session.keys))
        self.training_groups.open()
        self.session.run(self._evaluation.open())
        self.leadership.take()
        if resume:
            self.session.run(self._evaluation.discard_all())

    def issue(self, prompts: Iterable[tuple[str, QuestionRow]], purpose: "pb.Purpose", policy_version: int) -> None:
        """Issues prompts, by their ids, to be answered under `policy_version` or a later one."""
        self.session.run(self._issuer.issue(prompts, purpose, policy_version))

    def finish(self) -> None:
        """Removes everything from the streams: the run is complete."""
        self.training_groups.acknowledge_all()
        self.session.run(self._evaluation.discard_all())
        self.images.release_all()

    def close(self) -> None:
        """Closes the connection."""
        self.session.close()
