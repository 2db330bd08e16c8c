"""Whether everything that needs CUDA works, in ten minutes on one 80 GB GPU; on the CPU as far as that goes.

`python -m bench.gpu [--steps NAME,...] [--output FOLDER] [--model FOLDER] [--minutes N] [--limit NAME=VALUE ...]`: each
step runs in a process of its own and ends with a verdict, `right`, `wrong` or `not run`, and with figures. The bench
goes on after a step that is wrong. FOLDER receives results.json, results.md and a log of each step. The exit status is
1 where a step is wrong. Without a GPU the same code runs on the CPU at small sizes, and each verdict says so.
"""

import argparse
import importlib.metadata
import json
import sys
import time
from collections import Counter
from pathlib import Path

from bench.gpu.findings import LIMITS, Bench
from bench.gpu.report import FILES, write_report
from bench.gpu.step import Result, Step, run_apart

PACKAGE = "vision-sr1"
STEPS = (
    Step("installation", "imports, versions, vLLM's platform, `vision-sr1 doctor`", 20, 300),
    Step("attention", "attention and its gradients against float32, a sequence at a time", 20, 240),
    Step("layouts", "a bf16 step under ZeRO 0-3 from a CPU's float32 checkpoint, against the CPU's step", 40, 400),
    Step("learner", "steps of a 3B model cut to 12 layers: tokens/s, MFU, memory, host synchronizations", 45, 300),
    Step("actor", "an actor's log-probabilities against transformers' in bf16 and float32", 60, 400),
    Step("shared_device", "an actor that sleeps, and wakes with weights sent on the same device", 60, 400),
    Step("run", "`vision-sr1 train` on one device: three batches, stop, resume, export, ask", 120, 600),
    Step("optimizer", "memory of an optimizer step, and whether memory grows", 30, 300),
    Step(
        "transfers",
        "weights between devices, by NCCL on two or more GPUs: in full, delta, stall, death, tensor parallel",
        120,
        600,
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ", ".join(step.name for step in STEPS)
    parser.add_argument("--steps", metavar="NAME,...", help=f"in this order; default: {known}")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu-bench"), help="folder; default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace the results in that folder")
    parser.add_argument("--model", type=Path, help="checkpoint for the step `actor`; default: random weights")
    parser.add_argument("--minutes", type=float, default=10.0, help="of all steps together; default: %(default)s")
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=VALUE", help=f"of {', '.join(LIMITS)}")
    arguments = parser.parse_args()
    try:
        importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        parser.error(
            f"{PACKAGE} is not installed in this environment, and vLLM finds the weight transfer by it; run "
            "pip install --no-deps --editable ."
        )
    by_name = {step.name: step for step in STEPS}
    names = list(by_name) if arguments.steps is None else list(dict.fromkeys(arguments.steps.split(",")))
    if unknown := [name for name in names if name not in by_name]:
        parser.error(f"--steps: there is no {', '.join(unknown)}; there are {known}")
    if arguments.model is not None and not arguments.model.is_dir():
        parser.error(f"--model: there is no folder {arguments.model}")
    output: Path = arguments.output.absolute()
    if not arguments.overwrite and any((output / name).exists() for name in FILES):
        parser.error(f"--output: {output} holds results; give another folder, or --overwrite")
    limits = _limits(parser, arguments.limit)
    output.mkdir(parents=True, exist_ok=True)
    results = run_all([by_name[name] for name in names], output, arguments.model, limits, arguments.minutes)
    print(write_report(output, STEPS, results, limits))
    count = Counter(result.verdict for result in results)
    by_verdict = {
        verdict: [result.step for result in results if result.verdict == verdict] for verdict in ("wrong", "not run")
    }
    print(json.dumps({"name": "gpu_steps_right", "value": count["right"], "unit": "steps", **by_verdict}))
    return int(count["wrong"] > 0)


def run_all(
    steps: list[Step], output: Path, model: Path | None, limits: dict[str, float], minutes: float
) -> list[Result]:
    """One step after the other, as long as there is time; what has been found is in the folder after each."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    deadline = time.monotonic() + 60 * minutes
    results: list[Result] = []
    for step in steps:
        left_s = deadline - time.monotonic()
        if left_s < step.usual_s:
            reason = f"it usually takes {step.usual_s:.0f} s, and {max(0.0, left_s):.0f} s were left of --minutes"
            results.append(Result(step.name, "not run", "no device", 0.0, [reason]))
        else:
            folder = None if model is None else str(model.absolute())
            bench = Bench(device, _new_folder(output, step.name), folder, limits)
            results.append(run_apart(step, bench, output / f"{step.name}.log", left_s))
        found = results[-1]
        print(
            f"{found.step}: {found.verdict} on {found.on}, {found.seconds:g} s", *found.reasons, sep="\n  ", flush=True
        )
        write_report(output, STEPS, results, limits)
    return results


def _new_folder(output: Path, name: str) -> Path:
    """Beside what a step that was wrong has left."""
    number = 1
    while (folder := output / f"{name}-{number}").exists():
        number += 1
    return folder


def _limits(parser: argparse.ArgumentParser, given: list[str]) -> dict[str, float]:
    limits = {name: limit.value for name, limit in LIMITS.items()}
    for text in given:
        name, _, value = text.partition("=")
        if name not in limits:
            parser.error(f"--limit: there is no {name!r}; there are {', '.join(limits)}")
        try:
            limits[name] = float(value)
        except ValueError:
            parser.error(f"--limit {name}: {value!r} is no number")
    return limits


if __name__ == "__main__":
    sys.exit(main())
