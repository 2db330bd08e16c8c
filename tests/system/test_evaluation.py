"""`vision-sr1 eval` through real actors and the reward service."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.system.conftest import Run
from vision_sr1.cli.main import app


@pytest.fixture(scope="module")
def suite(shapes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A set of our own, a benchmark in its published form, and two questions without images."""
    folder = tmp_path_factory.mktemp("suite")
    rows = pq.read_table(shapes["normal"]).to_pylist()
    published = [
        {
            "question": f"{row['problem'].removeprefix('<image>')}\nOptions: A: {row['answer']}, B: nothing",
            "image": row["images"][0] if index else {"bytes": b"broken", "path": None},
            "answer": "A",
            "category": "coarse perception" if index % 2 else "math",
            "l2_category": "shapes",
        }
        for index, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(published), folder / "mmstar.parquet")
    text = [{"question": "how many circles", "answer": f"one and {n}\n#### {n}"} for n in (1, 2)]
    pq.write_table(pa.Table.from_pylist(text), folder / "gsm8k.parquet")
    return [f"mine={shapes['train']}", f"mmstar={folder / 'mmstar.parquet'}", f"gsm8k={folder / 'gsm8k.parquet'}"]


def command(run: Run, suite: list[str], output: Path, *more: str) -> list[str]:
    arguments = [str(run.folder / "runs" / "run"), *(part for name in suite for part in ("--suite", name))]
    return [sys.executable, "-m", "vision_sr1", "eval", *arguments, "--output", str(output), *more]


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command, under way."""
    return subprocess.Popen(
        list(map(str, arguments)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "160"},
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == status, output
    return output


def answers(folder: Path) -> int:
    return sum(len(file.read_text().splitlines()) for file in (folder / "answers").glob("*.jsonl"))


@pytest.fixture(scope="module")
def evaluated(trained: Run, suite: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's last version, through one actor."""
    folder = tmp_path_factory.mktemp("evaluated") / "one"
    assert "1 rows could not be used and are left out" in finish(start(*command(trained, suite, folder)))
    return folder


def test_each_answer_is_kept_with_how_it_was_graded(evaluated: Path):
    results = json.loads((evaluated / "results.json").read_text())
    mine, mmstar, gsm8k = results["results"]
    assert (mine["questions"], mmstar["questions"], mmstar["refused"], gsm8k["questions"]) == (64, 7, 1, 2)
    assert results["evaluated"]["version"] == 3
    assert set(mmstar["by"]["category"]) == {"coarse perception", "math"}
    assert "visual" not in gsm8k["means"]
    assert 0 < mine["score"]["low"] < mine["score"]["score"] < mine["score"]["high"] <= 1
    for name, grader in (("mine", "mathruler"), ("mmstar", "choice"), ("gsm8k", "numeric")):
        lines = (evaluated / "answers" / f"{name}.jsonl").read_text().splitlines()
        records = [record for record in map(json.loads, lines) if "refused" not in record]
        assert {record["policy_version"] for record in records} == {3}
        graders = {record["explanations"]["accuracy"].partition(":")[0] for record in records}
        assert graders <= {grader, r"no \boxed{} answer"}
    assert "<img" in (evaluated / "failures.html").read_text()


def test_it_gives_the_same_numbers_through_two_actors_and_after_being_killed(
    trained: Run, suite: list[str], evaluated: Path, tmp_path: Path
):
    two = tmp_path / "two"
    process = start(*command(trained, suite, two, "actors.count=2", "evaluation.prompts_in_flight=8"))
    deadline = time.monotonic() + 180
    while answers(two) < 10:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    (asker,) = [p for p in psutil.Process(process.pid).children() if "vision_sr1.cli.evaluation" in p.cmdline()]
    asker.kill()
    assert "evaluation ended with status -9; restarting it" in finish(process)
    assert (two / "results.json").read_bytes() == (evaluated / "results.json").read_bytes()
    lines = (two / "answers" / "mine.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["index"] for line in lines) == list(range(64)), "none was asked twice"


def invoke(command: list[str], status: int = 0) -> str:
    """The command within this process, for it starts nothing."""
    done = CliRunner().invoke(app, command[command.index("eval") :])
    assert done.exit_code == status, done.output
    return done.output


def test_answers_of_one_folder_are_of_one_model_at_one_set_of_settings(
    trained: Run, suite: list[str], evaluated: Path, tmp_path: Path
):
    before = (evaluated / "results.json").read_bytes()
    folder = shutil.copytree(evaluated, tmp_path / "copy")
    output = invoke(command(trained, suite, folder))
    assert "reward traces" not in output, "all is answered: nothing is started"
    assert (folder / "results.json").read_bytes() == before
    invoke(command(trained, suite[:1], folder, "--rows", "10"))
    (few,) = json.loads((folder / "results.json").read_text())["results"]
    assert few["questions"] == 10, "of the answers that are there"
    output = invoke(command(trained, suite, folder, "sampling.max_tokens=8"), status=2)
    assert "has answers that were given at another sampling: --fresh moves them aside" in output.replace("\n", " ")
    output = invoke(command(trained, suite, folder, "reward.graders={shapes/train: exact}"), status=2)
    assert "given at another reward" in output.replace("\n", " ")
    other = [f"gsm8k={suite[0].partition('=')[2]}"]
    output = invoke(command(trained, other, folder), status=2)
    assert "given at another set of gsm8k" in output.replace("\n", " ")


def test_what_cannot_be_evaluated_is_said_so(trained: Run, tmp_path: Path):
    for suite, said in (
        (["mmu"], "no benchmark 'mmu'"),
        ([], "no benchmark is chosen"),
        (["mm_vet=x.parquet"], "mm_vet needs a judge"),
        ([f"mine={tmp_path / 'none.parquet'}"], "no file"),
    ):
        assert said in invoke(command(trained, suite, tmp_path / "out"), status=2)
