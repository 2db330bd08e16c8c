"""`bench.gpu` finds what is wrong, goes on, and ends what it has started; on the CPU it finds nothing."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.gpu.__main__ import STEPS, main
from bench.gpu.findings import LIMITS, Bench, Findings
from bench.gpu.report import write_report
from bench.gpu.step import Result, Step, run_apart
from tests.bench.test_smoke import ROOT, environment

ALL = {name: limit.value for name, limit in LIMITS.items()}
QUICK = "installation"
SHORT = {QUICK, "attention"}  # in the test below
SMOKE = "tests/bench/test_gpu.py::test_a_fault_is_wrong_and_the_bench_goes_on"


def bench(*words: str, timeout_s: float = 400) -> tuple[int, str, dict[str, Any]]:
    """Exit status, output, and the last line."""
    command = [sys.executable, "-m", "bench.gpu", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment(), cwd=ROOT)
    return done.returncode, done.stdout + done.stderr, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_fault_is_wrong_and_the_bench_goes_on(tmp_path: Path):
    options = ["--limit", "attention_error=0.001", "--output", str(tmp_path)]
    status, output, last = bench("--steps", "attention,installation", *options)
    assert status == 1
    assert (last["value"], last["wrong"], last["not run"]) == (1, ["attention"], [])
    attention, installation = json.loads((tmp_path / "results.json").read_text())["steps"]
    assert (attention["verdict"], installation["verdict"]) == ("wrong", "right"), output
    assert all("more than 0.001 (--limit attention_error)" in reason for reason in attention["reasons"])
    errors = attention["figures"].values()
    assert all(0.001 < error < ALL["attention_error"] / 2 for error in errors), errors
    report = (tmp_path / "results.md").read_text()
    assert "| attention | wrong | " in report
    assert "| installation | right | " in report
    assert report in output


@pytest.mark.full(sibling=SMOKE)
@pytest.mark.timeout(780)
@pytest.mark.parametrize("step", [step.name for step in STEPS if step.name not in SHORT])
def test_a_step_finds_nothing_wrong_on_the_cpu(step: str, tmp_path: Path):
    status, output, last = bench("--steps", step, "--minutes", "12", "--output", str(tmp_path), timeout_s=760)
    assert (status, last["value"]) == (0, 1), output + (tmp_path / f"{step}.log").read_text()[-5000:]


@pytest.mark.slow
def test_a_step_that_takes_too_long_is_ended_with_all_that_it_has_started(tmp_path: Path):
    step = Step("layouts", "", 0, limit_s=12.0)  # has a process of its own for most of the time
    result = run_apart(step, Bench("cpu", tmp_path / "layouts", None, ALL), tmp_path / "log", left_s=60)
    assert result.verdict == "wrong"
    assert result.reasons[0] == "did not end within 12 s"
    assert not mentioning(tmp_path)


@pytest.mark.slow
def test_a_step_whose_process_dies_is_wrong(tmp_path: Path):
    killed = threading.Thread(target=kill_soon, args=[tmp_path])
    killed.start()
    step = Step("attention", "", 0, limit_s=60)
    result = run_apart(step, Bench("cpu", tmp_path / "attention", None, ALL), tmp_path / "log", left_s=60)
    killed.join()
    assert result.verdict == "wrong"
    assert result.reasons[0].startswith("its process ended with status -9")


def mentioning(folder: Path) -> list[psutil.Process]:
    """Processes with the folder in their command."""
    return [one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or [])]


def kill_soon(folder: Path) -> None:
    while not (found := mentioning(folder)):
        time.sleep(0.02)
    found[0].kill()


def test_steps_for_which_no_time_is_left_are_not_run(tmp_path: Path, capsys: Any, monkeypatch: Any):
    monkeypatch.setattr(sys, "argv", ["gpu", "--minutes", "0.01", "--output", str(tmp_path)])
    assert main() == 0
    output = capsys.readouterr().out
    last = json.loads(output.splitlines()[-1])
    assert (last["value"], last["not run"]) == (0, [step.name for step in STEPS])
    assert "installation: not run on no device, 0 s\n  it usually takes 20 s, and " in output


def test_what_is_no_number_is_wrong_and_can_be_written(tmp_path: Path):
    findings = Findings(ALL)
    findings.within("attention_error", "of nothing", float("nan"))
    assert findings.wrong == ["of nothing is nan, more than 0.02 (--limit attention_error)"]
    write_report(tmp_path, STEPS, [Result(QUICK, "wrong", "the CPU", 1.0, findings.wrong, findings.figures)], ALL)
    assert json.loads((tmp_path / "results.json").read_text())["steps"][0]["figures"] == {"of nothing": "nan"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "atention"], "--steps: there is no atention; there are installation, attention"),
        (["--limit", "speed=3"], "--limit: there is no 'speed'; there are attention_error"),
        (["--limit", "leak_mib=much"], "--limit leak_mib: 'much' is no number"),
        (["--model", "/nope"], "--model: there is no folder /nope"),
        ([], "holds results; give another folder, or --overwrite"),
    ],
)
def test_mistakes_end_it_before_anything_starts(
    words: list[str], message: str, tmp_path: Path, capsys: Any, monkeypatch: Any
):
    from bench.gpu.__main__ import main

    (tmp_path / "results.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["gpu", "--output", str(tmp_path if not words else tmp_path / "new"), *words])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()


def test_without_the_package_it_does_not_start(tmp_path: Path, capsys: Any, monkeypatch: Any):
    monkeypatch.setattr("bench.gpu.__main__.PACKAGE", "vision-sr2")
    monkeypatch.setattr(sys, "argv", ["gpu", "--output", str(tmp_path / "new")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "vision-sr2 is not installed in this environment" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()
