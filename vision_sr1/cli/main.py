"""The command line: `vision-sr1`."""

import difflib
import logging
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.markup import escape

from vision_sr1 import __version__
from vision_sr1.cli.commands.config import config_app
from vision_sr1.cli.commands.data import data_app
from vision_sr1.cli.commands.runs import runs_app
from vision_sr1.cli.terminal import (
    Commands,
    ConfigPath,
    Overrides,
    RunSettings,
    Seed,
    Settings,
    console,
    errors,
    fail,
    load,
    told,
)
from vision_sr1.config import Config, LoadedConfig, override, place_of
from vision_sr1.families import TINY_FAMILY, known_families
from vision_sr1.run_folder.names import EXPORTS, SETTINGS

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Vision-SR1 as a service.",
)
model_app = typer.Typer(no_args_is_help=True, help="Make a tiny model.")
streams_app = typer.Typer(no_args_is_help=True, help="Inspect the streams of a running run.")
dead_app = typer.Typer(no_args_is_help=True, help="List, show, retry and drop entries that could not be handled.")
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")
app.add_typer(runs_app, name="runs")
app.add_typer(streams_app, name="streams")
streams_app.add_typer(dead_app, name="dead")

Resume = Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Move an earlier run to NAME.before-TIME and start anew.")]


def _known_family(name: str | None) -> str | None:
    if name is not None and name not in known_families():
        near = difflib.get_close_matches(name, known_families(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        fail(f"--family {name}: known are {', '.join(known_families())}{hint}")
    return name


Family = Annotated[
    str | None,
    typer.Option(
        help="Family of the tiny model, by its type, such as qwen3_vl.",
        callback=_known_family,
        show_default=TINY_FAMILY,
    ),
]
Letter = Annotated[str, typer.Argument(help="A name from `streams dead list`, or `all`.")]


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"vision-sr1 {__version__}")
        raise typer.Exit


@app.callback()
def quiet_libraries(
    version: Annotated[  # noqa: ARG001  (its callback prints it)
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Vision-SR1 as a service."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # our own display says how far a stage is
    # Making a model imports DeepSpeed here, which warns that there is no GPU; the learner's own log keeps its warnings.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)  # every retry: the end is told


@app.command()
def train(config: ConfigPath, overrides: Overrides = None, resume: Resume = False, fresh: Fresh = False) -> None:
    """Train by RL: start Redis (if none is configured), actors, reward service and learner, and supervise them."""
    loaded = load(config, [*(overrides or []), *_resuming(resume)])
    effective = loaded.config
    from vision_sr1.cli.launcher.ending import how_to_go_on, print_end
    from vision_sr1.cli.launcher.launch import run_training

    def work() -> None:
        run_training(effective, console, effective.run.name, fresh=fresh)
        print_end(effective, "rl", console)

    _guarded(work, lambda: how_to_go_on(effective, "train"), loaded, config)


@app.command()
def sft(config: ConfigPath, overrides: Overrides = None, resume: Resume = False, fresh: Fresh = False) -> None:
    """Fine-tune `model.path` on the conversations of `data.sft`."""
    loaded = load(config, [*(overrides or []), *_resuming(resume)])
    effective = loaded.config
    from vision_sr1.cli.launcher.ending import how_to_go_on, print_end
    from vision_sr1.cli.launcher.launch import run_sft

    def work() -> None:
        run_sft(effective, console, "sft", fresh=fresh)
        print_end(effective, "sft", console)

    _guarded(work, lambda: how_to_go_on(effective, "sft"), loaded, config)


@app.command()
def demo(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Settings of every stage.")
    ] = None,
    examples: Annotated[Path, typer.Option(help="Folder with the stages' YAML files.")] = Path("examples/shapes"),
    root: Annotated[Path, typer.Option(help="Folder for all output.")] = Path("runs/demo"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue where an earlier demo stopped.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Move an earlier demo to NAME.before-TIME and start anew.")
    ] = False,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Make missing data and models, and stop before RL.")
    ] = False,
    family: Family = None,
) -> None:
    """Run the whole method on a laptop: data, tiny model, cold start, RL, evaluation, in minutes and without a GPU."""
    from vision_sr1.cli.demo.demo import run_demo

    def work() -> None:
        run_demo(examples, root, overrides or [], console, family=family, resume=resume, fresh=fresh, prepare=prepare)

    options = ["--root", str(root), *(["--family", family] if family else []), *(["--prepare"] if prepare else [])]
    if examples != Path("examples/shapes"):
        options += ["--examples", str(examples)]
    again = shlex.join(["vision-sr1", "demo", *options, "--resume", *(overrides or [])])
    _guarded(work, lambda: f"stopped; `{again}` continues")


@model_app.command("tiny")
def model_tiny(
    folder: Annotated[Path, typer.Argument(help="Folder for the model.")],
    task: Annotated[
        str, typer.Option(help="shapes, digits or easy_vqa: the task whose words the tokenizer knows.")
    ] = "shapes",
    seed: Seed = 0,
    untied: Annotated[bool, typer.Option("--untied", help="Separate input and output embeddings, as in 7B.")] = False,
    family: Family = None,
) -> None:
    """Make a model of a million parameters with random weights."""
    from vision_sr1.cli.tasks.distributions import TASKS, corpus
    from vision_sr1.cli.tasks.tiny_model import make_tiny_model

    if task not in TASKS:
        fail(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    if (folder / "config.json").exists():
        fail(f"{folder} has a model already; remove it or choose another folder")
    with told():
        words, made = corpus(TASKS[task]), family or TINY_FAMILY
        make_tiny_model(folder, words, family=made, seed=seed, tie_word_embeddings=not untied)
    console.print(f"wrote {folder}")


@streams_app.command("status")
def streams_status(config: ConfigPath, overrides: Overrides = None) -> None:
    """Print the depth of every stream, the age of its oldest entry, and its consumers."""
    _on_streams(config, overrides, lambda commands, effective: commands.show_status(effective, console))


@dead_app.command("list")
def dead_list(config: ConfigPath, overrides: Overrides = None) -> None:
    """List the dead letters with their errors."""
    _on_streams(config, overrides, lambda commands, effective: commands.list_dead(effective, console))


@dead_app.command("show")
def dead_show(letter: Letter, config: ConfigPath, overrides: Overrides = None) -> None:
    """Print a dead letter with its error and its message."""
    _on_streams(config, overrides, lambda commands, effective: commands.show_dead(effective, letter, console))


@dead_app.command("retry")
def dead_retry(letter: Letter, config: ConfigPath, overrides: Overrides = None) -> None:
    """Put a dead letter back into its stream, after its cause was fixed."""
    _on_streams(config, overrides, lambda commands, effective: commands.retry_dead(effective, letter, console))


@dead_app.command("drop")
def dead_drop(letter: Letter, config: ConfigPath, overrides: Overrides = None) -> None:
    """Delete a dead letter."""
    _on_streams(config, overrides, lambda commands, effective: commands.drop_dead(effective, letter, console))


@app.command()
def traces(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, such as runs/NAME.")],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN | section.key=value]...", help="Further runs, and settings that override."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Export the traces to a .parquet or .jsonl file instead.")
    ] = None,
    images: Annotated[bool, typer.Option("--images", help="With --export: add the encoded images.")] = False,
) -> None:
    """Serve the reward traces of finished or stopped runs, read-only; of several, with their comparison."""
    from vision_sr1.cli.launcher.traces import export_traces, serve_traces
    from vision_sr1.cli.runs import load_run, settings_file

    overrides = [text for text in more or [] if "=" in text]
    beside = [Path(name) for name in more or [] if "=" not in name]
    if images and export is None:
        fail("--images belongs to --export FILE: add it, or leave --images out")
    if beside and export is not None:
        fail(f"--export writes the traces of one run: leave {beside[0]} out, and export it by itself")
    with told():
        for folder in beside:
            settings_file(folder)
        effective = load_run(run, overrides).config
        if export is None:
            serve_traces(run, overrides, effective, beside)
    raise typer.Exit(export_traces(run, overrides, export, console, images=images))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, such as runs/NAME.")],
    version: Annotated[str, typer.Option(help="A checkpoint's number, latest, or best.")] = "latest",
    output: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Default: RUN/export/VERSION.")] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="Only the LoRA adapter, in PEFT's format.")] = False,
    license_id: Annotated[
        str | None, typer.Option("--license", help="License of the model, by its name on the Hub, for the model card.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Upload the folder to this repository as well.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Create the pushed repository as public.")] = False,
) -> None:
    """Write a run's policy as a folder that transformers and vLLM load, with a model card and checksums."""
    from vision_sr1.cli.export import policy as exporting

    def work() -> None:
        checkpoint = exporting.find_checkpoint(run, version)
        if doubt := exporting.doubt_about(run, checkpoint):
            errors.print(doubt, style="yellow", highlight=False, markup=False)
        name = checkpoint.name
        folder = output or run / EXPORTS / f"{int(name)}{'-adapter' if adapter else ''}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        exporting.export(run, version, folder, adapter=adapter, license_id=license_id)
        console.print(f"wrote {folder}: version {int(name)}", highlight=False)
        if push is not None:
            console.print(f"uploaded: {exporting.push(folder, push, private=not public)}", highlight=False)

    with told():
        work()


@app.command()
def ask(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Exported folder, or another model folder in Hugging Face format.")
    ],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question about it.")],
    overrides: Settings = None,
    config: Annotated[Path | None, typer.Option(help="Run file; default: the one in the exported folder.")] = None,
) -> None:
    """Ask a model about an image: description, reasoning, answer, and the answer from the description alone."""
    from vision_sr1.models.check import check_place

    if (Path(model) / SETTINGS).is_file():
        fail(f"{model} is the folder of a run: `vision-sr1 export {model}` makes a model of it")
    if not image.is_file():
        fail(f"there is no file {image}")
    with told():
        check_place(model)
        from vision_sr1.cli.ask import Model, print_answer, settings_of

        effective = load(config or settings_of(model), [*(overrides or []), override("model.path", model)]).config
        print_answer(console, Model(effective).ask(question, [image.read_bytes()]))


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run's folder, or any model in Hugging Face format.")],
    overrides: RunSettings = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=SET]", help="paper, text, images, all, a benchmark, or your own data set."),
    ] = None,
    version: Annotated[str, typer.Option(help="Checkpoint of the run: a number, latest, or best.")] = "latest",
    rows: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of rows per data set, from its start.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Run file; default: the one of the run or the exported folder.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Default: RUN/evaluations/RUN-VERSION, or runs/evaluation-MODEL."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move earlier answers to NAME.before-TIME.")] = False,
) -> None:
    """Evaluate on benchmarks, through actors and reward service; continues an evaluation that was stopped."""
    from vision_sr1.cli.evaluation import evaluate as evaluation
    from vision_sr1.cli.evaluation.report import print_report
    from vision_sr1.cli.export.policy import doubt_about
    from vision_sr1.cli.runs import with_free_ports

    def work() -> None:
        path, number, folder, settings = evaluation.policy_of(model, version)
        place = output or folder
        if (Path(model) / SETTINGS).is_file() and (doubt := doubt_about(Path(model), Path(path).parent)):
            errors.print(doubt, style="yellow", highlight=False, markup=False)
        here = [override("model.path", path), *place_of(place), "streams.name=null", "learner.lora.rank=0"]
        limit = [f"evaluation.rows={rows}"] if rows else []
        loaded = load(config or settings, [*(overrides or []), *here, *limit])
        effective = (loaded if config else with_free_ports(loaded)).config
        effective.evaluation.benchmarks |= evaluation.chosen_benchmarks(suite or [])
        done = evaluation.evaluate(effective, model, number, console, fresh=fresh)
        print_report(console, done)
        for name in ("results.json", "results.md", "failures.html"):
            console.print(f"wrote {effective.run.path / name}", highlight=False)

    _guarded(work, lambda: "stopped; the same command continues with the questions that have no answer yet")


@app.command()
def answers(
    evaluation: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that `vision-sr1 eval` wrote.")],
    harness: Annotated[str, typer.Option("--for", metavar="HARNESS", help="lmms-eval or vlmevalkit.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Default: FOLDER/HARNESS. The files go to a folder in it.")
    ] = None,
) -> None:
    """Write an evaluation's answers as the sample files of lmms-eval or the prediction files of VLMEvalKit."""
    from vision_sr1.cli.evaluation.harness_files import write_harness_files

    with told():
        for file in write_harness_files(evaluation, harness, output or evaluation / harness):
            console.print(f"wrote {file}", highlight=False)


@app.command()
def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub name; only its configuration is read.")],
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs for learner and actors together.")],
    gpu: Annotated[str, typer.Option(help="GPU model, such as H100, A100, L40S; or its memory in GiB.")] = "H100",
    config: Annotated[Path | None, typer.Option(help="Run file whose lengths and batch sizes to plan for.")] = None,
    overrides: Settings = None,
) -> None:
    """Plan the resources of a model: memory by ZeRO stage, GPU split, bytes per publication, YAML."""
    effective = load(config, overrides).config
    from vision_sr1.models.check import check_place

    with told(file=config):
        check_place(model)
        from vision_sr1.cli.planning.estimates import chosen_gpu, model_size
        from vision_sr1.cli.planning.plan_table import print_plan

        kind = chosen_gpu(gpu)
        print_plan(console, model, model_size(model, effective.learner), effective, kind, gpus)


@app.command()
def doctor(
    target: Annotated[
        str, typer.Argument(metavar="CONFIG|MODEL", help="The run's YAML file, or a model's folder or hub name.")
    ],
    overrides: Settings = None,
) -> None:
    """Check this installation and the cluster as seen from here, or whether a model will train here.

    The exit status is 1 if a check fails.
    """
    run = Path(target) / SETTINGS
    if Path(target).name == "config.json":
        fail(f"{target} is a model's configuration: name its folder, {Path(target).parent}")
    if Path(target).suffix in (".yaml", ".yml") or Path(target).is_file() or run.is_file():
        effective = load(run if run.is_file() else Path(target), overrides).config
        from vision_sr1.cli.doctor import examine

        findings = examine(effective)
    else:
        effective = load(None, [override("model.path", target), *(overrides or [])]).config
        from vision_sr1.cli.model_doctor import examine_model

        findings = examine_model(effective)
    failed = False
    for finding in findings:
        color = {"ok": "green", "warning": "yellow", "failed": "red"}[finding.state]
        console.print(f"[{color}]{finding.state:8}[/] {finding.check:12}", escape(finding.said), highlight=False)
        if finding.cure:
            console.print(f"{'':21}", escape(finding.cure), highlight=False)
        failed |= finding.state == "failed"
    raise typer.Exit(int(failed))


@app.command()
def version() -> None:
    """Print the version."""
    console.print(__version__)


def _on_streams(path: Path, overrides: list[str] | None, work: Callable[[ModuleType, Config], None]) -> None:
    effective = load(path, overrides).config
    from vision_sr1.cli.commands import streams as commands
    from vision_sr1.pipeline.dead_letters import NoDeadLetterError

    try:
        with told():
            work(commands, effective)
    except NoDeadLetterError as error:
        fail(str(error), status=1)


def _resuming(resume: bool) -> list[str]:
    return ["learner.resume=true"] if resume else []


def _guarded(
    work: Callable[[], None],
    stopped: Callable[[], str],
    loaded: LoadedConfig | None = None,
    file: Path | None = None,
) -> None:
    """Runs what starts processes.

    Args:
        stopped: says how it goes on after Ctrl-C.
        loaded, file: as `told` takes them.
    """
    from vision_sr1.cli.launcher.launch import InterruptedRunError, StageFailedError
    from vision_sr1.streams.embedded import RedisStartError

    try:
        with told(loaded, file):
            work()
    except (StageFailedError, RedisStartError) as error:
        fail(str(error), status=1)
    except InterruptedRunError:
        errors.print(stopped(), highlight=False, markup=False)
        raise typer.Exit(130) from None
