"""Folders of runs: opened wherever they are now, under whatever name; found beneath a folder; and their state."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vision_sr1.config import ConfigError, LoadedConfig, load_config, place_of
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.checkpoints import CHECKPOINTS, checkpoints
from vision_sr1.run_folder.names import ASKED, LEDGER, LOCK, SCALARS, SETTINGS, SFT_OUTPUT, TRACES

LEFT_BY_RUNS = (LOCK, SCALARS, LEDGER, TRACES, CHECKPOINTS)
HINTS = 5  # runs that are named where a folder is none
PORTS = {"reward.port", "actors.port", "metrics.learner_port", "metrics.actor_port"}


@dataclass(frozen=True)
class RunSummary:
    """A run in a list.

    Attributes:
        state: `running`, `finished`, `stopped`, or `not started`.
        steps, total: batches of RL, of which there may be 0; or steps of supervised fine-tuning, 0 where the total is
            not known.
        accuracy: the latest on held-out questions, by split; else that of training, as `train`.
        age_s: seconds since the last step; None before the first.
        checkpoint: the number of the last.
    """

    path: Path
    state: str
    steps: int
    total: int
    accuracy: dict[str, float]
    age_s: float | None
    checkpoint: int | None


def settings_file(run: Path) -> Path:
    """The configuration in a run's folder.

    Raises:
        ConfigError: it is not the folder of a run; runs within it are named.
    """
    file = run / SETTINGS
    if file.is_file():
        return file
    if run.is_file():
        raise ConfigError(f"{run} is a file: name the run's folder, such as {run.parent}")
    if not run.is_dir():
        raise ConfigError(f"{run} is not the folder of a run: there is no such folder")
    within = [str(found) for found in run_folders(run)][:HINTS]
    hint = f"; did you mean {', '.join(within[:-1])}{' or ' if within[:-1] else ''}{within[-1]}?" if within else ""
    raise ConfigError(f"{run} is not the folder of a run: it has no {SETTINGS}{hint}")


def run_of(path: Path | None) -> Path | None:
    """The run whose folder this is, or whose saved configuration; None of any other file."""
    if path is None:
        return None
    run = path.parent if path.name == SETTINGS and path.is_file() else path
    return run if (run / SETTINGS).is_file() and any((run / name).exists() for name in LEFT_BY_RUNS) else None


def load_run(run: Path, overrides: list[str] | None = None) -> LoadedConfig:
    """A run's configuration, with the place where its folder is now; whether it is to be resumed is not saved.

    Raises:
        ConfigError: it is not the folder of a run, or its configuration cannot be read.
    """
    return with_free_ports(
        load_config(settings_file(run), [*place_of(run), "learner.resume=false", *(overrides or [])])
    )


def with_free_ports(loaded: LoadedConfig) -> LoadedConfig:
    """A run's saved configuration has the ports that it had: they count as defaults, unless overridden."""
    for port in PORTS:
        section, _, field = port.partition(".")
        if loaded.origins.get(port) != "command line":
            getattr(loaded.config, section).model_fields_set.discard(field)
    return loaded


def run_folders(folder: Path) -> list[Path]:
    """Runs within a folder and within its folders: no evaluations, and no services that several runs share."""
    found = [file.parent for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{SETTINGS}")]
    return sorted(run for run in found if not ((run / ASKED).is_file() or _is_of_services(run)))


def summary(run: Path) -> RunSummary:
    """What a run's files say.

    Raises:
        ConfigError: its configuration cannot be read.
    """
    config = load_run(run).config
    scalars = jsonl.read(run / SCALARS)
    steps = int(scalars[-1]["step"]) if scalars else 0
    is_sft = any(name.startswith("sft/") for line in scalars[-1:] for name in line)
    total = (config.learner.sft.steps or 0) if is_sft else config.learner.batches
    is_finished = bool(scalars) and steps >= total
    if is_sft and not total:  # its epochs are done
        is_finished = (config.learner.sft.output or run / SFT_OUTPUT).is_dir()
    found = checkpoints(run)
    if is_held(run):
        state = "running"
    elif is_finished:
        state = "finished"
    else:
        state = "stopped" if scalars or found else "not started"
    return RunSummary(
        path=run,
        state=state,
        steps=steps,
        total=total,
        accuracy=latest_accuracy(scalars),
        age_s=time.time() - scalars[-1]["time"] if scalars else None,
        checkpoint=int(found[-1].name) if found else None,
    )


def latest_scalars(run: Path) -> dict[str, float]:
    """The newest value of every scalar of a run."""
    return _latest(jsonl.read(run / SCALARS))


def _latest(scalars: list[dict[str, Any]]) -> dict[str, float]:
    return {name: value for line in scalars for name, value in line.items() if isinstance(value, (int, float))}


def latest_accuracy(scalars: list[dict[str, Any]]) -> dict[str, float]:
    """By held-out split, from the newest evaluation of each; of training (`train`) where there is none."""
    latest = _latest(scalars)
    held_out = {
        name.removeprefix("eval_accuracy/"): value
        for name, value in latest.items()
        if name.startswith("eval_accuracy/")
    }
    if not held_out and "reward/accuracy" in latest:
        return {"train": latest["reward/accuracy"]}
    return held_out


def is_held(run: Path) -> bool:
    """Whether a launcher on this machine works in a run's folder: by the kernel's list of locks, without taking any."""
    try:
        inode = (run / LOCK).stat().st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    return any(fields[1] == "FLOCK" and fields[5].endswith(f":{inode}") for fields in map(str.split, locks))


def _is_of_services(run: Path) -> bool:
    try:
        tree = yaml.safe_load((run / SETTINGS).read_text(encoding="utf-8"))
        return tree["streams"]["name"] == tree["run"]["name"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, RecursionError):
        return False
