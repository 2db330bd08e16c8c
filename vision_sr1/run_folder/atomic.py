"""Files and folders that are there whole or not at all: written beside their place, and renamed."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

ASIDE = ".writing-"  # before the name, while it is written


def aside(path: Path) -> Path:
    """Where a file or folder is written before it gets its name."""
    return path.with_name(f"{ASIDE}{path.name}")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A place to write a file or folder, which gets its name at the end.

    What an earlier attempt left there is removed first.
    """
    place = aside(path)
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    yield place
    place.rename(path)
