"""Runs from Python: what `vision_sr1.train` takes, refuses and returns."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import vision_sr1
from vision_sr1.config import ConfigError, load_config
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.checkpoints import CHECKPOINTS
from vision_sr1.run_folder.finished_run import FinishedRun
from vision_sr1.run_folder.names import SCALARS

ROOT = Path(__file__).parents[3]


def test_importing_it_imports_no_library():
    code = "import sys, vision_sr1; vision_sr1.train; print({'torch', 'pydantic', 'typer'} & sys.modules.keys())"
    own = {**os.environ, "PYTHONPATH": str(ROOT)}  # no shapes are checked there
    # With an option, the process is not forked from one that has libraries: see tests/forking.py.
    done = subprocess.run([sys.executable, "-s", "-c", code], capture_output=True, text=True, env=own)
    assert done.stdout == "set()\n", done.stderr


def test_mistakes_are_raised_before_anything_is_started(tmp_path: Path):
    with pytest.raises(ConfigError, match="no configuration file none.yaml"):
        vision_sr1.train("none.yaml")
    with pytest.raises(ConfigError, match=r"data\.train names no prompts"):
        vision_sr1.train("examples/shapes/rl.yaml", [f"run.dir={tmp_path}", "data.train=[]"])
    with pytest.raises(ConfigError, match="nothing to resume in"):
        vision_sr1.train(load_config(None, [f"run.dir={tmp_path}"]).config, resume=True)
    with pytest.raises(ConfigError, match="overrides belong to a run file"):
        vision_sr1.train(load_config(None).config, ["learner.batches=1"])
    assert not list(tmp_path.iterdir())


def test_another_thread_is_refused():
    raised: list[Exception] = []

    def call() -> None:
        try:
            vision_sr1.train("examples/shapes/rl.yaml")
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "call it in the main thread" in str(raised[0])


def test_a_finished_run_has_its_newest_whole_checkpoint_and_each_step_once(tmp_path: Path):
    run = FinishedRun(tmp_path)
    assert run.checkpoint is None
    assert run.policy is None
    assert run.scalars == []
    for number, files in ((1, "{}"), (2, '{"policy/weights": 7}')):
        folder = tmp_path / CHECKPOINTS / f"{number:06}"
        folder.mkdir(parents=True)
        (folder / "trainer.json").write_text(f'{{"files": {files}}}')
    assert run.checkpoint == tmp_path / CHECKPOINTS / "000001", "a file of the second is missing"
    assert run.policy == run.checkpoint / "policy"
    for line in ({"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 2, "a": 3.0}, {"step": 2, "b": 4.0}):
        jsonl.append(tmp_path / SCALARS, line)
    assert run.scalars == [{"step": 1, "a": 1.0}, {"step": 2, "a": 3.0, "b": 4.0}]
