"""How far an actor's log-probabilities may be from the trainer's, which compute the same in another order."""

from typing import Literal

# Mean |difference| at which a run stops, by dtype. Healthy engines were at 3e-7 in float32 and, at 36 layers, at 0.004
# to 0.02 in bfloat16 (docs/gpu.md).
STOP = {"float32": 0.02, "bfloat16": 0.2, "float16": 0.1}
WARN = 0.25  # of it
RISE = 0.05  # beyond what the first version had; rounding does not grow with the versions

Verdict = Literal["equal", "suspect", "different"]


class Tolerance:
    """Judges one version after another.

    Args:
        dtype: of the weights.
        stop: in place of the dtype's own value.

    Attributes:
        limit: from which on the next version is `different`.
    """

    def __init__(self, dtype: str, stop: float | None) -> None:
        self.limit = STOP[dtype] if stop is None else stop
        self._warn = WARN * self.limit
        self._is_first = True

    def judge(self, deviation: float) -> Verdict:
        """Whether the engine computes what the trainer computes.

        Args:
            deviation: mean |difference| of log-probabilities over the tokens that an actor sampled.
        """
        if deviation > self.limit:
            return "different"
        if self._is_first:
            self.limit = min(self.limit, deviation + RISE)
            self._is_first = False
        return "suspect" if deviation > self._warn else "equal"
