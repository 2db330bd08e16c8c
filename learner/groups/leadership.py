"""Which learner leads a run: the one that took over last. An older one that is still there gives way."""

from learner.connection.fleet_view import LearnerFleet
from learner.connection.session import RedisSession


class SupersededError(RuntimeError):
    """Another learner leads this run."""


class Leadership:
    """This learner's claim on a run: a generation, counted in Redis.

    Attributes:
        attempt: how many learners have led the run before this one.
    """

    def __init__(self, session: RedisSession, fleet: LearnerFleet) -> None:
        self._session = session
        self._fleet = fleet
        self._generation = 0
        self.attempt = 0

    def take(self) -> None:
        """Leads the run from now on; what an earlier learner published is not what this one holds."""
        self._fleet.announce_again()
        self._generation = int(self._session.run(self._session.redis.incr(self._session.keys.learner)))
        self.attempt = self._generation - 1

    def is_held(self) -> bool:
        """Whether no other learner has taken over since.

        A server that has lost everything is told again what only this learner knows.
        """
        generation = self._session.run(self._session.redis.get(self._session.keys.learner))
        if generation is None:
            self._session.run(self._session.redis.set(self._session.keys.learner, self._generation))
            self._fleet.announce_again()
            return True
        return int(generation) == self._generation
