"""What a run that is over has left: served and exported by the command line."""

import base64
import contextlib
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import datasets
import httpx
import pandas as pd
import pytest
from sqlalchemy import insert

from reward_service.store.tables import StoredImage
from tests.reward_service.conftest import RUN, Store
from tests.reward_service.serving import serving_by_command
from tests.reward_service.test_store import scored, write
from vision_sr1.client import Client
from vision_sr1.config import load_config, save_config
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.names import LEDGER
from vision_sr1.runtime.ports import free_port

pytestmark = pytest.mark.slow

SHA, IMAGE = "ab" * 32, b"an encoded image"


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
    first = scored(0)
    first.response += "<think>so</think>\\boxed{red}"
    first.rollout.prompt.images.add(sha256=SHA, media_type="image/png")
    await write(store, first, missing, scored(2))
    with store.engine.begin() as connection:
        connection.execute(insert(StoredImage).values(sha256=SHA, media_type="image/png", data=IMAGE, used_at=0.0))
    store.engine.dispose()
    jsonl.append(folder / LEDGER, {"batch": 5, "policy_version": 5, "prompts": {"0/0": 2}})
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "vision_sr1", "traces", *map(str, arguments)]


@pytest.mark.parametrize("is_renamed", [False, True])
def test_a_runs_traces_are_served_with_nothing_else_running(run: Path, is_renamed: bool):
    run = run.rename(run.with_name("renamed")) if is_renamed else run
    with serving_by_command(command(run)) as url, Client(url) as client:
        assert [trace.id for trace in client.traces()] == ["0/1/0", "0/0/1", "0/0/0"]
        assert len(client.tokens("0/0/0").tokens) == 0
        (own,) = client.runs()
        assert (own.name, own.is_served, own.can_rescore) == (RUN, True, True)
        again = httpx.post(f"{url}/v1/traces/0/0/0/rescore").json()
        assert again["rewards"]["accuracy"]["now"]["explanation"] == r"no \boxed{} answer"
        assert again["changed"] == ["accuracy"]
    assert sorted(file.name for file in run.iterdir()) == ["batches.jsonl", "config.yaml", "traces.sqlite"]


def test_a_live_view_ends_with_the_service(run: Path):
    with contextlib.ExitStack() as opened:
        with serving_by_command(command(run)) as url:  # which ends without a complaint
            live = opened.enter_context(httpx.stream("GET", f"{url}/v1/live", timeout=60))
            assert live.status_code == 200
        assert not list(live.iter_bytes())


def test_two_runs_are_served_each_from_its_own_store(run: Path, tmp_path: Path):
    other = tmp_path / "again" / RUN
    shutil.copytree(run, other)
    jsonl.append(other / LEDGER, {"batch": 9, "policy_version": 9, "prompts": {"0/1": 1}})
    name = f"again/{RUN}"
    with serving_by_command(command(run, other)) as url, Client(url) as client:
        assert [(found.name, found.is_served) for found in client.runs()] == [(name, False), (RUN, True)]
        ids = ["0/1/0", "0/0/1", "0/0/0"]
        assert [[trace.id for trace in client.traces(run=one)] for one in (RUN, name)] == [ids, ids]
        assert httpx.get(f"{url}/v1/images/{SHA}").content == IMAGE
        steps = [httpx.get(f"{url}/v1/steps", params={"run": one}).json()["steps"][0]["step"] for one in (RUN, name)]
        assert steps == [5, 9]
        compared = httpx.get(f"{url}/v1/comparison", params={"other": name}).json()
        assert (compared["prompts"], compared["runs"]) == (3, [RUN, name])
        again = httpx.post(f"{url}/v1/traces/0/0/0/rescore", params={"run": name})
        assert again.json()["changed"] == ["accuracy"]
        assert httpx.get(f"{url}/v1/traces?run=none").status_code == 404


def exported(run: Path, file: Path, *options: str) -> Path:
    done = subprocess.run(command(run, "--export", file, *options), capture_output=True, text=True, env=WIDE)
    assert done.returncode == 0, done.stderr
    assert f"wrote {file}" in done.stdout
    return file


def test_a_runs_traces_become_plain_columns_of_pandas(run: Path, tmp_path: Path):
    for file in (exported(run, tmp_path / "traces.parquet"), exported(run, tmp_path / "traces.jsonl")):
        read = (
            pd.read_parquet if file.suffix == ".parquet" else partial(pd.read_json, lines=True, dtype={"answer": str})
        )
        frame = read(file)
        assert list(frame["id"]) == ["0/0/0", "0/0/1", "0/1/0"]
        assert list(frame["reward_accuracy"]) == [1.0] * 3
        assert frame["reward_visual"].isna().tolist() == [False, True, False]
        assert frame["explanation_visual"][1] == "no actor answered"
        assert list(frame["advantage_answer"]) == [0.0] * 3
        assert frame["advantage_description"].isna().tolist() == [False, True, False]
        assert list(frame["step"][:2]) == [5, 5]
        assert frame["step"].isna().tolist() == [False, False, True]
        assert list(frame["policy_version"]) == [0, 0, 0]
        assert frame["question"][0] == "what is number 0"
        assert frame["description"][0] == "100% red, answer 0"
        assert frame["answer"][0] == "red"
        assert frame["requery_response"][1] == "navy blue"
        assert frame["response_tokens"][0] == 10
        assert list(frame["response_token_ids"][0]) == list(range(10))
        assert list(frame["images"][0]) == [SHA]
        assert "image_bytes" not in frame


def test_a_renamed_runs_traces_are_exported(run: Path, tmp_path: Path):
    frame = pd.read_parquet(exported(run.rename(tmp_path / "renamed"), tmp_path / "traces.parquet"))
    assert list(frame["id"]) == ["0/0/0", "0/0/1", "0/1/0"]
    assert list(frame["step"][:2]) == [5, 5]


def test_images_come_when_they_are_wanted_and_the_data_sets_library_reads_it_all(run: Path, tmp_path: Path):
    parquet = exported(run, tmp_path / "traces.parquet", "--images")
    rows = datasets.Dataset.from_parquet(str(parquet), cache_dir=str(tmp_path / "cache"))
    assert rows["image_bytes"][0] == [IMAGE]
    assert rows["image_bytes"][1] == []
    assert rows["reward_visual"][:] == [0.0, None, 0.0]
    lines = exported(run, tmp_path / "traces.jsonl", "--images")
    rows = datasets.Dataset.from_json(str(lines), cache_dir=str(tmp_path / "cache"))
    assert base64.b64decode(rows["image_bytes"][0][0]) == IMAGE
    assert rows["response_tokens"][:] == [10, 10, 10]


def test_an_export_that_cannot_be_written_is_said(run: Path, tmp_path: Path):
    exported(run, tmp_path / "traces.parquet")
    for options, said in (
        (["--export", tmp_path / "traces.parquet"], "is there already; remove it or choose another name"),
        (["--export", tmp_path / "traces.csv"], "the suffix names no format of an export; use .parquet or .jsonl"),
        (["--images"], "--images belongs to --export FILE"),
    ):
        done = subprocess.run(command(run, *options), capture_output=True, text=True, env=WIDE)
        assert done.returncode == 2, done.stderr
        assert said in done.stdout + done.stderr


WIDE = {**os.environ, "COLUMNS": "300"}


def test_what_is_no_run_is_said(tmp_path: Path, run: Path):
    for folder, status, said in (
        (tmp_path / "none", 2, "is not the folder of a run: there is no such folder"),
        (tmp_path, 2, f"is not the folder of a run: it has no config.yaml; did you mean {run}?"),
        (run, 2, f"{run} has no traces: there is no {run}/traces.sqlite"),
    ):
        (run / "traces.sqlite").unlink(missing_ok=True)
        done = subprocess.run(command(folder), capture_output=True, text=True, env=WIDE, check=False)
        assert done.returncode == status
        assert said in done.stdout + done.stderr
