"""Checkpoints: the trainer's state and the policy in Hugging Face format, written aside and renamed when whole."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import structlog
import torch.distributed as dist

from learner.engine import is_main
from learner.export import export_policy
from vision_sr1.config import Config, ConfigError

log = structlog.get_logger()

POLICY = "policy"  # folder in a checkpoint: the weights in Hugging Face format
_MANIFEST = "trainer.json"


class Checkpoints:
    """A run's checkpoints, each in a folder named after its number: policy version in RL, step in SFT."""

    def __init__(self, config: Config, stage: Literal["rl", "sft"]) -> None:
        self._folder = config.run.path / "checkpoints"
        self._run = config.run.name
        self._resume = config.learner.resume
        self._keep = config.learner.keep_checkpoints
        self._stage = stage

    def to_resume(self) -> Path | None:
        """The newest whole checkpoint, None where there is none.

        Raises:
            ConfigError: there is one, but the run is not to be resumed, or it is of another stage.
        """
        found = self._all()
        if not found:
            return None
        latest = found[-1]
        if not self._resume:
            raise ConfigError(
                f"run {self._run!r} already has checkpoint {latest}: resume it, or choose another run.name"
            )
        stage = _manifest(latest).get("stage", "rl")
        if stage != self._stage:
            raise ConfigError(f"{latest} is a checkpoint of {stage}, not of {self._stage}: choose another run.name")
        return latest

    def save(
        self,
        engine: Any,
        processor: Any,
        number: int,
        state: dict[str, Any],
        also: Callable[[Path], None] = lambda folder: None,  # noqa: ARG005
    ) -> Path:
        """Writes a checkpoint on every rank; it counts once its folder has its final name.

        Args:
            state: what the trainer keeps besides weights and optimizer; must be JSON.
            also: writes more into the folder it is given; called on every rank.
        """
        final = self._folder / f"{number:06d}"
        aside = self._folder / f".writing-{number:06d}"
        if is_main() and aside.exists():
            shutil.rmtree(aside)
        dist.barrier()
        engine.save_checkpoint(str(aside), tag="engine", save_latest=False)
        export_policy(engine.module, processor, aside / POLICY)
        also(aside)
        if is_main():
            manifest = aside / _MANIFEST
            manifest.write_text(json.dumps({"stage": self._stage, **state}, indent=1), encoding="utf-8")
            for file in sorted(aside.rglob("*")):
                _fsync(file)
            if final.exists():
                shutil.rmtree(final)
            aside.rename(final)
            _fsync(self._folder)
            for old in self._all()[: -self._keep]:
                shutil.rmtree(old)
            log.info("checkpoint written", folder=str(final))
        dist.barrier()
        return final

    def load(self, engine: Any, folder: Path) -> dict[str, Any]:
        """Restores weights and optimizer on every rank and returns the trainer's state."""
        engine.load_checkpoint(str(folder), tag="engine")
        return _manifest(folder)

    def _all(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(f for f in self._folder.iterdir() if f.name.isdigit() and (f / _MANIFEST).is_file())


def _manifest(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    return state


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
