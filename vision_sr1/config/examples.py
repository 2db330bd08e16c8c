"""Where the examples are: beside this package in a checkout, within it where a wheel was installed."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
EXAMPLES = next((path for path in (_PACKAGE / "examples", _PACKAGE.parent / "examples") if path.is_dir()), None)


def example_path(path: Path) -> Path:
    """The path as it was given; one of `examples/` that is not in the working folder is that of this installation."""
    if EXAMPLES is None or path.parts[:1] != ("examples",) or path.exists():
        return path
    found = EXAMPLES.joinpath(*path.parts[1:])
    return found if found.exists() else path
