"""A row's batches with this system: its own command, one actor and two learner ranks with a thread each."""

import os
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import psutil

from bench.claims.runs import EXAMPLES
from bench.peers.work import STAGE_TIMEOUT_S, Run, Work
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.names import SCALARS

SAMPLE_S = 0.5
ANSWER_ALONE = ["learner.preset=see_think", "reward.requery.when=never"]


def train(work: Work, model: Path, questions: Path, folder: Path, batches: int, name: str, settings: list[str]) -> Run:
    """A run of so many batches and one before them, which warms up."""
    arguments = [
        "train",
        str(EXAMPLES / "rl.yaml"),
        "--fresh",
        f"run.dir={folder}",
        f"run.name={name}",
        f"model.path={model}",
        f"model.dtype={work.dtype}",
        f"model.max_model_len={work.max_model_len}",
        f"model.min_pixels={work.pixels}",
        f"model.max_pixels={work.pixels}",
        f"data.train={questions}",
        "data.evaluation={}",
        f"sampling.group_size={work.group_size}",
        f"sampling.max_tokens={work.tokens}",
        f"learner.batches={batches + 1}",
        f"learner.prompts_per_batch={work.prompts}",
        f"learner.prompts_per_step={work.prompts // work.steps}",
        f"learner.micro_batch_tokens={work.micro_batch}",
        f"learner.groups_timeout_s={STAGE_TIMEOUT_S}",
        "learner.checkpoint_every=1000000",
        "learner.weights.verify_every=0",
        "metrics.learner_port=0",
        "metrics.actor_port=0",
        "reward.port=0",
        *settings,
    ]
    command = [sys.executable, "-m", "vision_sr1", *arguments]
    log = folder / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"})
        memory = Memory(process.pid)
        try:
            status = process.wait(STAGE_TIMEOUT_S)
        finally:
            process.kill()
            memory.stop()
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}; see {log}")
    lines = [line for line in jsonl.read(folder / name / SCALARS) if "seconds/learn" in line]
    ends = [line["time"] for line in lines]
    seconds = [after - before for before, after in pairwise(ends)]
    return Run(seconds, memory.peak_mb, [line["seconds/learn"] for line in lines[1:]], memory.learner_mb)


class Memory:
    """Resident memory of a process and all that it starts, looked at twice a second."""

    def __init__(self, pid: int) -> None:
        self.peak_mb = 0.0
        self.learner_mb = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(pid,))
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._ended.set()
        self._thread.join()

    def _watch(self, pid: int) -> None:
        while not self._ended.wait(SAMPLE_S):
            used = learner = 0.0
            try:
                for process in psutil.Process(pid).children(recursive=True):
                    megabytes = process.memory_info().rss / 2**20
                    used += megabytes
                    learner += megabytes if "learner" in process.cmdline() else 0.0
            except psutil.Error:
                time.sleep(SAMPLE_S)
                continue
            self.peak_mb, self.learner_mb = max(self.peak_mb, used), max(self.learner_mb, learner)
