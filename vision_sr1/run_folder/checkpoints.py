"""Checkpoints on disk, as the learner writes them and others find them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHECKPOINTS = "checkpoints"  # folder in a run's: one folder each, named after its number
BEST = "best"  # beside them: a link to the one with the highest score
POLICY = "policy"  # folder in a checkpoint: the weights in Hugging Face format
ADAPTER = "adapter"  # and, where only adapters learn, these in PEFT's
REFERENCE = "reference"  # and the reference's, once it is not the initial policy
MANIFEST = "trainer.json"  # written last


def checkpoints(run_folder: Path) -> list[Path]:
    """A run's, oldest first; incomplete ones too."""
    folder = run_folder / CHECKPOINTS
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.name.isdigit() and (f / MANIFEST).is_file())


def newest_whole(run_folder: Path) -> Path | None:
    """The one that a run is resumed from; None where there is none."""
    return next((found for found in reversed(checkpoints(run_folder)) if damage_of(found) is None), None)


def newest_healthy(run_folder: Path) -> Path | None:
    """The newest whole one of which `is_healthy` holds; None where there is none."""
    whole = (found for found in reversed(checkpoints(run_folder)) if damage_of(found) is None)
    return next((found for found in whole if is_healthy(manifest(found))), None)


def best(run_folder: Path) -> Path | None:
    """The one that `best` is a link to, or a copy of, as a copied run has it; None where there is none."""
    file = run_folder / CHECKPOINTS / BEST / MANIFEST
    wanted = file.read_bytes() if file.is_file() else None
    return next((found for found in checkpoints(run_folder) if (found / MANIFEST).read_bytes() == wanted), None)


def is_healthy(state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint with this manifest was not written while the run was about to diverge."""
    return bool(state.get("healthy", True))


def manifest(checkpoint: Path) -> dict[str, Any]:
    """What the trainer keeps besides weights and optimizer, and the sizes of all `files`."""
    found: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    return found


def damage_of(checkpoint: Path) -> str | None:
    """What is wrong with its files; None where nothing is."""
    try:
        sizes = manifest(checkpoint)["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read: {error!r}"
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None
