"""Three batches of the shapes task by the command line, on one device: stopped, resumed, exported and asked."""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median

from bench.gpu.findings import Bench, Findings
from bench.gpu.models import tiny_model
from vision_sr1.cli.tasks.distributions import TASKS, write_task
from vision_sr1.config import load_config
from vision_sr1.data import Questions
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.names import SCALARS

EXAMPLES = Path(__file__).parents[3] / "examples" / "shapes"
BATCHES = 3
COMMAND_TIMEOUT_S, STOP_TIMEOUT_S = 300, 60
INTERRUPTED = 130  # exit status of a launcher that was stopped


def run(bench: Bench, findings: Findings) -> None:
    """A short cold start first, so that answers have descriptions."""
    folder = bench.folder
    tiny = tiny_model(folder / "tiny")
    data = write_task(TASKS["shapes"], folder / "data", seed=0, base=1, cold_start=1600, train=64, held_out=8)
    cold_start = folder / "cold_start_model"
    _command(
        *("sft", EXAMPLES / "cold_start.yaml", f"run.dir={folder / 'runs'}", f"model.path={tiny}"),
        *("model.dtype=bfloat16", f"data.sft={data['cold_start']}", "learner.processes=1"),
        *("learner.sft.steps=40", "learner.sft.sequences_per_step=32", f"learner.sft.output={cold_start}"),
    )
    arguments: list[str | Path] = [
        *("train", EXAMPLES / "rl.yaml", f"run.dir={folder / 'runs'}", f"model.path={cold_start}"),
        *("model.dtype=bfloat16", f"data.train={data['train']}", f"data.evaluation={{normal: {data['normal']}}}"),
        *("actors.placement=shared", "learner.processes=1", "learner.zero_stage=2", f"learner.batches={BATCHES}"),
        *("learner.prompts_per_batch=8", "learner.prompts_per_step=4", "learner.evaluate_every=0"),
        *("learner.checkpoint_every=1", "learner.weights.verify_every=1", "metrics.learner_port=0"),
    ]
    rl = folder / "runs" / "rl"
    status = _stopped_after_a_batch(arguments, rl)
    findings.holds(f"a run that is told to stop ends with {INTERRUPTED}: {status}", status == INTERRUPTED)
    _command(*arguments, "--resume")
    lines = [line for line in jsonl.read(rl / SCALARS) if "seconds/batch" in line]
    learned = Counter(int(line["step"]) for line in lines)
    findings.holds(f"each batch is learned once: {dict(learned)}", learned == Counter(range(1, BATCHES + 1)))
    for name in ("seconds/batch", "seconds/rollouts", "seconds/learn", "seconds/devices", "seconds/publish"):
        findings.figure(f"{name}, median", median(line[name] for line in lines))
    findings.figure("mismatch_kl/engine_trainer, largest", max(line["mismatch_kl/engine_trainer"] for line in lines))
    findings.figure("mean differences of log-probabilities, actor and trainer", _verified(rl))
    exported = folder / "exported"
    _command("export", rl, "--output", exported)
    question = Questions(str(data["normal"]), load_config(None, [], environment={}).config.data)[0]
    image = folder / "image.png"
    image.write_bytes(question.images[0])
    answer = _command("ask", exported, image, question.question)
    findings.figure("the export's answer", " ".join(answer.split())[:200])


def _stopped_after_a_batch(arguments: list[str | Path], rl: Path) -> int:
    """Starts the run, and tells it to stop as Ctrl-C does once a batch is learned; its exit status."""
    process = subprocess.Popen(_words(*arguments))
    deadline = time.monotonic() + COMMAND_TIMEOUT_S
    while process.poll() is None and not any(line["step"] > 0 for line in jsonl.read(rl / SCALARS)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    return process.wait(STOP_TIMEOUT_S)


def _verified(rl: Path) -> list[str]:
    """What the learner found when it compared the actor's log-probabilities with its own."""
    lines = (rl / "logs" / "learner.log").read_text(errors="replace").splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [
        f"version {event['policy_version']}: {deviation}"
        for event in events
        if event["event"] == "weights_verified"
        for deviation in re.findall(r"deviation=([\d.e-]+)", str(event["comparisons"]))
    ]


def _command(*arguments: str | Path) -> str:
    done = subprocess.run(_words(*arguments), capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    print(done.stdout, done.stderr, sep="\n", flush=True)
    if done.returncode:
        raise RuntimeError(f"`vision-sr1 {arguments[0]}` ended with status {done.returncode}: {done.stdout[-500:]}")
    return done.stdout


def _words(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "vision_sr1", *map(str, arguments)]
