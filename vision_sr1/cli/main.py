"""The command line: `vision-sr1`."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vision_sr1 import __version__
from vision_sr1.cli.commands.data import data_app
from vision_sr1.cli.terminal import Commands, ConfigPath, Overrides, Seed, console, errors, fail, load
from vision_sr1.config import Config, ConfigError, override
from vision_sr1.run_folder.names import EXPORTS, SETTINGS

app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, help="Vision-SR1 as a service.")
config_app = typer.Typer(no_args_is_help=True, help="The effective configuration.")
model_app = typer.Typer(no_args_is_help=True, help="Models that the project makes itself.")
streams_app = typer.Typer(no_args_is_help=True, help="The streams of a run that goes on.")
dead_app = typer.Typer(no_args_is_help=True, help="Entries that could not be handled.")
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")
app.add_typer(streams_app, name="streams")
streams_app.add_typer(dead_app, name="dead")

Resume = Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Move an earlier run to NAME.before-TIME and start anew.")]
Letter = Annotated[str, typer.Argument(help="A name from `streams dead list`, or `all`.")]


@app.callback()
def quiet_libraries() -> None:
    """Vision-SR1 as a service."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # our own display says how far a stage is
    # Making a model imports DeepSpeed here, which warns that there is no GPU; the learner's own log keeps its warnings.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


@app.command()
def train(config: ConfigPath, overrides: Overrides = None, resume: Resume = False, fresh: Fresh = False) -> None:
    """Trains by RL: starts Redis (if none is configured), actors, reward service and learner, and watches them."""
    from vision_sr1.cli.launcher.launch import run_training

    effective = load(config, [*(overrides or []), *_resuming(resume)]).config
    _guarded(lambda: run_training(effective, console, effective.run.name, fresh=fresh))


@app.command()
def sft(config: ConfigPath, overrides: Overrides = None, resume: Resume = False, fresh: Fresh = False) -> None:
    """Fine-tunes `model.path` on the conversations of `data.sft`."""
    from vision_sr1.cli.launcher.launch import run_sft

    effective = load(config, [*(overrides or []), *_resuming(resume)]).config
    _guarded(lambda: run_sft(effective, console, "sft", fresh=fresh))


@app.command()
def demo(
    overrides: Overrides = None,
    examples: Annotated[Path, typer.Option(help="Folder with the stages' YAML files.")] = Path("examples/shapes"),
    root: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue where an earlier demo stopped.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Move an earlier demo to NAME.before-TIME and start anew.")
    ] = False,
    prepare: Annotated[bool, typer.Option("--prepare", help="Stop before RL, which services elsewhere run.")] = False,
) -> None:
    """The whole method on a laptop: data, tiny model, cold start, RL, evaluation, in minutes and without a GPU."""
    from vision_sr1.cli.demo.demo import run_demo

    _guarded(lambda: run_demo(examples, root, overrides or [], console, resume=resume, fresh=fresh, prepare=prepare))


@config_app.command("show")
def config_show(config: Annotated[Path | None, typer.Argument()] = None, overrides: Overrides = None) -> None:
    """Prints every value and where it came from: default, preset, file, environment or command line."""
    table = Table("key", "value", "origin", box=None, pad_edge=False)
    for key, value, origin in load(config, overrides).rows():
        table.add_row(key, value, origin)
    console.print(table)


@model_app.command("tiny")
def model_tiny(
    folder: Annotated[Path, typer.Argument(help="Where the model goes.")],
    task: Annotated[str, typer.Option(help="shapes or digits: whose words the tokenizer knows.")] = "shapes",
    seed: Seed = 0,
    untied: Annotated[bool, typer.Option("--untied", help="Separate input and output embeddings, as in 7B.")] = False,
) -> None:
    """A Qwen2.5-VL of a million parameters with random weights."""
    from vision_sr1.cli.tasks.distributions import TASKS, corpus
    from vision_sr1.cli.tasks.tiny_model import make_tiny_model

    if task not in TASKS:
        fail(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    make_tiny_model(folder, corpus(TASKS[task]), seed=seed, tie_word_embeddings=not untied)
    console.print(f"wrote {folder}")


@streams_app.command("status")
def streams_status(config: ConfigPath, overrides: Overrides = None) -> None:
    """Every stream's entries, the age of the oldest, and who holds how many."""
    _on_streams(config, overrides, lambda commands, effective: commands.show_status(effective, console))


@dead_app.command("list")
def dead_list(config: ConfigPath, overrides: Overrides = None) -> None:
    """Every entry that was set aside, and why."""
    _on_streams(config, overrides, lambda commands, effective: commands.list_dead(effective, console))


@dead_app.command("show")
def dead_show(letter: Letter, config: ConfigPath, overrides: Overrides = None) -> None:
    """One entry with its error and its whole message."""
    _on_streams(config, overrides, lambda commands, effective: commands.show_dead(effective, letter, console))


@dead_app.command("retry")
def dead_retry(letter: Letter, config: ConfigPath, overrides: Overrides = None) -> None:
    """Puts an entry back into its stream, after its cause was mended."""
    _on_streams(config, overrides, lambda commands, effective: commands.retry_dead(effective, letter, console))


@dead_app.command("drop")
def dead_drop(letter: Letter, config: ConfigPath, overrides: Overrides = None) -> None:
    """Forgets an entry."""
    _on_streams(config, overrides, lambda commands, effective: commands.drop_dead(effective, letter, console))


@app.command()
def traces(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, such as runs/NAME.")],
    overrides: Overrides = None,
    export: Annotated[Path | None, typer.Option(metavar="FILE", help="Write them to a parquet file instead.")] = None,
) -> None:
    """Serves what the rewards of a finished or stopped run saw, read-only, with nothing else running."""
    from vision_sr1.cli.export.policy import place_of
    from vision_sr1.cli.launcher.traces import export_traces, serve_traces

    if not (run / SETTINGS).is_file():
        fail(f"{run} is no folder of a run: it has no config.yaml")
    place = [*place_of(run), *(overrides or [])]
    effective = load(run / SETTINGS, place).config
    if export is not None:
        raise typer.Exit(export_traces(run / SETTINGS, place, export, console))
    serve_traces(run / SETTINGS, place, effective, console)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, such as runs/NAME.")],
    version: Annotated[str, typer.Option(help="A checkpoint's number, latest, or best.")] = "latest",
    output: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Default: RUN/export/VERSION.")] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="Only the LoRA adapter, in PEFT's format.")] = False,
    license_id: Annotated[str | None, typer.Option("--license", help="For the card, as the Hub names it.")] = None,
    push: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="Upload it to this repository too.")] = None,
    public: Annotated[
        bool, typer.Option("--public", help="A repository that --push makes is one that all see.")
    ] = False,
) -> None:
    """Writes a run's policy as a folder that transformers and vLLM load, with a model card and checksums."""
    from vision_sr1.cli.export import policy as exporting

    def work() -> None:
        name = exporting.find_checkpoint(run, version).name
        folder = output or run / EXPORTS / f"{int(name)}{'-adapter' if adapter else ''}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        exporting.export(run, version, folder, adapter=adapter, license_id=license_id)
        console.print(f"wrote {folder}: version {int(name)}", highlight=False)
        if push is not None:
            console.print(f"uploaded: {exporting.push(folder, push, private=not public)}", highlight=False)

    _guarded(work)


@app.command()
def ask(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Exported folder, or any in Hugging Face format.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", exists=True, dir_okay=False, help="An image file.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    overrides: Overrides = None,
    config: Annotated[Path | None, typer.Option(help="A run's file; default: what the export brings.")] = None,
) -> None:
    """Asks a model about an image: description, think, answer, and whether the description alone leads to the same."""
    from vision_sr1.cli.ask import Model, print_answer, settings_of

    def work() -> None:
        effective = load(config or settings_of(model), [*(overrides or []), override("model.path", model)]).config
        print_answer(console, Model(effective).ask(question, [image.read_bytes()]))

    _guarded(work)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run's folder, or any model in Hugging Face format.")],
    overrides: Overrides = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=SET]", help="paper, text, images, all, a benchmark, or a set of your own."),
    ] = None,
    version: Annotated[str, typer.Option(help="Of a run: a checkpoint's number, latest, or best.")] = "latest",
    rows: Annotated[int | None, typer.Option(min=1, help="Of each set at most, the first.")] = None,
    config: Annotated[Path | None, typer.Option(help="A run's file; default: what the run or the export has.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Default: RUN/evaluations/RUN-VERSION, or runs/evaluation-MODEL."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move earlier answers to NAME.before-TIME.")] = False,
) -> None:
    """Evaluates on benchmarks, through actors and reward service; an evaluation that was stopped goes on."""
    from vision_sr1.cli.evaluation import evaluate as evaluation
    from vision_sr1.cli.evaluation.report import print_report
    from vision_sr1.cli.export.policy import place_of

    def work() -> None:
        path, number, folder, settings = evaluation.policy_of(model, version)
        place = output or folder
        here = [override("model.path", path), *place_of(place), "learner.lora.rank=0"]
        limit = [f"evaluation.rows={rows}"] if rows else []
        effective = load(config or settings, [*(overrides or []), *here, *limit]).config
        effective.evaluation.benchmarks |= evaluation.chosen_benchmarks(suite or [])
        done = evaluation.evaluate(effective, model, number, console, fresh=fresh)
        print_report(console, done)
        for name in ("results.json", "results.md", "failures.html"):
            console.print(f"wrote {effective.run.path / name}", highlight=False)

    _guarded(work)


@app.command()
def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub name; only its configuration is read.")],
    gpus: Annotated[int, typer.Option(min=1, help="How many there are, for learner and actors together.")],
    gpu: Annotated[str, typer.Option(help="Their kind, such as H100, A100, L40S; or their memory in GiB.")] = "H100",
    config: Annotated[Path | None, typer.Option(help="A run's file whose lengths and batches to plan for.")] = None,
    overrides: Overrides = None,
) -> None:
    """Says what a model needs: memory by ZeRO stage and offload, a split of the GPUs, bytes per publication, YAML."""
    from vision_sr1.cli.planning.estimates import chosen_gpu, model_size
    from vision_sr1.cli.planning.plan_table import print_plan

    def work() -> None:
        effective = load(config, overrides).config
        size = model_size(model, effective.learner)
        print_plan(console, model, size, effective, chosen_gpu(gpu), gpus)

    _guarded(work)


@app.command()
def doctor(config: ConfigPath, overrides: Overrides = None) -> None:
    """Checks this installation, and the cluster as it is seen from here; the exit status is 1 where something fails."""
    from vision_sr1.cli.doctor import examine

    failed = False
    for finding in examine(load(config, overrides).config):
        color = {"ok": "green", "warning": "yellow", "failed": "red"}[finding.state]
        console.print(f"[{color}]{finding.state:8}[/] {finding.check:12}", escape(finding.said), highlight=False)
        if finding.cure:
            console.print(f"{'':21}", escape(finding.cure), highlight=False)
        failed |= finding.state == "failed"
    raise typer.Exit(int(failed))


@app.command()
def version() -> None:
    """Prints the version."""
    console.print(__version__)


def _on_streams(path: Path, overrides: list[str] | None, work: Callable[[ModuleType, Config], None]) -> None:
    from vision_sr1.cli.commands import streams as commands
    from vision_sr1.pipeline.dead_letters import NoDeadLetterError
    from vision_sr1.streams import StreamsUnavailableError

    try:
        work(commands, load(path, overrides).config)
    except ConfigError as error:
        fail(str(error))
    except (StreamsUnavailableError, NoDeadLetterError) as error:
        fail(str(error), status=1)


def _resuming(resume: bool) -> list[str]:
    return ["learner.resume=true"] if resume else []


def _guarded(work: Callable[[], None]) -> None:
    from vision_sr1.cli.launcher.launch import InterruptedRunError, StageFailedError
    from vision_sr1.errors import UserError
    from vision_sr1.streams import StreamsUnavailableError
    from vision_sr1.streams.embedded import RedisStartError

    try:
        work()
    except UserError as error:
        fail(str(error))
    except (StageFailedError, RedisStartError, StreamsUnavailableError) as error:
        fail(str(error), status=1)
    except InterruptedRunError:
        errors.print("stopped; --resume continues from the last checkpoint, eval from its last answer")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
