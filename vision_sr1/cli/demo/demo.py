"""The demo's stages: data, tiny model, base, cold start, RL with two objectives by the same services, report."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from vision_sr1.cli.demo.summary import ANSWER_ONLY, VISION_SR1, write_report
from vision_sr1.cli.launcher.folder import RunFolder
from vision_sr1.cli.launcher.launch import run_sft, standing_services
from vision_sr1.cli.tasks.distributions import TASKS, corpus, write_task
from vision_sr1.cli.tasks.task import Task
from vision_sr1.cli.tasks.tiny_model import make_tiny_model
from vision_sr1.config import Config, ConfigError, load_config, override
from vision_sr1.families import TINY_FAMILY, family_of, family_of_model
from vision_sr1.run_folder.curves import has_scalar
from vision_sr1.run_folder.names import LOCK, SETTINGS
from vision_sr1.runtime.ports import host_and_port

SERVICES = "services"  # the folder of actors and reward service, which serve both objectives
TRAIN_ROWS, HELD_OUT_ROWS = 4_096, 256


def run_demo(
    examples: Path,
    root: Path,
    overrides: Sequence[str],
    console: Console,
    *,
    resume: bool,
    fresh: bool,
    prepare: bool = False,
    family: str | None = None,
) -> None:
    """Runs every stage and ends with the report.

    Args:
        examples: folder with base.yaml, cold_start.yaml and rl.yaml, see `example_path`; its name is the task's.
        root: where everything goes.
        overrides: `section.key=value`, applied to every stage.
        resume: keep finished stages and continue the RL run from its last checkpoint.
        fresh: move aside what the root folder holds of an earlier demo.
        prepare: make what is missing of the data and of the model that RL starts from, and stop before RL; for
            services that run elsewhere, as often as they are started.
        family: of the model, by its type; None: that of the demo that goes on, or `TINY_FAMILY`.

    Raises:
        ConfigError: no such task, the root folder holds a demo and neither flag says what to do, or it holds something
            else; or from the stages.
        StageFailedError, InterruptedRunError: from the stages.
    """
    if fresh and resume:
        raise ConfigError("--fresh and --resume exclude each other: leave one out")
    if prepare:
        resume = not fresh
    elif root.is_dir() and not is_demo(root) and any(path.name != LOCK for path in root.iterdir()):
        raise ConfigError(f"{root} holds files that do not belong to a demo: choose another --root")
    elif resume and not is_demo(root):
        raise ConfigError(f"{root} holds no demo to resume: leave --resume out to start one")
    with RunFolder(root, console) as folder:
        _run_stages(examples, folder, overrides, console, family, resume=resume, fresh=fresh, prepare=prepare)


def is_demo(root: Path) -> bool:
    """Whether a folder holds what an earlier demo made."""
    return (root / "models" / "tiny").is_dir()


def _run_stages(
    examples: Path,
    folder: RunFolder,
    overrides: Sequence[str],
    console: Console,
    family: str | None,
    *,
    resume: bool,
    fresh: bool,
    prepare: bool,
) -> None:
    root = folder.path
    started = time.monotonic()
    task = TASKS.get(examples.name)
    if task is None:
        raise ConfigError(f"no task {examples.name!r} (from {examples}); known: {', '.join(TASKS)}")
    if is_demo(root) and not (fresh or resume):
        raise ConfigError(f"{root} already holds a demo: --resume continues it, --fresh moves it aside and starts anew")

    tiny = root / "models" / "tiny"
    made = family_of(family or TINY_FAMILY)
    if (tiny / "config.json").is_file() and not fresh:
        made = family_of_model(str(tiny))
        if family not in (None, made.model_type):
            raise ConfigError(
                f"--family {family}: the demo in {root} has a model of {made.model_type}; leave --family out to "
                "continue it, or add --fresh"
            )
    splits = load_config(examples / "rl.yaml").config.data.evaluation

    data = root / "data"
    evaluation = {split: str(data / f"{split}.parquet") for split in splits}

    def made_for(file: str) -> str:
        """The supervised stage's file among those that are made."""
        return override("data.sft", data / Path(load_config(examples / f"{file}.yaml").config.data.sft[0].path).name)

    def stage(name: str, file: str, *more: str) -> Config:
        paths = [
            override("run.dir", root),
            override("run.name", name),
            override("streams.name", SERVICES),
            f"model.min_pixels={made.tiny_pixels}",
            f"model.max_pixels={made.tiny_pixels}",
            override("data.train", data / "train.parquet"),
            f"data.evaluation={json.dumps(evaluation, ensure_ascii=False)}",
        ]
        resuming = ["learner.resume=true"] if resume and (root / name / SETTINGS).is_file() else []
        return load_config(examples / f"{file}.yaml", [*paths, *resuming, *more, *overrides]).config

    base_model, cold_model = root / "models" / "base", root / "models" / "cold_start"
    base = stage(
        "base",
        "base",
        override("model.path", tiny),
        made_for("base"),
        override("learner.sft.output", base_model),
    )
    cold_start = stage(
        "cold_start",
        "cold_start",
        override("model.path", base_model),
        made_for("cold_start"),
        override("learner.sft.output", cold_model),
    )
    base_evaluation = stage("base_evaluation", "rl", override("model.path", base_model))
    base_evaluation.learner.batches = 0  # whatever the overrides say
    services = stage(SERVICES, "rl", override("model.path", cold_model), "learner.resume=false")
    answer_only = stage("answer_only", "rl", override("model.path", cold_model), "learner.preset=see_think")
    rl = stage("rl", "rl", override("model.path", cold_model))
    if is_demo(root) and fresh:
        folder.move_aside()
    if not (tiny / "config.json").is_file():
        console.print(f"making the {task.name} data and a tiny {made.title}", highlight=False)
        make_data_and_model(task, base, cold_start, data, tiny, family=made.model_type)
    if not base_model.is_dir():
        run_sft(base, console, "base model", fresh=False, must_resume=False)
    if not cold_model.is_dir():
        run_sft(cold_start, console, "cold start", fresh=False, must_resume=False)
    if prepare:
        return
    runs = {"evaluating the base": base_evaluation, ANSWER_ONLY: answer_only, VISION_SR1: rl}
    remaining = {phase: run for phase, run in runs.items() if not _is_finished(run)}
    if remaining:
        with standing_services(services, console) as train:
            for phase, run in remaining.items():
                train(run, phase)
    write_report(root, task, base_evaluation, {name: runs[name] for name in (ANSWER_ONLY, VISION_SR1)}, console)
    address = host_and_port(rl.reward.host, rl.reward.port)
    both = f"http://{address}/#/comparison?run={answer_only.run.name}&other={rl.run.name}"
    console.print(f"look at the reward traces: vision-sr1 traces {rl.run.path}", highlight=False)
    console.print(f"and at both policies on the same questions: {both}", highlight=False, soft_wrap=True)
    console.print(f"the demo took {(time.monotonic() - started) / 60:.1f} minutes", highlight=False)


def make_data_and_model(
    task: Task,
    base: Config,
    cold_start: Config,
    data: Path,
    model: Path,
    *,
    held_out: int = HELD_OUT_ROWS,
    kinds: Mapping[str, float] | None = None,
    family: str = TINY_FAMILY,
) -> None:
    """Writes a task's files, with as many rows as the two supervised stages use, and a tiny model in its words.

    Args:
        held_out: rows of each held-out split.
        kinds: relative frequencies of the kinds of questions; default: the task's own.
    """
    write_task(
        task,
        data,
        seed=base.run.seed,
        base=_rows(base),
        cold_start=_rows(cold_start),
        train=TRAIN_ROWS,
        held_out=held_out,
        kinds=kinds,
    )
    make_tiny_model(model, corpus(task), family=family, seed=base.run.seed)


def _is_finished(run: Config) -> bool:
    """Whether a run has made its last batch, and the evaluation after it."""
    last = f"eval_accuracy/{next(iter(run.data.evaluation))}"
    return has_scalar(run.run.path, run.learner.batches, last)


def _rows(config: Config) -> int:
    """As many rows as a supervised stage uses, each once."""
    sft = config.learner.sft
    return (sft.steps or 1) * sft.sequences_per_step
