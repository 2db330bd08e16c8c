"""What the curves of a run say about how far it has come."""

from pathlib import Path

from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.names import SCALARS


def has_scalar(run: Path, step: int, name: str) -> bool:
    """Whether a run has logged the scalar at a step."""
    return any(line["step"] == step and name in line for line in jsonl.read(run / SCALARS))
