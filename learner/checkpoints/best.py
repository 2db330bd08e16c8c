"""Which policy of a run is the best, by the metric that `learner.keep_best` names."""

from collections.abc import Mapping

from vision_sr1.config import ConfigError


class BestScore:
    """The score of the policy as it is now, and the best that checkpoints have held.

    Attributes:
        name: of the metric; None: no policy is better than another.
        current: of the policy as it is now; None where it was not evaluated.
        best: of all checkpoints.
    """

    def __init__(self, name: str | None, best: float | None) -> None:
        self.name = name
        self.current: float | None = None
        self.best = best

    def evaluated(self, scalars: Mapping[str, float]) -> None:
        """Takes the score from an evaluation of the policy as it is now.

        Raises:
            ConfigError: the evaluation has no metric of that name.
        """
        if self.name is None:
            return
        if self.name not in scalars:
            known = ", ".join(sorted(scalars)) or "none, for data.evaluation is empty"
            raise ConfigError(f"learner.keep_best: no evaluation gives {self.name!r}; known: {known}")
        self.current = scalars[self.name]

    def policy_changed(self) -> None:
        """The policy is another now, which was not evaluated."""
        self.current = None

    def is_better(self) -> bool:
        """Whether the policy as it is now is better than all that checkpoints have held."""
        return self.current is not None and (self.best is None or self.current > self.best)

    def keep(self) -> None:
        """A checkpoint of the policy as it is now is begun."""
        if self.is_better():
            self.best = self.current
