"""One step in a process of its own: a crash, a lack of memory or a hang ends that step and frees the GPU."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Literal

import psutil

from bench.gpu.findings import Bench, Figure, Findings, NotRunError

Verdict = Literal["right", "wrong", "not run"]

END_S = 20.0  # for a step that is told to stop to end its services
RESULT = "result.json"
PART = "from bench.gpu.step import run_here; run_here()"


@dataclass(frozen=True)
class Step:
    """What is checked, and how long that takes.

    Attributes:
        name: of its module in `bench.gpu.steps`.
        usual_s: it is not begun with less time left.
        limit_s: it is wrong where it takes longer.
    """

    name: str
    checks: str
    usual_s: float
    limit_s: float


@dataclass(frozen=True)
class Result:
    """A verdict, with the reasons where it is not `right`."""

    step: str
    verdict: Verdict
    on: str
    seconds: float = 0.0
    reasons: list[str] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)


def run_apart(step: Step, bench: Bench, log: Path, left_s: float) -> Result:
    """Runs a step in a process of its own, whose output goes to `log`; ends whatever it has started.

    Args:
        left_s: of the whole bench; a step that does not end in it is `not run`.
    """
    bench.folder.mkdir(parents=True)
    words = json.dumps({"step": step.name, "bench": asdict(bench) | {"folder": str(bench.folder)}})
    started = time.monotonic()
    timeout_s = min(step.limit_s, left_s)
    threads = {} if bench.is_cuda else {"OMP_NUM_THREADS": "1"}  # busy threads of several processes slow one another
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", PART, words],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads},
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
    seconds = round(time.monotonic() - started, 1)
    on = "a GPU" if bench.is_cuda else "the CPU"
    if status is None:
        is_limit = timeout_s == step.limit_s
        reason = f"did not end within {timeout_s:.0f} s" + ("" if is_limit else ", which were left of --minutes")
        return Result(step.name, "wrong" if is_limit else "not run", on, seconds, [reason, f"see {log}"])
    try:
        result = Result(**json.loads((bench.folder / RESULT).read_text()) | {"seconds": seconds})
    except FileNotFoundError:
        reason = f"its process ended with status {status}: {_last_line(log)}"
        return Result(step.name, "wrong", on, seconds, [reason, f"see {log}"])
    if result.verdict != "wrong":
        shutil.rmtree(bench.folder)
    if status:
        result.reasons.append(f"its process ended with status {status} after all checks; see {log}")
    return result


def run_here() -> None:
    """Runs the step that the command line names, as JSON, and writes its result into its folder."""
    words = json.loads(sys.argv[1])
    bench = Bench(**words["bench"] | {"folder": Path(words["bench"]["folder"])})
    findings = Findings(bench.limits)
    skipped = ""
    try:
        import_module(f"bench.gpu.steps.{words['step']}").run(bench, findings)
    except NotRunError as reason:
        skipped = str(reason)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        findings.wrong.append(f"{type(error).__name__}: {error}")
    verdict: Verdict = "wrong" if findings.wrong else "not run" if skipped else "right"
    reasons = findings.wrong + ([skipped] if skipped else [])
    result = Result(words["step"], verdict, _device(bench), 0.0, reasons, findings.figures)
    (bench.folder / RESULT).write_text(json.dumps(asdict(result)))


def _device(bench: Bench) -> str:
    if not bench.is_cuda:
        return "the CPU"
    import torch

    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a step's process and all that it has started, wherever that has gone since."""
    started = []
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
    if process.poll() is None:
        process.terminate()
    deadline = time.monotonic() + END_S
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    of_session = [one for one in psutil.process_iter() if _session(one.pid) == process.pid]
    remaining = list({one.pid: one for one in [*started, *of_session] if one.is_running()}.values())
    for number, wait_s in ((signal.SIGTERM, max(0.0, deadline - time.monotonic())), (signal.SIGKILL, END_S)):
        for one in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)
        _, remaining = psutil.wait_procs(remaining, wait_s)
    if process.poll() is None:
        process.kill()
    process.wait()


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
