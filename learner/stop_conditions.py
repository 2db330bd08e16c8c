"""When a run stops by itself: scalars beyond the limits of `learner.stop_when`, and steps that had to be skipped."""

import re
from collections.abc import Mapping, Sequence

from vision_sr1.config import LimitConfig, StopWhenConfig

SKIPPED = "skipped_steps"
SCALARS = {"grad_norm": r"grad_norm/mean", "kl": r"kl/.+", "approx_kl": r"approx_kl/.+"}  # that each limit is for


class DivergedError(RuntimeError):
    """The run was stopped by `learner.stop_when`; the message has the reason and the way out."""


class StopConditions:
    """Counts how often each limit was exceeded in a row.

    Attributes:
        in_a_row: batches by the name of their limit, and steps skipped; part of every checkpoint.
    """

    def __init__(self, settings: StopWhenConfig, in_a_row: Mapping[str, int]) -> None:
        self._settings = settings
        self.in_a_row = {name: in_a_row.get(name, 0) for name in (*SCALARS, SKIPPED)}
        for name, count in self.in_a_row.items():
            if count >= self._most(name):  # it has stopped for this, and was resumed all the same
                self.in_a_row[name] = 0

    @property
    def is_healthy(self) -> bool:
        """Whether the last batch was within all limits, and its last step was not skipped."""
        return not any(self.in_a_row.values())

    def batch(self, skipped: Sequence[bool], scalars: Mapping[str, float]) -> str | None:
        """Takes in a batch; why the run is to stop, None where it is not.

        Args:
            skipped: of each of its optimizer steps, in order.
            scalars: a limit is left as it was where its scalar is not there; a value that is no number exceeds it.
        """
        reasons = [reason for is_skipped in skipped if (reason := self._step(is_skipped))]
        for name, pattern in SCALARS.items():
            limit: LimitConfig = getattr(self._settings, name)
            values = {scalar: value for scalar, value in scalars.items() if re.fullmatch(pattern, scalar)}
            if limit.above is not None and values and (reason := self._limit(name, limit.above, values)):
                reasons.append(reason)
        return reasons[-1] if reasons else None

    def _most(self, name: str) -> int:
        if name == SKIPPED:
            return self._settings.skipped_steps
        limit: LimitConfig = getattr(self._settings, name)
        return limit.batches

    def _step(self, is_skipped: bool) -> str | None:
        count = self.in_a_row[SKIPPED] = self.in_a_row[SKIPPED] + 1 if is_skipped else 0
        if count < self._most(SKIPPED):
            return None
        return f"{count} optimizer steps in a row had a loss or gradient that is not finite ({SKIPPED})"

    def _limit(self, name: str, above: float, values: Mapping[str, float]) -> str | None:
        exceeding = {scalar: value for scalar, value in values.items() if not value <= above}
        count = self.in_a_row[name] = self.in_a_row[name] + 1 if exceeding else 0
        if count < self._most(name):
            return None
        scalar, value = max(exceeding.items(), key=lambda item: item[1])
        times = f"for {count} batches in a row" if count > 1 else "in one batch"
        return f"{scalar} is {value:.4g}, above {above:g} {times} ({name})"
