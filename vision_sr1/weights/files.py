"""Weights on disk."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor


def read_weights(folder: str) -> list[tuple[str, Tensor]]:
    """What the safetensors files of a folder hold."""
    return [item for file in sorted(Path(folder).glob("*.safetensors")) for item in load_file(file).items()]
