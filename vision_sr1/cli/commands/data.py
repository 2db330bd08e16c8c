"""`vision-sr1 data`: data sets made, looked at, mixed, split and converted."""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vision_sr1.cli.terminal import Seed, Settings, console, errors, fail, load, told
from vision_sr1.config import Config, SourceConfig, save_config

if TYPE_CHECKING:
    from vision_sr1.cli.dataset.check import Finding, Verdict
    from vision_sr1.data.questions import QuestionRow


data_app = typer.Typer(no_args_is_help=True, help="Make, check, show, mix, split and convert data sets.")

SHOWN = 10  # of the rows that something is said of, for each thing said
Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="File (parquet, arrow, json, jsonl, csv, tsv), folder, or hub name; append @SPLIT to choose a split.",
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Run file whose data.* and model.* settings are used.")
]
Output = Annotated[Path, typer.Argument(metavar="FILE", help="The parquet file to write.")]


@data_app.command("check")
def data_check(
    source: Source,
    overrides: Settings = None,
    config: ConfigFile = None,
    page: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML page with sample rows.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Number of rows on the page.")] = 40,
) -> None:
    """Read every row as training would; the exit status is 1 if rows cannot be used."""
    loaded = load(config, overrides)
    effective = loaded.config
    from vision_sr1.cli.dataset.check import check, open_rows
    from vision_sr1.cli.dataset.page import Samples
    from vision_sr1.data.lengths import PromptLengths
    from vision_sr1.models.check import check_place

    shown = Samples(samples)
    with told(loaded, config):
        if has_model := "model.path" in loaded.origins:
            check_place(effective.model.path)
        asks_further = effective.reward.requery.questions > 1
        rows = open_rows(source, effective.data, effective.reward, "any" if asks_further else "none")
    with told(loaded, config), _graders(effective) as verdict:
        lengths = PromptLengths(effective) if has_model else None
        report = check(rows, lengths, verdict, shown.see)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row(report.kind, f"{report.rows:,}, of which {report.usable:,} can be used")
    table.add_row("images a row", ", ".join(f"{n}: {rows:,}" for n, rows in sorted(report.images.items())))
    if report.further:
        some = sum(rows for count, rows in report.further.items() if count)
        table.add_row(
            "further questions",
            f"{some:,} of {report.usable:,} rows have some about their images, up to {max(report.further)}",
        )
    for name, found in (
        ("pixels", report.pixels),
        ("image kB", report.kilobytes),
        ("tokens", report.tokens),
    ):
        if found is not None:
            least, median, greatest = map(_shown, (found.least, found.median, found.greatest))
            table.add_row(name, f"{least} to {greatest}, median {median}")
    if lengths is None:
        table.add_row("tokens", "not counted: name the model as model.path=..., or a run's file as --config")
    for name, count in report.sources.most_common(SHOWN):
        table.add_row("from", f"{name}: {count:,}")
    console.print(table, highlight=False)
    for reason, messages in report.refused.items():
        _list(f"refused for their {'form' if reason == 'row' else reason}", messages)
    _list("duplicates", [f"row {index} asks what row {first} asks" for index, first in report.duplicates])
    _list("answers that no response can match under their grader", report.unmatched)
    _list(
        "answers that their grader cannot read, and compares as text (reward.grader, reward.graders)", report.unreadable
    )
    if page is not None:
        shown.write(page, source, report)
        console.print(f"wrote {page}", highlight=False)
    raise typer.Exit(int(report.usable < report.rows))


@data_app.command("convert")
def data_convert(source: Source, file: Output, overrides: Settings = None, config: ConfigFile = None) -> None:
    """Write a data set as one parquet file with its images, in the default columns."""
    effective = load(config, overrides).config
    from vision_sr1.cli.dataset.files import convert

    with told(), _refusals() as refused:
        count = convert(source, file, effective, refused)
    console.print(f"wrote {file}: {count:,} rows", highlight=False)


@data_app.command("mix")
def data_mix(
    file: Output,
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE[=WEIGHT]...", help="Data sets to mix; weight 2 takes each row twice."),
    ],
    seed: Seed = 0,
    config: ConfigFile = None,
) -> None:
    """Write several data sets as one, each with its weight, in an order given by the seed."""
    effective = load(config, None).config
    from vision_sr1.cli.dataset.files import mix

    with told(), _refusals() as refused:
        count = mix([_weighted(source) for source in sources], file, effective, seed, refused)
    console.print(f"wrote {file}: {count:,} rows", highlight=False)


@data_app.command("split")
def data_split(
    source: Source,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="For train.parquet and held_out.parquet.")],
    overrides: Settings = None,
    held_out: Annotated[
        float, typer.Option(min=0.0, help="Number of rows to hold out; below 1, their fraction.")
    ] = 0.05,
    seed: Seed = 0,
    config: ConfigFile = None,
) -> None:
    """Split off held-out rows for evaluation; no image is in both parts."""
    effective = load(config, overrides).config
    from vision_sr1.cli.dataset.files import split

    with told(), _refusals() as refused:
        counts = split(source, folder, effective, held_out, seed, refused)
    for name, count in counts.items():
        console.print(f"wrote {folder / name}.parquet: {count:,} rows", highlight=False)


def _add_task_command(task: str, what: str, example: str) -> None:
    """`vision-sr1 data TASK`."""

    @data_app.command(task, help=what)
    def write(
        folder: Annotated[Path, typer.Argument(help="Folder for the parquet files.")],
        seed: Seed = 0,
        train: Annotated[int, typer.Option(min=1, help="Rows of train.parquet.")] = 4096,
        base: Annotated[int, typer.Option(min=1, help="Rows of base.parquet.")] = 22_400,
        cold_start: Annotated[int, typer.Option(min=1, help="Rows of cold_start.parquet.")] = 7_680,
        held_out: Annotated[
            int, typer.Option(min=1, help="Rows of normal.parquet and of counter_prior.parquet.")
        ] = 256,
        kinds: Annotated[str | None, typer.Option(help=f"Kinds of questions and their shares: {example}.")] = None,
    ) -> None:
        from vision_sr1.cli.tasks.distributions import TASKS, file_names, parse_kinds, write_task

        for name in file_names(TASKS[task]):
            if (folder / name).exists():
                fail(f"{folder / name} is there already; remove it or choose another folder")
        try:
            mix = parse_kinds(TASKS[task], kinds) if kinds else None
        except ValueError as error:
            fail(str(error))
        with told():
            paths = write_task(
                TASKS[task],
                folder,
                seed=seed,
                base=base,
                cold_start=cold_start,
                train=train,
                held_out=held_out,
                kinds=mix,
            )
        for path in paths.values():
            console.print(f"wrote {path}")


_add_task_command(
    "shapes",
    "Makes coloured shapes in a grid, with a language prior (color, shape, position, count, comparison).",
    "color=6,shape=4,position=1",
)
_add_task_command(
    "digits", "Makes scans of handwritten digits in a grid (digit, parity, larger, count).", "digit=6,parity=3,larger=1"
)
_add_task_command(
    "easy_vqa",
    "Draws from the public data set easy-VQA, whose package it needs (color, shape, presence, absence).",
    "color=1,presence=3",
)


@contextmanager
def _refusals() -> Iterator[Callable[[Exception], None]]:
    """Says the first rows that are left out, and at the end how many were."""
    counts: Counter[str] = Counter()

    def refused(error: Exception) -> None:
        counts["rows"] += 1
        if counts["rows"] <= SHOWN:
            errors.print(f"left out: {error}", highlight=False, markup=False)

    yield refused
    if counts["rows"]:
        errors.print(f"{counts['rows']:,} rows were left out; `vision-sr1 data check` lists them", highlight=False)


@contextmanager
def _graders(config: Config) -> Iterator["Verdict"]:
    """The reward service's graders, asked about one reference answer after the other."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        save_config(config, file)
        command = [sys.executable, "-m", "reward_service.reference_check", str(file)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            asking, answering = process.stdin, process.stdout
            assert asking is not None
            assert answering is not None

            def verdict(row: "QuestionRow") -> "Finding | None":
                case = {"data_source": row.data_source, "question": row.question, "answer": row.answer}
                asking.write(json.dumps(case) + "\n")
                asking.flush()
                said: Finding | None = json.loads(answering.readline())
                return said

            yield verdict
            asking.close()


def _weighted(source: str) -> SourceConfig:
    from vision_sr1.data.sources import kind_of

    path, separator, weight = source.rpartition("=")
    if not separator or "/" in weight or kind_of(weight) or Path(source).expanduser().exists():
        return SourceConfig(path=source)
    try:
        return SourceConfig(path=path, weight=float(weight))
    except ValueError:
        fail(f"{source}: {weight!r} is not a weight; give a number above 0, such as {path}=2")


def _shown(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _list(title: str, lines: list[str]) -> None:
    if not lines:
        return
    console.print(f"\n{title}: {len(lines):,}", highlight=False, markup=False)
    for line in lines[:SHOWN]:
        console.print(f"  {line}", highlight=False, markup=False)
    if len(lines) > SHOWN:
        console.print(f"  and {len(lines) - SHOWN:,} more", highlight=False)
