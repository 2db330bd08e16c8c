"""Checkpoints: the trainer's state and the policy in Hugging Face format, written aside and renamed when whole."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
import torch.distributed as dist

from learner.engine import is_main
from learner.export import export_policy

log = structlog.get_logger()

_MANIFEST = "trainer.json"


class Checkpoints:
    """A run's checkpoints, each in a folder named after its policy version."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = self._all()
        return found[-1] if found else None

    def save(
        self, engine: Any, processor: Any, version: int, state: dict[str, Any], also: Callable[[Path], None]
    ) -> Path:
        """Writes a checkpoint on every rank; it counts once its folder has its final name.

        Args:
            state: what the trainer keeps besides weights and optimizer; must be JSON.
            also: writes more into the folder it is given; called on every rank.
        """
        final = self._folder / f"{version:06d}"
        aside = self._folder / f".writing-{version:06d}"
        if is_main() and aside.exists():
            shutil.rmtree(aside)
        dist.barrier()
        engine.save_checkpoint(str(aside), tag="engine", save_latest=False)
        export_policy(engine.module, processor, aside / "policy")
        also(aside)
        if is_main():
            manifest = aside / _MANIFEST
            manifest.write_text(json.dumps({"policy_version": version, **state}, indent=1), encoding="utf-8")
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
        state: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return state

    def _all(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(f for f in self._folder.iterdir() if f.name.isdigit() and (f / _MANIFEST).is_file())


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
