"""All trackers of a run, each in a thread of its own with a bounded queue.

One that is slow, away or broken costs what it was to show, and never a step of training.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog
from prometheus_client import Counter

from learner.metrics.trackers.base import TrackedExample, Tracker
from learner.metrics.trackers.mlflow import MLflow
from learner.metrics.trackers.tensorboard import TensorBoard
from learner.metrics.trackers.trackio import Trackio
from learner.metrics.trackers.wandb import WeightsAndBiases
from vision_sr1.config import Config, TrackerName

log = structlog.get_logger()

LOST = Counter("vision_sr1_learner_tracker_lost", "Steps and tables that a tracker did not accept.", ["tracker"])
BEHIND = 256  # steps and tables that a tracker may be
OPEN_AGAIN_S = 60.0
END_S = 30.0

TRACKERS: dict[TrackerName, Callable[[Config], Tracker]] = {
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}


class Trackers:
    """All that are configured, TensorBoard among them."""

    def __init__(self, config: Config) -> None:
        makers: dict[str, Callable[[Config], Tracker]] = {n: TRACKERS[n] for n in config.metrics.trackers}
        if config.metrics.tensorboard:
            makers["tensorboard"] = TensorBoard
        self._threads = [_Thread(name, partial(make, config)) for name, make in makers.items()]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values of a step."""
        for thread in self._threads:
            thread.give(lambda tracker: tracker.scalars(step, values))

    def samples(self, step: int, title: str, samples: Sequence[TrackedExample]) -> None:
        """Shows answers."""
        for thread in self._threads:
            thread.give(lambda tracker: tracker.samples(step, title, samples))

    def close(self) -> None:
        """Waits until all have what they were given, for so long as END_S."""
        deadline = time.monotonic() + END_S
        for thread in self._threads:
            thread.end()
        for thread in self._threads:
            thread.wait(deadline)


class _Thread:
    """One tracker's thread. What fails is lost, counted and logged; a tracker that cannot be opened is tried again."""

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        self._name = name
        self._make = make
        self._work: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(BEHIND)
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def give(self, work: Callable[[Tracker], None]) -> None:
        try:
            self._work.put_nowait(work)
        except queue.Full:
            self._lose(f"{BEHIND} steps behind")

    def end(self) -> None:
        with contextlib.suppress(queue.Full):
            self._work.put(None, timeout=1.0)

    def wait(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            log.error(
                "tracker_close_timed_out",
                message="The tracker did not finish in time; its last steps may be lost",
                tracker=self._name,
            )

    def _run(self) -> None:
        tracker: Tracker | None = None
        tried = -OPEN_AGAIN_S
        while (work := self._work.get()) is not None:
            if tracker is None and time.monotonic() - tried >= OPEN_AGAIN_S:
                tried = time.monotonic()
                try:
                    tracker = self._make()
                except BaseException as error:  # some raise SystemExit where nobody is logged in
                    log.error(
                        "tracker_open_failed",
                        message="The tracker could not be opened; trying again later",
                        tracker=self._name,
                        error=repr(error),
                    )
            if tracker is None:
                self._lose("it could not be opened")
                continue
            try:
                work(tracker)
            except Exception as error:
                self._lose(repr(error))
        if tracker is not None:
            try:
                tracker.close()
            except Exception as error:
                log.error(
                    "tracker_close_failed",
                    message="The tracker could not be closed",
                    tracker=self._name,
                    error=repr(error),
                )

    def _lose(self, reason: str) -> None:
        LOST.labels(self._name).inc()
        log.warning("tracker_step_lost", message="The tracker did not accept a step", tracker=self._name, reason=reason)
