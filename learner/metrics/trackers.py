"""Experiment trackers: where curves and samples go besides Prometheus and the run's own files.

Each has a thread and a bounded queue of its own: one that is slow, away or broken costs what it was to show, and never
a step of training.
"""

import contextlib
import importlib.util
import io
import json
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
from PIL import Image
from prometheus_client import Counter

from vision_sr1.config import Config, ConfigError, TrackerName, public_settings

log = structlog.get_logger()

LOST = Counter("vision_sr1_learner_tracker_lost", "Steps and tables that trackers did not take.", ["tracker"])
BEHIND = 256  # steps and tables that a tracker may be
OPEN_AGAIN_S = 60.0
END_S = 30.0
KNOWN_AS = "trackers.json"  # in the run's folder: what trackers call the run, so that a resumed one goes on there


@dataclass(frozen=True)
class Sample:
    """An answer to be looked at.

    Attributes:
        image: the question's first, encoded.
        cells: what is shown beside it, by column.
    """

    image: bytes | None
    cells: dict[str, str | float]

    def picture(self) -> Image.Image | None:
        """The image, decoded."""
        return None if self.image is None else Image.open(io.BytesIO(self.image)).convert("RGB")


class Tracker(Protocol):
    """Where scalars and samples of a run are shown. Made and called in one thread."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a step, by `family/member`."""

    def samples(self, step: int, title: str, samples: Sequence[Sample]) -> None:
        """Some answers of a step."""

    def close(self) -> None:
        """Hands over what it still holds."""


class TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, config: Config) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(config.run.path / "tensorboard"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Under their names as tags."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def samples(self, step: int, title: str, samples: Sequence[Sample]) -> None:
        """A text for each, and its image under the same tag."""
        import numpy as np

        for number, sample in enumerate(samples):
            rows = "\n".join(f"| {name} | {_in_one_line(value)} |" for name, value in sample.cells.items())
            self._writer.add_text(f"{title}/{number}", f"| | |\n|---|---|\n{rows}", step)
            if (picture := sample.picture()) is not None:
                self._writer.add_image(f"{title}/{number}", np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        """Flushes the files."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; WANDB_* in the environment say where and as whom."""

    def __init__(self, config: Config) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=config.metrics.project,
            name=config.run.name,
            id=_known_as(config, "wandb", lambda: uuid.uuid4().hex[:12]),
            resume="allow",
            dir=config.run.path,
            config=public_settings(config),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")  # a resumed run repeats steps

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Under their names."""
        self._run.log({**values, "step": step})

    def samples(self, step: int, title: str, samples: Sequence[Sample]) -> None:
        """As a table, and its images once more beside it: of an offline run's table they are no part."""
        columns = _columns(samples)
        table = self._wandb.Table(columns=["image", *columns])
        images = []
        for number, sample in enumerate(samples):
            image = None
            if (picture := sample.picture()) is not None:
                image = self._wandb.Image(picture)
                images.append(self._wandb.Image(picture, caption=str(number)))
            table.add_data(image, *(sample.cells.get(name) for name in columns))
        self._run.log({title: table, f"{title}/images": images, "step": step})

    def close(self) -> None:
        """Uploads what is left."""
        self._run.finish()


class MLflow:
    """A run of an MLflow experiment; MLFLOW_TRACKING_URI says where, else a database in the run's folder."""

    def __init__(self, config: Config) -> None:
        from mlflow import MlflowClient

        folder = config.run.path.absolute()
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(uri or f"sqlite:///{folder / 'mlflow.db'}")
        where = None if uri else (folder / "mlflow").as_uri()

        def begin() -> str:
            experiment = self._client.get_experiment_by_name(config.metrics.project)
            number = (
                self._client.create_experiment(config.metrics.project, artifact_location=where)
                if experiment is None
                else experiment.experiment_id
            )
            return str(self._client.create_run(number, run_name=config.run.name).info.run_id)

        self._id = _known_as(config, "mlflow", begin)
        self._client.update_run(self._id, status="RUNNING")
        self._client.log_dict(self._id, public_settings(config), "config.json")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Under their names."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def samples(self, step: int, title: str, samples: Sequence[Sample]) -> None:
        """As a list of texts, and their images beside it."""
        folder = f"{title}/{step:06d}"
        rows = json.dumps([sample.cells for sample in samples], indent=1)
        self._client.log_text(self._id, rows, f"{folder}/samples.json")
        for number, sample in enumerate(samples):
            if (picture := sample.picture()) is not None:
                self._client.log_image(self._id, picture, f"{folder}/{number}.png")

    def close(self) -> None:
        """Says that the run has come to its end."""
        self._client.set_terminated(self._id)


class Trackio:
    """A run of Trackio; TRACKIO_* in the environment say where."""

    def __init__(self, config: Config) -> None:
        import trackio

        self._trackio = trackio
        self._run = trackio.init(
            project=config.metrics.project,
            name=_known_as(config, "trackio", lambda: f"{config.run.name}-{uuid.uuid4().hex[:6]}"),
            config=public_settings(config),
            resume="allow",
            embed=False,
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Under their names."""
        self._run.log(dict(values), step=step)

    def samples(self, step: int, title: str, samples: Sequence[Sample]) -> None:
        """As a table."""
        columns = _columns(samples)
        rows = []
        for sample in samples:
            picture = sample.picture()
            image = None if picture is None else self._trackio.Image(picture)
            rows.append([image, *(sample.cells.get(name) for name in columns)])
        self._run.log({title: self._trackio.Table(columns=["image", *columns], data=rows)}, step=step)

    def close(self) -> None:
        """Uploads what is left."""
        self._run.finish()


TRACKERS: dict[TrackerName, tuple[str, Callable[[Config], Tracker]]] = {
    "wandb": ("wandb", WeightsAndBiases),
    "mlflow": ("mlflow", MLflow),
    "trackio": ("trackio", Trackio),
}


def check_trackers(config: Config) -> None:
    """Finds out at the start whether trackers can be had.

    Raises:
        ConfigError: a tracker's package is not installed.
    """
    for name in config.metrics.trackers:
        if importlib.util.find_spec(TRACKERS[name][0]) is None:
            raise ConfigError(
                f"metrics.trackers: {name} is not installed: pip install 'vision-sr1[tracking]', or leave it out"
            )


class Trackers:
    """All that are configured, TensorBoard among them."""

    def __init__(self, config: Config) -> None:
        makers: dict[str, Callable[[Config], Tracker]] = {n: TRACKERS[n][1] for n in config.metrics.trackers}
        if config.metrics.tensorboard:
            makers["tensorboard"] = TensorBoard
        self._threads = [_Thread(name, partial(make, config)) for name, make in makers.items()]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values of a step."""
        for thread in self._threads:
            thread.give(lambda tracker: tracker.scalars(step, values))

    def samples(self, step: int, title: str, samples: Sequence[Sample]) -> None:
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
            log.error("tracker does not end: what it was to show may be lost", tracker=self._name)

    def _run(self) -> None:
        tracker: Tracker | None = None
        tried = -OPEN_AGAIN_S
        while (work := self._work.get()) is not None:
            if tracker is None and time.monotonic() - tried >= OPEN_AGAIN_S:
                tried = time.monotonic()
                try:
                    tracker = self._make()
                except BaseException as error:  # some raise SystemExit where nobody is logged in
                    log.error("tracker cannot be opened", tracker=self._name, error=repr(error))
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
                log.error("tracker cannot be closed", tracker=self._name, error=repr(error))

    def _lose(self, reason: str) -> None:
        LOST.labels(self._name).inc()
        log.warning("tracker did not take a step", tracker=self._name, reason=reason)


def _known_as(config: Config, tracker: str, make: Callable[[], str]) -> str:
    """What a tracker calls the run: as before where the run is resumed."""
    file: Path = config.run.path / KNOWN_AS
    with _NAMING:
        known: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if tracker not in known:
            known[tracker] = make()
            file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        return known[tracker]


_NAMING = threading.Lock()


def _columns(samples: Sequence[Sample]) -> list[str]:
    return list(dict.fromkeys(name for sample in samples for name in sample.cells))


def _in_one_line(value: str | float) -> str:
    """A cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
