"""The runs: for each seed one base and one cold start, and from it one RL run of every objective."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from vision_sr1.config import load_config
from vision_sr1.config.loading import PRESETS
from vision_sr1.demo.run import make_data_and_model
from vision_sr1.tasks.distributions import TASKS

EXAMPLES = Path(__file__).parents[2] / "examples" / "shapes"
STAGE_TIMEOUT_S = 1800.0

VARIANTS: dict[str, list[str]] = {
    name: [f"learner.preset={name}"]
    for name in ("see_think", "vision_sr1_sum", "vision_sr1_eq7", "vision_sr1_channels", "vision_sr1")
}
_WITHOUT_REQUERY = [
    component
    for component in yaml.safe_load((PRESETS / "vision_sr1.yaml").read_text())["learner"]["components"]
    if component["tokens"] != ["requery"]
]
VARIANTS["vision_sr1 without requery"] = [f"learner.components={json.dumps(_WITHOUT_REQUERY)}"]


@dataclass(frozen=True)
class Study:
    """Where the runs are and how long they train.

    Attributes:
        batches: of 32 prompts with 8 answers, the same for every objective.
    """

    root: Path
    batches: int

    def data(self, seed: int) -> Path:
        """Folder of a seed's data."""
        return self.root / f"seed{seed}" / "data"

    def model(self, seed: int, name: str) -> Path:
        """A seed's `tiny`, `base` or `cold_start` model."""
        return self.root / f"seed{seed}" / "models" / name

    def run(self, seed: int, variant: str) -> Path:
        """Folder of one RL run."""
        return self.root / f"seed{seed}" / variant.replace(" ", "_")

    def scalars(self, seed: int, variant: str) -> list[dict[str, float]]:
        """What the run has logged so far."""
        file = self.run(seed, variant) / "scalars.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def is_finished(self, seed: int, variant: str) -> bool:
        """Whether the run has its last evaluation."""
        return any(
            line["step"] == self.batches and "eval_accuracy/normal" in line for line in self.scalars(seed, variant)
        )

    def make_cold_start(self, seed: int) -> None:
        """Data, tiny model, base and cold start of a seed, as far as they are not there yet."""
        folder = self.root / f"seed{seed}"
        if not (self.model(seed, "tiny") / "config.json").is_file():
            stages = [load_config(EXAMPLES / f"{n}.yaml", [f"run.seed={seed}"]).config for n in ("base", "cold_start")]
            make_data_and_model(TASKS["shapes"], *stages, self.data(seed), self.model(seed, "tiny"))
        for name, start in (("base", "tiny"), ("cold_start", "base")):
            if not self.model(seed, name).is_dir():
                _vision_sr1(
                    "sft",
                    EXAMPLES / f"{name}.yaml",
                    "--fresh",
                    f"run.dir={folder}",
                    f"run.seed={seed}",
                    f"model.path={self.model(seed, start)}",
                    f"data.sft={self.data(seed) / name}.parquet",
                    f"learner.sft.output={self.model(seed, name)}",
                )

    def train(self, seed: int, variant: str) -> None:
        """One RL run, resumed where it was stopped before."""
        if self.is_finished(seed, variant):
            return
        folder, data = self.run(seed, variant), self.data(seed)
        has_checkpoint = any((folder / "checkpoints").glob("[0-9]*"))
        if folder.exists() and not has_checkpoint:
            shutil.rmtree(folder)
        _vision_sr1(
            "train",
            EXAMPLES / "rl.yaml",
            *(["--resume"] if has_checkpoint else []),
            f"run.dir={folder.parent}",
            f"run.name={folder.name}",
            f"run.seed={seed}",
            f"model.path={self.model(seed, 'cold_start')}",
            f"data.train={data}/train.parquet",
            f"data.evaluation={{normal: {data}/normal.parquet, counter_prior: {data}/counter_prior.parquet}}",
            f"learner.batches={self.batches}",
            "learner.evaluate_every=0",
            "learner.checkpoint_every=16",
            "learner.keep_checkpoints=1",
            *VARIANTS[variant],
        )


def _vision_sr1(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "vision_sr1", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=STAGE_TIMEOUT_S)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
