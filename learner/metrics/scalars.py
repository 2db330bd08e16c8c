"""Training curves: each step's scalars go to Prometheus gauges, a JSON-lines file, and the trackers.

A scalar is named `family/member`: `kl/description` becomes the Prometheus gauge `vision_sr1_learner_kl` with the label
`name="description"`, and the TensorBoard tag `kl/description`. `reference` declares all of them.
"""

import json
import math
import time
from collections.abc import Sequence
from functools import cache
from types import TracebackType
from typing import Self

import structlog
from prometheus_client import Gauge

from learner.metrics.trackers import TrackedExample, Trackers
from vision_sr1.config import Config
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.names import SCALARS

log = structlog.get_logger()

PHASE = Gauge("vision_sr1_learner_phase", "1 for the phase the learner is in.", ["phase"])
STEP = Gauge("vision_sr1_learner_step", "Steps finished in this phase.")
TOTAL = Gauge("vision_sr1_learner_total_steps", "Steps this phase will have.")


@cache
def _gauge(family: str) -> Gauge:
    return Gauge(f"vision_sr1_learner_{family}", f"Learner: {family}.", ["name"])


class ScalarLog:
    """The curves of one phase, written by rank 0."""

    def __init__(self, config: Config, *, phase: str, total_steps: int, enabled: bool) -> None:
        self._enabled = enabled
        if not enabled:
            return
        config.run.path.mkdir(parents=True, exist_ok=True)
        jsonl.drop_incomplete_line(config.run.path / SCALARS)
        self._file = (config.run.path / SCALARS).open("a", encoding="utf-8")
        self._trackers = Trackers(config)
        PHASE.labels(phase).set(1)
        TOTAL.set(total_steps)

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Records the scalars of a step; names are `family/member`. One that is not finite is left out, and logged."""
        if not self._enabled:
            return
        if wrong := {name: str(value) for name, value in scalars.items() if not math.isfinite(value)}:
            log.error("scalars_not_finite", message="Scalars are not finite and are left out", step=step, scalars=wrong)
            scalars = {name: value for name, value in scalars.items() if name not in wrong}
        STEP.set(step)
        for name, value in scalars.items():
            family, _, member = name.partition("/")
            _gauge(family).labels(member).set(value)
        self._trackers.scalars(step, scalars)
        self._file.write(json.dumps({"step": step, "time": time.time(), **scalars}) + "\n")
        self._file.flush()

    def show(self, step: int, title: str, samples: Sequence[TrackedExample]) -> None:
        """Has trackers show answers."""
        if self._enabled and samples:
            self._trackers.samples(step, title, samples)

    def close(self) -> None:
        """Flushes everything."""
        if self._enabled:
            self._file.close()
            self._trackers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
