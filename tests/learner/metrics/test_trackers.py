"""Experiment trackers: the real packages, each with its data on this disk."""

import io
import json
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from learner.metrics.scalars import ScalarLog
from learner.metrics.trackers import TrackedExample, Trackers, background
from learner.metrics.trackers.background import BEHIND, LOST
from vision_sr1.config import Config, ConfigError, load_config
from vision_sr1.runtime.trackers import check_trackers

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for name, value in (
        ("WANDB_MODE", "offline"),
        ("WANDB_SILENT", "true"),
        ("TRACKIO_DIR", str(tmp_path / "trackio")),
    ):
        monkeypatch.setenv(name, value)
    loaded = load_config(None, [f"run.dir={tmp_path}", "metrics.tensorboard=false"])
    loaded.config.run.path.mkdir(exist_ok=True)
    return loaded.config


def sample(color: str, answer: str) -> TrackedExample:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(data, "PNG")
    return TrackedExample(data.getvalue(), {"question": "what | is <it>?\n", "response": answer, "accuracy": 1.0})


SAMPLES = [sample("red", "a square"), TrackedExample(None, {"question": "1 + 1", "response": "2", "accuracy": 0.0})]


def track(config: Config, steps: int = 2) -> None:
    everything = Trackers(config)
    for step in range(1, steps + 1):
        everything.scalars(step, {"reward/accuracy": 0.25 * step})
    everything.samples(steps, "samples/normal", SAMPLES)
    everything.close()


def lost(name: str) -> float:
    return LOST.labels(name)._value.get()


def test_tensorboard_has_curves_and_answers_with_their_images(config: Config):
    config.metrics.tensorboard = True
    track(config)
    events = EventAccumulator(str(config.run.path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/accuracy")] == [(1, 0.25), (2, 0.5)]
    (image,) = events.Images("samples/normal/0")
    assert Image.open(io.BytesIO(image.encoded_image_string)).getpixel((0, 0)) == (255, 0, 0)
    (text,) = events.Tensors("samples/normal/0/text_summary")
    assert rb"| question | what \| is &lt;it>?  |" in text.tensor_proto.string_val[0]


def test_weights_and_biases_goes_on_with_a_resumed_run(config: Config):
    config.metrics.trackers = ["wandb"]
    for _ in range(2):
        track(config)
    (known,) = json.loads((config.run.path / "trackers.json").read_text()).values()
    runs = sorted((config.run.path / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert all(run.name.endswith(known) for run in runs), "both are of one run"
    table = next(runs[0].rglob("*.table.json"))
    content = json.loads(table.read_text())
    assert content["columns"] == ["image", "question", "response", "accuracy"]
    assert content["data"][0][2] == "a square"
    assert len(list(runs[0].rglob("*.png"))) == 1
    (written,) = runs[0].glob("run-*.wandb")
    assert b"reward/accuracy" in written.read_bytes()


def test_mlflow_goes_on_with_a_resumed_run(config: Config):
    from mlflow import MlflowClient

    config.metrics.trackers = ["mlflow"]
    for _ in range(2):
        track(config)
    client = MlflowClient(f"sqlite:///{(config.run.path / 'mlflow.db').absolute()}")
    experiment = client.get_experiment_by_name("vision-sr1")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "reward/accuracy")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.25), (2, 0.5)] * 2
    folder = config.run.path / "mlflow" / run.info.run_id / "artifacts"
    rows = json.loads((folder / "samples" / "normal" / "000002" / "samples.json").read_text())
    assert [row["response"] for row in rows] == ["a square", "2"]
    assert Image.open(folder / "samples" / "normal" / "000002" / "0.png").getpixel((0, 0)) == (255, 0, 0)
    settings = json.loads((folder / "config.json").read_text())
    assert settings["learner"]["learning_rate"] == 1e-6
    assert "streams" not in settings, "no addresses, no passwords"


TRACKIO = """
import sys
from pathlib import Path
from tests.learner.metrics.test_trackers import track
from vision_sr1.config import load_config
config = load_config(None, [f"run.dir={sys.argv[1]}", "metrics.tensorboard=false", "metrics.trackers=[trackio]"]).config
track(config)
"""


def test_trackio_goes_on_with_a_resumed_run(config: Config, tmp_path: Path):
    for _ in range(2):  # it reads its folder's place when it is imported
        done = subprocess.run(
            [sys.executable, "-c", TRACKIO, tmp_path], capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    assert len({name for name, *_ in rows}) == 1, "both are of one run"
    values = [(step, json.loads(metrics).get("reward/accuracy")) for _, step, metrics in rows]
    assert [pair for pair in values if pair[1] is not None] == [(1, 0.25), (2, 0.5)] * 2
    assert any(b"a square" in metrics for *_, metrics in rows)
    assert list((tmp_path / "trackio").rglob("*.png")), "with its image"


def test_a_tracker_that_is_not_installed_is_said_before_anything_is_trained(
    config: Config, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config.metrics.trackers = ["wandb"]
    with pytest.raises(ConfigError, match=r"metrics.trackers: wandb is not installed: pip install '.\[tracking\]'"):
        check_trackers(config)


class Broken:
    """A tracker whose server is away; or one that answers nothing until it is let."""

    def __init__(self, _: Config, gate: threading.Event | None = None) -> None:
        if gate is None:
            raise SystemExit("nobody is logged in")
        self._gate = gate
        self.seen = 0

    def scalars(self, step: int, _: dict[str, float]) -> None:
        self._gate.wait(30)
        self.seen += 1
        if step == 0:
            raise ConnectionError("the server hung up")

    def close(self) -> None:
        pass


def test_a_tracker_that_cannot_be_opened_costs_its_steps_and_no_others(config: Config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(background.TRACKERS, "wandb", Broken)
    config.metrics.trackers = ["wandb"]
    config.metrics.tensorboard = True
    before = lost("wandb")
    with ScalarLog(config, phase="rl", total_steps=2, enabled=True) as scalars:
        for step in range(2):
            scalars.log(step, {"reward/accuracy": 1.0})
    assert lost("wandb") == before + 2
    events = EventAccumulator(str(config.run.path / "tensorboard")).Reload()
    assert len(events.Scalars("reward/accuracy")) == 2
    assert len((config.run.path / "scalars.jsonl").read_text().splitlines()) == 2


def test_a_tracker_that_hangs_holds_nobody_up_and_one_that_fails_once_goes_on(
    config: Config, monkeypatch: pytest.MonkeyPatch
):
    gate, made = threading.Event(), []

    def make(config: Config) -> Broken:
        made.append(Broken(config, gate))
        return made[0]

    monkeypatch.setitem(background.TRACKERS, "wandb", make)
    config.metrics.trackers = ["wandb"]
    before = lost("wandb")
    everything = Trackers(config)
    deadline = time.monotonic() + 30
    everything.scalars(0, {})
    while not made:
        assert time.monotonic() < deadline
    for step in range(1, BEHIND + 20):
        everything.scalars(step, {})
    assert lost("wandb") > before, "those beyond its queue"
    gate.set()
    everything.close()
    assert made[0].seen + lost("wandb") - before == BEHIND + 20 + 1, "the first was seen, and failed"
