"""What the commands of `vision-sr1` have in common: the terminal, arguments, and how mistakes are told."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from vision_sr1.cli.runs import load_run, run_of
from vision_sr1.config import ConfigError, LoadedConfig, MissingPathError, load_config
from vision_sr1.errors import OutageError, UserError

console = Console(soft_wrap=True)  # the terminal breaks lines: paths can be copied, and logs searched
errors = Console(stderr=True, soft_wrap=True)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Settings that override the file.")
]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Settings that differ from the defaults.")
]
RunSettings = Annotated[
    list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Settings that differ from the run's own.")
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
    """The effective configuration; a mistake in it ends the command.

    Args:
        path: a file; or a run's folder or the configuration in it, whose run is where its folder is now.
    """
    if path is not None and "=" in str(path) and not path.exists():
        fail(f"{path} is a setting: name the run's YAML file before it")
    try:
        run = run_of(path)
        loaded = load_config(path, overrides or []) if run is None else load_run(run, overrides)
    except ConfigError as error:
        fail(str(error))
    for renamed in loaded.renamed:
        errors.print(renamed, style="yellow", highlight=False, markup=False)
    return loaded


@contextlib.contextmanager
def told(loaded: LoadedConfig | None = None, file: Path | None = None) -> Iterator[None]:
    """Ends the command with one line for what a user did wrong, or for what is out of reach.

    Args:
        loaded: the settings, to say where the wrong one came from.
        file: the run's, to say what makes a file or folder that it names and that is not there.
    """
    try:
        yield
    except UserError as error:
        message = str(error)
        setting = message.partition(": ")[0]
        is_typed = loaded is not None and loaded.origin(setting) == "command line"
        if isinstance(error, MissingPathError) and file is not None and not is_typed:
            from vision_sr1.cli.makers import maker_of

            if command := maker_of(error.path, file):
                fail(f"{setting}: {error.path} does not exist yet: `{command}` makes it")
        fail(loaded.with_origin(message) if loaded is not None else message)
    except OutageError as error:
        fail(str(error), status=1)


def fail(message: str, status: int = 2) -> NoReturn:
    """Ends the command with a message."""
    errors.print(message, style="red", highlight=False, markup=False)
    raise typer.Exit(status)
