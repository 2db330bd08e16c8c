"""Checkpoints: the trainer's state and the policy in Hugging Face format, written aside and renamed when whole.

Training waits only for a copy of the state in memory; the copy is written beside it, by every rank its own part. A
checkpoint counts from the moment its folder has its final name, and only while its files have the sizes it was given.
"""

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import Counter, Gauge
from torch import Tensor

from learner.checkpoints.hf_folder import write_adapter, write_export
from learner.distributed.rank_collectives import all_ranks, any_rank
from learner.distributed.ranks import is_main
from learner.distributed.state_shards import Shard, StateShardsError, restore, snapshot, write_shards
from learner.model.snapshots import adapter_snapshot, export_snapshot
from vision_sr1.config import Config, ConfigError
from vision_sr1.resuming.changes import ORIGIN, Stage, changes, origin
from vision_sr1.run_folder.atomic import ASIDE
from vision_sr1.run_folder.checkpoints import (
    ADAPTER,
    BEST,
    CHECKPOINTS,
    MANIFEST,
    POLICY,
    checkpoints,
    damage_of,
    is_healthy,
    manifest,
)

log = structlog.get_logger()

OUTCOMES = Counter("vision_sr1_learner_checkpoints", "Checkpoints, by outcome.", ["outcome"])
for _outcome in ("written", "failed", "incomplete"):
    OUTCOMES.labels(_outcome)  # counted from 0: alerts see an increase
SNAPSHOT_SECONDS = Gauge(
    "vision_sr1_learner_checkpoint_snapshot_seconds", "Duration for which the last checkpoint paused training."
)
WRITE_SECONDS = Gauge("vision_sr1_learner_checkpoint_write_seconds", "Duration of writing the last checkpoint.")

WRITE_TIMEOUT_S = 1800.0
FAILURES_IN_A_ROW = 3  # after so many the run ends: what no checkpoint holds fills Redis
_STATE = "state"
_REPLACED = ".replaced-"  # by a later one of the same number


class CheckpointError(RuntimeError):
    """A checkpoint could not be written."""


class _Writing(threading.Thread):
    """One rank's part of a checkpoint on its way to the disk."""

    def __init__(self, number: int, aside: Path, state: dict[str, Any], write: Callable[[], None]) -> None:
        super().__init__(name=f"checkpoint-{number}", daemon=True)
        self.number = number
        self.aside = aside
        self.state = state
        self.failure: Exception | None = None
        self.started = time.monotonic()
        self._write = write

    def run(self) -> None:
        """Writes; what goes wrong is kept for the ranks to agree on."""
        try:
            self._write()
        except Exception as error:
            self.failure = error
            log.error(
                "checkpoint_failed",
                message="The checkpoint could not be written",
                number=self.number,
                folder=str(self.aside),
                error=repr(error),
            )


class Checkpoints:
    """A run's checkpoints, each in a folder named after its number: policy version in RL, step in SFT.

    Raises:
        DataError: a data set that they are written with cannot be read.
    """

    def __init__(self, config: Config, stage: Stage) -> None:
        self._config = config
        self._origin = origin(config, stage)
        self._run_folder = config.run.path
        self._folder = config.run.path / CHECKPOINTS
        self._lora = config.learner.lora
        self._base = config.model.path
        self._run = config.run.name
        self._resume = config.learner.resume
        self._keep = config.learner.keep_checkpoints
        self._stage = stage
        self._writing: _Writing | None = None
        self._failures = 0

    def to_resume(self) -> Path | None:
        """The newest whole checkpoint, None where there is none; logs which it passes over, and what changed since.

        Raises:
            ConfigError: there is one, but the run is not to be resumed, or not with what changed since.
        """
        for replaced in self._folder.glob(f"{_REPLACED}*"):
            final = self._folder / replaced.name.removeprefix(_REPLACED)
            if not final.exists():  # the learner died in between
                with contextlib.suppress(FileNotFoundError):  # another rank was first
                    replaced.rename(final)
        found = checkpoints(self._run_folder)
        if not found:
            return None
        if not self._resume:
            raise ConfigError(
                f"run {self._run!r} already has checkpoint {found[-1]}: resume it, or choose another run.name"
            )
        for folder in reversed(found):
            damage = damage_of(folder)
            if damage is None:
                for change in changes(folder, self._config, self._stage, self._origin):
                    log.info(
                        "changed_since_checkpoint",
                        message="A setting, data or weights differ from the checkpoint",
                        **asdict(change),
                    )
                return folder
            OUTCOMES.labels("incomplete").inc()
            log.error(
                "checkpoint_incomplete",
                message="Checkpoint is incomplete; falling back to the previous one",
                folder=str(folder),
                reason=damage,
            )
        raise ConfigError(
            f"none of the checkpoints in {self._folder} is whole ({damage_of(found[-1])}): bring one back from a copy, "
            "or start again with --fresh"
        )

    def begin(
        self,
        engine: Any,
        processor: Any,
        number: int,
        state: dict[str, Any],
        also: dict[str, tuple[Any, dict[str, Tensor]]] | None = None,
        shards: Iterable[Shard] | None = None,
    ) -> None:
        """Copies the state of every rank and begins to write it. The one before is waited for.

        Args:
            state: what the trainer keeps besides weights and optimizer; must be JSON. Its `score`, if any, says how
                good the policy is; the best checkpoint is kept. `healthy` is false where the run was about to diverge:
                healthy checkpoints are not pruned in favour of such a one.
            also: by folder, other models and their snapshots.
            shards: of this rank; default: those that the engine holds now.
        """
        self.finalize(wait=True)
        started = time.monotonic()
        aside = self._folder / f"{ASIDE}{number:06d}"
        if is_main():
            for left in (*self._folder.glob(f"{ASIDE}*"), *self._folder.glob(f"{_REPLACED}*")):
                shutil.rmtree(left, ignore_errors=True)
        all_ranks(True)  # returns once nothing is left there of an earlier one
        copies = snapshot(engine, shards)
        models = {POLICY: (engine.module, export_snapshot(engine.module)), **(also or {})}
        adapter = adapter_snapshot(engine.module) if self._lora.rank else {}

        def write() -> None:
            _fsync(write_shards(copies, aside / _STATE))
            if is_main():
                for folder, (model, weights) in models.items():
                    write_export(model, processor, weights, aside / folder)
                if adapter:
                    write_adapter(self._lora, self._base, adapter, aside / ADAPTER)
                for folder in (*models, *([ADAPTER] if adapter else [])):
                    for file in (aside / folder).rglob("*"):
                        _fsync(file)

        self._writing = _Writing(number, aside, {"stage": self._stage, ORIGIN: self._origin, **state}, write)
        self._writing.start()
        SNAPSHOT_SECONDS.set(time.monotonic() - started)

    def finalize(self, *, wait: bool = False, last: bool = False) -> Path | None:
        """The checkpoint under way, once it has become whole; None while it has not. Every rank calls it.

        Args:
            wait: until it has.
            last: no other will follow.

        Raises:
            CheckpointError: it could not be written, and is the last one, or the third in a row.
        """
        writing = self._writing
        if writing is None:
            return None
        if wait:
            writing.join(WRITE_TIMEOUT_S)
            if writing.is_alive():
                writing.failure = TimeoutError(f"not written in {WRITE_TIMEOUT_S:.0f} s")
        if not all_ranks(not writing.is_alive() or writing.failure is not None):
            return None
        self._writing = None
        if any_rank(writing.failure is not None):
            self._give_up(writing, last=last)
            return None
        self._failures = 0
        final = self._folder / f"{writing.number:06d}"
        if is_main():
            self._put_in_place(writing, final)
        all_ranks(True)  # returns once it is there
        return final

    def load(self, engine: Any, folder: Path) -> dict[str, Any]:
        """Restores weights and optimizer on every rank and returns the trainer's state.

        Raises:
            ConfigError: it is a checkpoint of another model.
        """
        try:
            restore(engine, folder / _STATE)
        except StateShardsError as error:
            raise ConfigError(str(error)) from error
        state = manifest(folder)
        return state if self._is_comparable(state) else {**state, "best": None}

    def _is_comparable(self, state: dict[str, Any]) -> bool:
        """Whether a checkpoint's scores are by the name of this run's."""
        written_with = state.get(ORIGIN, self._origin)["settings"]
        return bool(written_with.get("learner.keep_best") == self._origin["settings"].get("learner.keep_best"))

    def _put_in_place(self, writing: _Writing, final: Path) -> None:
        written = writing.aside / MANIFEST
        sizes = {
            str(file.relative_to(writing.aside)): file.stat().st_size
            for file in sorted(writing.aside.rglob("*"))
            if file.is_file() and file != written
        }
        written.write_text(json.dumps({**writing.state, "files": sizes}, indent=1), encoding="utf-8")
        for path in (written, *(folder for folder in writing.aside.iterdir() if folder.is_dir()), writing.aside):
            _fsync(path)
        replaced = self._folder / f"{_REPLACED}{final.name}"
        if final.exists():
            final.rename(replaced)
        writing.aside.rename(final)
        _fsync(self._folder)
        shutil.rmtree(replaced, ignore_errors=True)
        self._prune()
        OUTCOMES.labels("written").inc()
        WRITE_SECONDS.set(time.monotonic() - writing.started)
        log.info(
            "checkpoint_written",
            message="The checkpoint is complete on the disk",
            folder=str(final),
            seconds=round(time.monotonic() - writing.started, 3),
        )

    def _give_up(self, writing: _Writing, *, last: bool) -> None:
        OUTCOMES.labels("failed").inc()
        self._failures += 1
        if is_main():
            shutil.rmtree(writing.aside, ignore_errors=True)
        if last or self._failures == FAILURES_IN_A_ROW:
            reason = writing.failure or "another rank failed, see its log"
            raise CheckpointError(f"checkpoint {writing.number} could not be written to {self._folder}: {reason}")

    def _prune(self) -> None:
        """Keeps the latest, as many healthy ones as configured, and the best."""
        found = checkpoints(self._run_folder)
        states = {folder: manifest(folder) for folder in found}
        scores = {
            folder: state["score"]
            for folder, state in states.items()
            if state.get("score") is not None and self._is_comparable(state)
        }
        healthy = [folder for folder in found if is_healthy(states[folder])]
        kept = {found[-1], *healthy[-self._keep :]}
        if scores:
            best = max(scores, key=lambda folder: (scores[folder], folder))
            kept.add(best)
            link = self._folder / f"{ASIDE}{BEST}"
            link.unlink(missing_ok=True)
            link.symlink_to(best.name)
            if not (present := self._folder / BEST).is_symlink() and present.is_dir():
                shutil.rmtree(present)  # a copied run has a copy in place of the link
            link.rename(present)
        for folder in found:
            if folder not in kept:
                shutil.rmtree(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
