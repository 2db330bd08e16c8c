"""What a step finds: figures, and the checks that fail."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

Figure = float | int | str | bool | None | list[str]


@dataclass(frozen=True)
class Limit:
    """The largest value of a figure that is right."""

    value: float
    meaning: str


LIMITS = {
    "attention_error": Limit(
        0.02, "|bf16 - float32| / |float32| of attention's output and of each gradient; bf16 rounds to 0.004"
    ),
    "gradient_error": Limit(0.05, "the same of a whole step's gradient"),
    "logprob_difference": Limit(
        0.05,
        "mean |log-probability of an actor - that of transformers|, both in bf16; a run warns there",
    ),
    "actor_error_ratio": Limit(
        3.0, "mean |actor in bf16 - transformers in float32|, as a multiple of |transformers in bf16 - in float32|"
    ),
    "asleep_gib": Limit(4.0, "GiB that a sleeping actor keeps on the device: CUDA context, libraries, captured graphs"),
    "optimizer_bytes": Limit(
        5.0, "bytes a parameter that an optimizer step takes beyond what is held: a float32 gradient is 4"
    ),
    "leak_mib": Limit(1.0, "MiB by which allocated memory grows in five steps"),
}


class NotRunError(Exception):
    """A step cannot be run here; the message is the reason."""


@dataclass(frozen=True)
class Bench:
    """What a step is given.

    Attributes:
        device: `cuda` or `cpu`; on the CPU all sizes are small.
        folder: empty, of the step's own; deleted once the step is right.
        model: a checkpoint's folder for the comparison of log-probabilities; None: random weights.
        limits: by name, see `LIMITS`.
    """

    device: str
    folder: Path
    model: str | None
    limits: dict[str, float]

    @property
    def is_cuda(self) -> bool:
        """Whether there is a GPU."""
        return self.device == "cuda"


class Findings:
    """Filled by a step: figures in the order in which they were found, and what is wrong."""

    def __init__(self, limits: dict[str, float]) -> None:
        self._limits = limits
        self.figures: dict[str, Figure] = {}
        self.wrong: list[str] = []

    def figure(self, name: str, value: Figure) -> None:
        """Notes a figure that no check is about."""
        if isinstance(value, float):
            value = float(f"{value:.4g}") if math.isfinite(value) else str(value)  # JSON has no others
        self.figures[name] = value

    def within(self, limit: str, name: str, value: float) -> None:
        """Notes a figure, which is wrong where it exceeds a limit, or is not a number."""
        self.figure(name, value)
        if not value <= self._limits[limit]:
            self.wrong.append(f"{name} is {value:.4g}, more than {self._limits[limit]:g} (--limit {limit})")

    def holds(self, claim: str, is_true: bool) -> None:
        """Checks what has no measure; `claim` is what should be so."""
        if not is_true:
            self.wrong.append(f"not so: {claim}")


def relative_error(value: torch.Tensor, exact: torch.Tensor) -> float:
    """|value - exact| / |exact|, by Euclidean norms in float32."""
    exact = exact.float()
    return float((value.float() - exact).norm() / exact.norm())
