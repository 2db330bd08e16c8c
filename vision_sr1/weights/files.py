"""Weights on disk."""

from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor


def read_weights(folder: str) -> Iterator[tuple[str, Tensor]]:
    """What the safetensors files of a folder hold, one parameter in memory at a time."""
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                yield name, file.get_tensor(name)
