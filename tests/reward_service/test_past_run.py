"""What a run that is over has left: served and exported by the command line."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from tests.reward_service.conftest import RUN, Store
from tests.reward_service.test_store import scored, write
from vision_sr1.client import Client
from vision_sr1.config import load_config, save_config
from vision_sr1.runtime.ports import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
async def run(tmp_path: Path, tiny_model: Path) -> Path:
    """The folder of a run, as it was moved to after it."""
    folder = tmp_path / RUN
    folder.mkdir()
    options = [f"run.name={RUN}", "run.dir=elsewhere", f"model.path={tiny_model}", f"reward.port={free_port()}"]
    save_config(load_config(None, options, environment={}).config, folder / "config.yaml")
    store = Store(f"sqlite:///{folder}/traces.sqlite")
    missing = scored(1, visual=None)
    missing.explanations["visual"] = "no actor answered"
    await write(store, scored(0), missing, scored(2))
    store.engine.dispose()
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "vision_sr1", "traces", *map(str, arguments)]


def test_a_runs_traces_are_served_with_nothing_else_running(run: Path):
    served = subprocess.Popen(command(run), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert served.stdout is not None
    try:
        url = next(found[1] for line in served.stdout if (found := re.search(r"(http://\S+)/ ", line)))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        with Client(url) as client:
            assert [trace.id for trace in client.traces()] == ["0/1/0", "0/0/1", "0/0/0"]
            assert len(client.tokens("0/0/0").tokens) == 0
            assert client.runs()[0].is_served
    finally:
        served.send_signal(signal.SIGINT)
        output, _ = served.communicate(timeout=30)
    assert served.returncode == 0, output
    assert sorted(file.name for file in run.iterdir()) == ["config.yaml", "traces.sqlite"]


def test_a_runs_traces_become_a_parquet_file(run: Path, tmp_path: Path):
    file = tmp_path / "traces.parquet"
    for status, said in ((0, f"wrote {file}"), (2, "is there already; remove it or choose another name")):
        done = subprocess.run(command(run, "--export", file), capture_output=True, text=True, env=WIDE, check=False)
        assert done.returncode == status, done.stderr
        assert said in done.stdout + done.stderr
    rows = pq.read_table(file).to_pylist()
    assert [row["id"] for row in rows] == ["0/0/0", "0/0/1", "0/1/0"]
    assert dict(rows[0]["rewards"]) == {"accuracy": 1.0, "format": 0.0, "visual": 0.0}
    assert rows[1]["missing"] == ["visual"]
    assert dict(rows[1]["explanations"]) == {"visual": "no actor answered"}
    assert rows[1]["requeries"][0]["response"] == "navy blue"
    assert rows[0]["response_token_ids"] == list(range(10))


WIDE = {**os.environ, "COLUMNS": "300"}


def test_what_is_no_run_is_said(tmp_path: Path, run: Path):
    for folder, status, said in (
        (tmp_path / "none", 2, "is not the folder of a run: it has no config.yaml"),
        (run, 2, "there are no traces"),
    ):
        (run / "traces.sqlite").unlink(missing_ok=True)
        done = subprocess.run(command(folder), capture_output=True, text=True, env=WIDE, check=False)
        assert done.returncode == status
        assert said in done.stdout + done.stderr
