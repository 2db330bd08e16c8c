"""What the commands of `vision-sr1` have in common: the terminal, arguments, and how mistakes are told."""

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from vision_sr1.config import ConfigError, LoadedConfig, load_config

console = Console(soft_wrap=True)  # the terminal breaks lines: paths can be copied, and logs searched
errors = Console(stderr=True, soft_wrap=True)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Settings that override the file.")
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed; equal seeds give equal results.")]


class Commands(TyperGroup):
    """Tells in one line what the system refuses to any command: a place that cannot be written, a full disk."""

    def invoke(self, ctx: Any) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click's own
            raise
        except OSError as error:
            if error.strerror is None:
                raise
            fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)


def load(path: Path | None, overrides: list[str] | None) -> LoadedConfig:
    """The effective configuration; a mistake in it ends the command."""
    try:
        loaded = load_config(path, overrides or [])
    except ConfigError as error:
        fail(str(error))
    for renamed in loaded.renamed:
        errors.print(renamed, style="yellow", highlight=False, markup=False)
    return loaded


def fail(message: str, status: int = 2) -> NoReturn:
    """Ends the command with a message."""
    errors.print(message, style="red", highlight=False, markup=False)
    raise typer.Exit(status)
