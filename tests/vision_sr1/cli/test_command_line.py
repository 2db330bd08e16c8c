"""The command itself: help, version, what it imports, what it shows of settings and runs, its screen and its end."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from vision_sr1 import __version__
from vision_sr1.cli.export.policy import doubt_about, find_checkpoint
from vision_sr1.cli.launcher.ending import how_to_go_on, print_end
from vision_sr1.cli.launcher.folder import RunFolder
from vision_sr1.cli.launcher.launch import InterruptedRunError
from vision_sr1.cli.launcher.progress import ProgressView, ScalarTail
from vision_sr1.cli.main import app
from vision_sr1.cli.runs import load_run, settings_file, summary
from vision_sr1.cli.terminal import load
from vision_sr1.config import Config, ConfigError, load_config, save_config
from vision_sr1.config.descriptions import describe
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.names import SETTINGS
from vision_sr1.runtime.hub import bytes_of_download

EXAMPLE = Path(__file__).parents[3] / "examples" / "shapes" / "rl.yaml"
HEAVY = ("torch", "vllm", "transformers", "datasets", "deepspeed")


def said(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == status, done.output
    return done.output if status else done.stdout


def a_run(folder: Path, *scalars: dict[str, float], **settings: object) -> Path:
    """A run's folder as services leave it, with a checkpoint after each line of scalars."""
    folder.mkdir(parents=True)
    overrides = [f"run.dir={folder.parent}", f"run.name={folder.name}", *(f"{k}={v}" for k, v in settings.items())]
    save_config(load_config(None, overrides, environment={}).config, folder / "config.yaml")
    for line in scalars:
        jsonl.append(folder / "scalars.jsonl", {"time": time.time(), **line})
        checkpoint = folder / "checkpoints" / f"{line['step']:06d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trainer.json").write_text('{"files": {}}')
    return folder


WITHOUT_A_MODEL: list[tuple[list[str], int]] = [
    (["--version"], 0),
    (["-h"], 0),
    (["train", "-h"], 0),
    (["streams", "dead", "list", "-h"], 0),
    (["--show-completion", "--help"], 0),
    (["train", "--bogus"], 2),
    (["bogus"], 2),
    (["train", "nope.yaml"], 2),
    (["train", str(EXAMPLE), "learner.bathces=5"], 2),
    (["train", str(EXAMPLE), "run.dir=/no/where", "data.train=/nope.parquet"], 2),
    (["doctor", str(EXAMPLE), "learner.bathces=5"], 2),
    (["plan", "/nope", "--gpus", "8", "learner.bathces=5"], 2),
    (["plan", "/nope", "--gpus", "8"], 2),
    (["ask", "/nope", str(EXAMPLE), "what?"], 2),
    (["traces", "/nope"], 2),
    (["export", "/nope"], 2),
    (["data", "check", "/nope.parquet", "data.promt_key=a"], 2),
    (["config", "show", str(EXAMPLE)], 0),
    (["runs", "list", str(EXAMPLE.parent)], 0),
]


def test_what_needs_no_model_imports_no_library_of_models():
    program = f"""
import sys
from vision_sr1.cli.main import app
for arguments, _ in {WITHOUT_A_MODEL}:
    try:
        app(arguments)
    except SystemExit as end:
        print("##", arguments, end.code, [name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run(
        ["env", sys.executable, "-c", program],  # by env: not forked from a process that has imported everything
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(EXAMPLE.parents[2])},  # without the checks of shapes, which import torch
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("## ")]
    assert told == [f"## {arguments} {status} []" for arguments, status in WITHOUT_A_MODEL], done.stderr


def test_the_command_has_a_version_help_and_completion():
    assert said("--version") == f"vision-sr1 {__version__}\n"
    assert said("-h") == said("--help")
    assert "--install-completion" in said("-h")
    for command in ("train", "sft", "eval", "data", "runs", "config"):
        assert said(command, "-h") == said(command, "--help")


def test_help_of_settings_names_a_file_only_where_there_is_one():
    assert "override the file" in " ".join(said("train", "-h").split())
    for command in ("demo", "traces", "ask", "plan", "doctor", "eval"):
        assert "override the file" not in " ".join(said(command, "-h").split())


def test_shown_settings_can_be_used_as_a_file_again(tmp_path: Path):
    overrides = ["learner.batches=5", "run.name='2024'", "data.evaluation={a: b.parquet}", "streams.password=hunter2"]
    text = said("config", "show", str(EXAMPLE), *overrides, "--yaml")
    assert "hunter2" not in text
    (tmp_path / "again.yaml").write_text(text)
    again, first = (
        load_config(file, options, environment={}).config
        for file, options in ((tmp_path / "again.yaml", []), (EXAMPLE, overrides[:3]))
    )
    assert again == first
    assert json.loads(said("config", "show", str(EXAMPLE), *overrides, "--json")) == yaml.safe_load(text)


def test_shown_settings_are_never_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = [line.split() for line in said("config", "show", str(EXAMPLE)).splitlines()]
    values = {line[0]: line[1:] for line in lines}
    assert values["learner.components[0].reward.accuracy"][0] == "0.9"
    assert values["data.evaluation.counter_prior"] == ["runs/demo/data/counter_prior.parquet", str(EXAMPLE)]
    assert values["learner.sft.output"] == ["null", "default"]
    assert values["metrics.trackers"] == ["[]", "default"]
    assert "learner.batches" in said("config", "show", "learner.batches=7")  # without a file


def test_settings_are_described_with_default_and_origin():
    paragraphs = said("config", "show", str(EXAMPLE), "--describe").split("\n\n")
    (batches,) = [one for one in paragraphs if one.startswith("learner.batches: 24\n")]
    assert batches.splitlines()[1] == "    Number of batches to train; 0 only publishes and evaluates."
    assert batches.splitlines()[2] == f"    from {EXAMPLE}; default: 100"
    for key, _, _ in load_config(None, environment={}).rows():
        assert describe(key)[0], f"{key} has no description"
    assert describe("learner.components[0].weight") == ("Weight of the component in the loss (lambda).", "1.0")


@pytest.mark.parametrize("name", ["shapes/rl", "shapes/see_think", "gpus/vision_sr1_3b_1gpu"])
def test_a_file_is_begun_with_an_example(tmp_path: Path, name: str):
    said("config", "init", str(tmp_path / "mine.yaml"), "--example", name)
    example = EXAMPLE.parents[1] / f"{name}.yaml"
    assert load_config(tmp_path / "mine.yaml").config == load_config(example).config


def test_runs_are_listed_with_what_they_came_to(tmp_path: Path):
    a_run(
        tmp_path / "demo" / "rl",
        {"step": 1, "reward/accuracy": 0.25},
        {"step": 2, "eval_accuracy/normal": 0.75, "reward/accuracy": 0.5},
        **{"learner.batches": 2},
    )
    a_run(tmp_path / "half", {"step": 1, "reward/accuracy": 0.25}, **{"learner.batches": 4})
    a_run(tmp_path / "services", **{"streams.name": "services"})
    a_run(tmp_path / "new")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").write_text("learner: 5\n")
    done = CliRunner().invoke(app, ["runs", "list", str(tmp_path)])
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in done.stdout.splitlines()}
    rows = {run: re.sub(r"\d+ s ago", "now", row) for run, row in rows.items()}
    assert rows[f"{tmp_path}/demo/rl"] == "finished 2/2 normal 0.750 now 2"
    assert rows[f"{tmp_path}/half"] == "stopped 1/4 train 0.250 now 1"
    assert rows[f"{tmp_path}/new"].startswith("not started 0/")
    assert f"{tmp_path}/services" not in rows
    assert done.stderr.startswith(f"{tmp_path}/broken: learner: must be a section")
    shutil.rmtree(tmp_path / "broken")
    (half,) = [one for one in json.loads(said("runs", "list", str(tmp_path), "--json")) if one["steps"] == 1]
    assert (half["path"], half["accuracy"], half["checkpoint"]) == (f"{tmp_path}/half", {"train": 0.25}, 1)
    with RunFolder(tmp_path / "half", Console(quiet=True)):
        assert summary(tmp_path / "half").state == "running"


def test_a_run_without_a_number_of_batches_is_finished_once_it_has_made_what_it_was_for(tmp_path: Path):
    sft = a_run(tmp_path / "sft", {"step": 3, "sft/loss": 1.0}, **{"learner.sft.epochs": 2})
    assert (summary(sft).state, summary(sft).steps, summary(sft).total) == ("stopped", 3, 0)
    (sft / "sft").mkdir()
    assert summary(sft).state == "finished"
    base = a_run(tmp_path / "base", **{"learner.batches": 0})
    assert summary(base).state == "not started"
    jsonl.append(base / "scalars.jsonl", {"step": 0, "time": 0, "eval_accuracy/normal": 0.5})
    assert summary(base).state == "finished"


def test_evaluations_are_no_runs(tmp_path: Path):
    evaluation = a_run(tmp_path / "evaluation-model", {"step": 700, "reward/accuracy": 0.5})
    (evaluation / "asked.json").write_text("{}")
    assert said("runs", "list", str(tmp_path)) == f"no runs in {tmp_path}\n"


def test_a_damaged_line_hides_nothing_else(tmp_path: Path):
    run = a_run(tmp_path / "run", {"step": 1, "reward/accuracy": 0.25}, **{"learner.batches": 3})
    with (run / "scalars.jsonl").open("a") as file:
        file.write('{"step": 2, "ti{"step": 2}\n\0\0\n7\n')
    jsonl.append(run / "scalars.jsonl", {"step": 3, "time": 0, "reward/accuracy": 0.5})
    assert summary(run).accuracy == {"train": 0.5}
    listed = said("runs", "list", str(tmp_path))
    assert re.search(rf"^{run} +finished +3/3", listed, re.MULTILINE), listed


def test_runs_are_compared(tmp_path: Path):
    a_run(tmp_path / "a", {"step": 2, "eval_accuracy/normal": 0.5, "loss": 1.0}, **{"learner.batches": 2})
    a_run(tmp_path / "b", {"step": 4, "eval_accuracy/normal": 0.75}, **{"learner.batches": 4, "run.seed": 5})
    rows = [line.split() for line in said("runs", "compare", str(tmp_path / "a"), str(tmp_path / "b")).splitlines()]
    assert ["eval_accuracy/normal", "0.5", "0.75"] in rows
    assert ["learner.batches", "2", "4"] in rows
    assert ["run.seed", "0", "5"] in rows
    assert not any("loss" in row or "run.name" in row for row in rows)


def test_a_renamed_run_opens_where_it_is_now(tmp_path: Path):
    a_run(tmp_path / "old", {"step": 1}, **{"reward.port": 8088})
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "old").rename(tmp_path / "elsewhere" / "new")
    config = load_run(moved).config
    assert config.run.path == moved
    assert config.services_path == moved
    assert "port" not in config.reward.model_fields_set, "the launcher chose it"
    assert "port" in load_run(moved, ["reward.port=8088"]).config.reward.model_fields_set
    assert settings_file(moved) == moved / "config.yaml"
    with pytest.raises(ConfigError, match=f"is a file: name the run's folder, such as {moved}$"):
        settings_file(moved / "config.yaml")


def test_a_copied_run_is_itself_by_its_folder_and_by_the_configuration_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original = a_run(tmp_path / "original", {"step": 1})
    copy = shutil.copytree(original, tmp_path / "copy")
    text = (copy / SETTINGS).read_text()
    (copy / SETTINGS).write_text(text.replace("resume: false", "resume: true"))
    for path in (copy, copy / SETTINGS):
        config = load(path, ["learner.batches=9"]).config
        assert (config.run.path, config.learner.batches, config.learner.resume) == (copy, 9, False)
        assert "port" not in config.reward.model_fields_set
    monkeypatch.chdir(copy)
    assert load_run(Path()).config.run.path == copy
    own = tmp_path / "own" / SETTINGS  # a user's file of that name
    own.parent.mkdir()
    own.write_text("run: {name: mine}\n")
    assert load(own, None).config.run.name == "mine"


def test_a_folder_that_cannot_be_the_name_of_a_run_is_said(tmp_path: Path):
    run = a_run(tmp_path / "old", {"step": 1}).rename(tmp_path / "rl (copy)")
    assert "'rl (copy)' cannot be the name of a run" in said("export", str(run), status=2)


def test_a_checkpoint_of_a_run_that_diverged_is_doubted(tmp_path: Path):
    run = a_run(tmp_path / "run")
    for number, state in ((0, {"healthy": True}), (3, {"healthy": False})):
        folder = run / "checkpoints" / f"{number:06}"
        folder.mkdir(parents=True)
        (folder / "trainer.json").write_text(json.dumps(state | {"files": {}}))
    assert doubt_about(run, find_checkpoint(run, "0")) is None
    assert doubt_about(run, find_checkpoint(run, "latest")) == (
        "checkpoint 3 was written while the run diverged (learner.stop_when); --version 0 is the newest before that"
    )
    with pytest.raises(ConfigError, match=r"no version '²'; there are: 0, 3, latest$"):
        find_checkpoint(run, "²")


def screen(tmp_path: Path, status: str, *scalars: dict[str, float]) -> list[str]:
    """What a terminal of 80 columns shows."""
    console = Console(width=80, force_terminal=True, color_system=None, record=True, file=io.StringIO())
    view = ProgressView(console, "Vision-SR1", ScalarTail(tmp_path / "scalars.jsonl"), 1000)
    for line in scalars:
        jsonl.append(tmp_path / "scalars.jsonl", line)
    view.tail.read()
    console.print(view._screen({"prompts": 12_345, "rollouts": 98_765, "scored": 4_321}, status))
    return console.export_text().splitlines()


def test_a_run_that_goes_on_begins_where_it_was(tmp_path: Path):
    jsonl.append(tmp_path / "scalars.jsonl", {"step": 40, "time": 0.0})
    assert screen(tmp_path, "")[0].startswith("Vision-SR1 · batch 40 of 1000")


def test_a_demo_that_was_stopped_goes_on_with_its_own_settings(monkeypatch: pytest.MonkeyPatch):
    def stopped(*_: object, **__: object) -> None:
        raise InterruptedRunError("stopped by the user")

    monkeypatch.setattr("vision_sr1.cli.demo.demo.run_demo", stopped)
    options = ["--root", "my demo", "--examples", "examples/easy_vqa", "--family", "smolvlm", "run.seed=1"]
    said = " ".join(CliRunner().invoke(app, ["demo", *options]).output.split())
    again = "--root 'my demo' --family smolvlm --examples examples/easy_vqa --resume run.seed=1"
    assert said == f"stopped; `vision-sr1 demo {again}` continues"


def test_the_screen_fits_80_columns_and_tells_totals_from_queues(tmp_path: Path):
    names = ("sft/loss", "reward/accuracy", "reward/visual", "reward/format", "reward/shortcut")
    rewards = dict.fromkeys(names, 0.000123)
    lines = screen(
        tmp_path,
        f"waiting for actors to load the model: 0 of 8 did (logs: {'/a' * 60}/logs)",
        {"step": 122.0, "time": 0.0},
        {"step": 123.0, "time": 70.0, **rewards, "rollouts_per_second/mean": 1234.0, "policy/version": 123456.0},
    )
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "…" not in text
    assert "Vision-SR1 · batch 123 of 1000 · ETA 17:03:10" in text
    assert "in queues: 12345 prompts, 98765 rollouts, 4321 scored" in text
    assert "policy version 123456" in text
    assert text.endswith("/logs)")


def test_the_end_of_a_run_names_folder_checkpoint_and_next_commands(tmp_path: Path):
    run = a_run(tmp_path / "rl", {"step": 3})
    config = load_run(run).config
    console = Console(record=True, width=300)
    print_end(config, "rl", console)
    text = console.export_text()
    for part in (f"{run}/checkpoints/000003", f"vision-sr1 traces {run}", f"eval {run}", f"export {run}"):
        assert part in text
    print_end(config, "sft", console)
    assert f"vision-sr1 train RUN.yaml model.path={run}/sft" in console.export_text()


def test_after_ctrl_c_only_what_can_be_resumed_is_offered(tmp_path: Path):
    run = a_run(tmp_path / "rl", {"step": 3})
    config: Config = load_run(run).config
    assert how_to_go_on(config, "sft") == (
        f"stopped; `vision-sr1 sft {run} --resume` continues from {run}/checkpoints/000003"
    )
    shutil.rmtree(run / "checkpoints")
    assert how_to_go_on(config, "sft").startswith("stopped before the first checkpoint; --fresh ")
    (run / "scalars.jsonl").unlink()
    assert how_to_go_on(config, "sft") == "stopped before the first step; the same command starts anew"


def test_a_run_without_a_checkpoint_is_not_resumed(tmp_path: Path):
    run = a_run(tmp_path / "rl")
    text = said("train", str(run / "config.yaml"), "--resume", status=2)
    assert text == f"nothing to resume in {run}: it has no checkpoint; --fresh moves it aside and starts anew\n"


def test_a_run_that_is_there_is_resumed_only_where_it_can_be(tmp_path: Path):
    run = a_run(tmp_path / "rl", {"step": 3})
    text = said("train", str(run / "config.yaml"), status=2)
    assert text.startswith(f"{run} already holds a run: --resume continues it from its last checkpoint, --fresh moves")
    shutil.rmtree(run / "checkpoints")
    text = said("train", str(run / "config.yaml"), status=2)
    assert text.startswith(f"{run} already holds a run, without a checkpoint: --fresh moves it aside and starts anew")


def test_a_download_is_told_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "whole").write_bytes(b"12")
    assert bytes_of_download("org/name") is None
    (blobs / "part.incomplete").write_bytes(b"345")
    assert bytes_of_download("org/name") == 5
    assert bytes_of_download(str(tmp_path)) is None
