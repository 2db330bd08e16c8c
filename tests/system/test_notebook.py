"""The notebook of the documentation, cell by cell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vision_sr1.run_folder.finished_run import FinishedRun

ROOT = Path(__file__).parents[2]


@pytest.mark.full(
    sibling="tests/vision_sr1/cli/test_from_python.py::test_mistakes_are_raised_before_anything_is_started"
)
@pytest.mark.timeout(900)
def test_the_notebook_trains_and_reads_curves_and_traces(tmp_path: Path):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.notebooks", str(ROOT / "docs" / "notebook.ipynb")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    run = FinishedRun(tmp_path / "runs" / "notebook" / "rl")
    assert run.checkpoint is not None
    assert run.scalars[-1]["step"] == 3
