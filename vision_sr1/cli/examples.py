"""The examples that are shipped with this package: in a checkout beside it, in an installation within it."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
FOLDER = "examples"


def shipped() -> Path:
    """The folder of the examples."""
    installed = _PACKAGE / FOLDER
    return installed if installed.is_dir() else _PACKAGE.parent / FOLDER


def example(path: Path) -> Path:
    """A file or folder; where `examples/…` is not here, the shipped one."""
    if path.parts[:1] != (FOLDER,) or path.exists():
        return path
    found = shipped().joinpath(*path.parts[1:])
    return found if found.exists() else path
