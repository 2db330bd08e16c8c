"""`vision-sr1 runs`: the runs of a folder, listed and compared."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from vision_sr1.cli.terminal import fail, told
from vision_sr1.config import ConfigError

runs_app = typer.Typer(no_args_is_help=True, help="List and compare runs.")

COMPARED = ("eval_", "reward/")  # families of scalars
OF_EVERY_RUN = ("run.name", "run.dir")  # settings in which all runs differ


@runs_app.command("list")
def runs_list(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Folder of runs, or of folders of runs.")] = Path(
        "runs"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List the runs of a folder: state, batches, latest accuracy, age of the last batch."""
    from vision_sr1.cli.runs import run_folders, summary

    if not folder.is_dir():
        fail(f"there is no folder {folder}")
    found, broken = [], []
    for run in run_folders(folder):
        try:
            found.append(summary(run))
        except (ConfigError, OSError) as error:
            broken.append(f"{run}: {error}")
    if as_json:
        rows = [dataclasses.asdict(one) | {"path": str(one.path)} for one in found]
        typer.echo(json.dumps(rows, indent=2))
    elif found:
        table = [
            (
                str(one.path),
                one.state,
                f"{one.steps}/{one.total}" if one.total else str(one.steps),
                ", ".join(f"{name} {value:.3f}" for name, value in one.accuracy.items()) or "-",
                "-" if one.age_s is None else _age(one.age_s),
                "-" if one.checkpoint is None else str(one.checkpoint),
            )
            for one in found
        ]
        typer.echo(_aligned([("run", "state", "batches", "accuracy", "last batch", "checkpoint"), *table]))
    elif not broken:
        typer.echo(f"no runs in {folder}")
    for line in broken:
        typer.echo(line, err=True)


@runs_app.command("compare")
def runs_compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of runs, such as runs/NAME.")],
) -> None:
    """Print the latest evaluation and rewards of runs side by side, and the settings in which they differ."""
    from vision_sr1.cli.runs import latest_scalars, load_run

    if len(runs) < 2:
        fail("runs compare takes two runs or more")
    with told():
        settings = [{key: value for key, value, _ in load_run(run).rows()} for run in runs]
    latest = [latest_scalars(run) for run in runs]
    names = sorted({name for scalars in latest for name in scalars if name.startswith(COMPARED)})
    heading = ("", *map(str, runs))
    values = [(name, *(f"{one[name]:.4g}" if name in one else "-" for one in latest)) for name in names]
    typer.echo(_aligned([heading, ("step", *(f"{one.get('step', 0):.0f}" for one in latest)), *values]))
    keys = [key for key in dict.fromkeys(key for one in settings for key in one) if key not in OF_EVERY_RUN]
    differing = [key for key in keys if len({one.get(key, "-") for one in settings}) > 1]
    if differing:
        rows = [(key, *(one.get(key, "-") for one in settings)) for key in differing]
        typer.echo("\n" + _aligned([("setting", *map(str, runs)), *rows]))


def _aligned(rows: list[tuple[str, ...]]) -> str:
    """Columns of text, none of them cut off."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
