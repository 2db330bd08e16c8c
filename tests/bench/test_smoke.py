"""Every benchmark at its smallest size, as a user runs it. How fast anything is, no test looks at."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import bench

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"soak": "tests/system/test_soak.py"}
TIMEOUT_S = 600
RANK = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # what `single_rank` sets for this process

system, slow = pytest.mark.system, pytest.mark.slow
two_gpus = pytest.mark.skipif(torch.cuda.device_count() == 1, reason="the learner and the actor need a GPU each")
prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus here: install Debian's package of that name"
)


def full(sibling: str) -> Any:
    return pytest.mark.full(sibling=f"tests/{sibling}")


PUBLISHED = full("system/test_weights.py::test_the_actor_equals_transformers_after_each_version")
SMOKED = full("bench/test_smoke.py::test_a_benchmark_runs_and_ends_with_its_result")
REPORTED = full("bench/test_claims.py::test_a_finished_study_is_judged_and_reported")
CHECKED = full("bench/test_gpu.py::test_a_fault_is_wrong_and_the_bench_goes_on")
ALERTED = full("deploy/test_monitoring.py::test_alerts_come_at_their_faults_and_not_otherwise")

SMALLEST = [
    ("actor", "--prompts 1 --samples 2 --tokens 4 --rounds 1", [system, PUBLISHED, two_gpus]),
    ("claims", "{study} --seeds 0 --objectives", [system, REPORTED]),
    ("claims.conditions", "{study} --conditions weak", [system, REPORTED]),
    (
        "claims.extensions",
        "{study} --seeds 0 --runs observer_solver",
        [system, REPORTED],
    ),
    ("faults", "--only 'a prompt that nobody can read' --output {folder}/f.yaml", [system, ALERTED, prometheus]),
    ("gpu", "--steps installation --output {folder}/gpu", [slow, CHECKED]),
    ("learner_gpu", "--prompts 1 --group-size 2 --image-side 112 --response-tokens 16 --steps 1", [slow]),
    ("peers", "demo --quick --batches 1 --trl-batches 1", [system, PUBLISHED]),
    ("reward", "--rollouts 2 --traces 8 --requests 9 --folder {folder}/store", [slow, SMOKED]),
    ("streams", "--rollouts 8 --replicas 1", [slow, SMOKED]),
    ("weights", "--quick --actors 1 --rounds 1", [system, PUBLISHED, two_gpus]),
]
STUDY = "--batches 1 --sft-steps 1 --held-out 4"
COMPARING = {"actor", "claims", "claims.conditions", "claims.extensions", "peers", "streams", "weights"}


def environment() -> dict[str, str]:
    """This process's, of which benchmarks make learners of their own."""
    return {key: value for key, value in os.environ.items() if key not in RANK}


def benchmarks() -> list[str]:
    """What follows `python -m bench.` of every module and package that can be run."""
    folder = Path(bench.__file__).parent
    files = [file for file in folder.rglob("*.py") if 'if __name__ == "__main__":' in file.read_text()]
    return sorted(".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__main__") for file in files)


@pytest.mark.timeout(TIMEOUT_S + 20)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(name, options, marks=[*marks, pytest.mark.xdist_group(f"bench.{name}")], id=name)
        for name, options, marks in SMALLEST
    ],
)
def test_a_benchmark_runs_and_ends_with_its_result(name: str, options: str, tmp_path: Path):
    report = shutil.copy(ROOT / "docs" / "claims.md", tmp_path)
    words = shlex.split(options.format(folder=tmp_path, study=f"--root {tmp_path}/runs --report {report} {STUDY}"))
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", *words],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert {"name", "value", "unit"} <= result.keys()
    assert ({"baseline", "ratio"} <= result.keys()) is (name in COMPARING)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # of runpy: other tests import them too
@pytest.mark.parametrize("name", benchmarks())
def test_a_benchmark_says_which_options_it_has(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module(f"bench.{name}", run_name="__main__")
    assert f"usage: python -m bench.{name} [" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_no_benchmark_is_without_a_smoke_test():
    assert sorted([*ELSEWHERE, *(name for name, _, _ in SMALLEST)]) == benchmarks()
    for name, file in ELSEWHERE.items():
        assert f'"bench.{name}"' in (ROOT / file).read_text()
