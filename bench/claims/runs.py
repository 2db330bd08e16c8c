"""The runs: for each seed one base and one cold start, and from it one RL run of every objective."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vision_sr1.cli.demo.demo import HELD_OUT_ROWS, make_data_and_model
from vision_sr1.cli.tasks.distributions import TASKS
from vision_sr1.config import load_config
from vision_sr1.config.loading import PRESETS
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.curves import has_scalar
from vision_sr1.run_folder.names import SCALARS

EXAMPLES = Path(__file__).parents[2] / "examples" / "shapes"
STAGE_TIMEOUT_S = 1800.0
SEEDS = (0, 1, 2)
COLD_START = "cold start"  # its name among the objectives in a report


def components(preset: str) -> list[dict[str, Any]]:
    """The components of a preset, to be changed."""
    loaded: list[dict[str, Any]] = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())["learner"]["components"]
    return loaded


def as_override(changed: list[dict[str, Any]]) -> list[str]:
    """Components as an override of a run's configuration."""
    return [f"learner.components={json.dumps(changed)}"]


OBJECTIVES: dict[str, list[str]] = {
    name: [f"learner.preset={name}"]
    for name in ("see_think", "vision_sr1_sum", "vision_sr1_eq7", "vision_sr1_channels", "vision_sr1")
} | {"vision_sr1 without requery": as_override([c for c in components("vision_sr1") if c["tokens"] != ["requery"]])}


@dataclass(frozen=True)
class Study:
    """Runs from one kind of cold start, by seed and objective.

    Attributes:
        root: base models, data and cold starts are here, shared by studies of one root.
        batches: of 32 prompts with 8 answers, the same for every objective.
        name: folder of the RL runs within a seed's; empty: the seed's own.
        cold_start: which of the task's files it learns from.
        cold_start_steps: of its supervised training; None: as in the example.
        kinds: relative frequencies of the kinds of questions; None: the task's own.
        sft_steps: of the base model and every cold start, on as many data; None: as said above. Only for a root that
            is not shared with a study of other sizes.
        held_out: images of each held-out split.
        evaluated: on both held-out splits, before and after RL.
    """

    root: Path
    batches: int
    name: str = ""
    cold_start: str = "cold_start"
    cold_start_steps: int | None = None
    kinds: Mapping[str, float] | None = None
    sft_steps: int | None = None
    held_out: int = HELD_OUT_ROWS
    evaluated: bool = True

    def data(self, seed: int) -> Path:
        """Folder of a seed's data."""
        return self.root / f"seed{seed}" / "data"

    def model(self, seed: int, name: str) -> Path:
        """A seed's `tiny` or `base` model, or a cold start."""
        return self.root / f"seed{seed}" / "models" / name

    def run(self, seed: int, objective: str) -> Path:
        """Folder of one RL run."""
        return self.root / f"seed{seed}" / self.name / objective.replace(" ", "_")

    def policy(self, seed: int, name: str) -> Path:
        """The cold start (`COLD_START`), or the model at the end of a run."""
        if name == COLD_START:
            return self.model(seed, self._cold_start_name)
        return self.run(seed, name) / "checkpoints" / f"{self.batches:06d}" / "policy"

    def scalars(self, seed: int, objective: str) -> list[dict[str, float]]:
        """What the run has logged so far."""
        return jsonl.read(self.run(seed, objective) / SCALARS)

    def is_finished(self, seed: int, objective: str) -> bool:
        """Whether the run has made its last batch, and its last evaluation."""
        last = "eval_accuracy/normal" if self.evaluated else "reward/accuracy"
        return has_scalar(self.run(seed, objective), self.batches, last)

    def make_cold_start(self, seed: int) -> None:
        """Data, tiny model, base and cold start of a seed, as far as they are not there yet."""
        if not (self.model(seed, "tiny") / "config.json").is_file():
            options = [f"run.seed={seed}", *_sft_steps(self.sft_steps)]
            base, cold_start = (load_config(EXAMPLES / f"{n}.yaml", options).config for n in ("base", "cold_start"))
            tiny = self.model(seed, "tiny")
            make_data_and_model(
                TASKS["shapes"], base, cold_start, self.data(seed), tiny, held_out=self.held_out, kinds=self.kinds
            )
        self._supervise(seed, "base", "base", "tiny", "base", None)
        self._supervise(seed, self._cold_start_name, "cold_start", "base", self.cold_start, self.cold_start_steps)

    def train(self, seed: int, objective: str, overrides: list[str]) -> None:
        """One RL run, resumed where it was stopped before.

        Args:
            objective: the run's name.
            overrides: of its configuration.
        """
        if self.is_finished(seed, objective):
            return
        folder, data = self.run(seed, objective), self.data(seed)
        has_checkpoint = any((folder / "checkpoints").glob("[0-9]*"))
        if folder.exists() and not has_checkpoint:
            shutil.rmtree(folder)
        splits = f"{{normal: {data}/normal.parquet, counter_prior: {data}/counter_prior.parquet}}"
        run_command(
            "train",
            EXAMPLES / "rl.yaml",
            *(["--resume"] if has_checkpoint else []),
            f"run.dir={folder.parent}",
            f"run.name={folder.name}",
            f"run.seed={seed}",
            f"model.path={self.model(seed, self._cold_start_name)}",
            f"data.train={data}/train.parquet",
            f"data.evaluation={splits if self.evaluated else '{}'}",
            f"learner.batches={self.batches}",
            "learner.evaluate_every=0",
            "learner.checkpoint_every=16",
            "learner.keep_checkpoints=1",
            *overrides,
        )

    @property
    def _cold_start_name(self) -> str:
        return self.cold_start if self.cold_start_steps is None else f"{self.cold_start}_{self.cold_start_steps}"

    def _supervise(self, seed: int, name: str, example: str, start: str, data: str, steps: int | None) -> None:
        if self.model(seed, name).is_dir():
            return
        run_command(
            "sft",
            EXAMPLES / f"{example}.yaml",
            "--fresh",
            f"run.dir={self.root / f'seed{seed}'}",
            f"run.name={name}",
            f"run.seed={seed}",
            f"model.path={self.model(seed, start)}",
            f"data.sft={self.data(seed) / data}.parquet",
            f"learner.sft.output={self.model(seed, name)}",
            *_sft_steps(steps if self.sft_steps is None else self.sft_steps),
        )


def _sft_steps(steps: int | None) -> list[str]:
    return [] if steps is None else [f"learner.sft.steps={steps}"]


CLAIMS = Study(Path(), batches=32)


def run_command(*arguments: str | Path) -> None:
    """A command of `vision-sr1` to its end."""
    command = [sys.executable, "-m", "vision_sr1", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=STAGE_TIMEOUT_S)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
