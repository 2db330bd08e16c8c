"""RL end to end: all services as processes, started, disturbed, stopped and resumed as a user would."""

import contextlib
import json
import math
import random
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import datasets
import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoTokenizer
from typer.testing import CliRunner

from learner.metrics.reference import undeclared
from tests.system.conftest import (
    PROMPTS,
    STEPS,
    THREE_BATCHES,
    Run,
    fine_tuning,
    prompts_by_version,
    traces,
    training,
)
from vision_sr1.cli.main import app
from vision_sr1.cli.tasks.distributions import TASKS, corpus, write_task
from vision_sr1.families import family_of
from vision_sr1.prompting.prompt_template import PromptTemplate
from vision_sr1.prompting.response import parse_response
from vision_sr1.run_folder.ledger import read_ledger
from vision_sr1.runtime.ports import free_port
from vision_sr1.runtime.tracing import trace_id
from vision_sr1.v1 import pipeline_pb2 as pb

ADAPTER = (
    "tests/system/test_training.py::"
    "test_digits_train_from_their_parquet_file_with_another_configuration_and_nothing_else"
)


def wait_for_optimizer_steps(port: int, count: int, timeout_s: float = 180) -> None:
    """Returns when the learner whose metrics are there has taken so many since it started."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            found = re.search(r"^vision_sr1_learner_optimizer_steps_total (\S+)", metrics, re.MULTILINE)
            if found and float(found[1]) >= count:
                return
        time.sleep(0.02)
    pytest.fail(f"the learner has not taken {count} optimizer steps in {timeout_s} s")


def test_every_batch_is_learned_published_and_logged(trained: Run):
    batches = [line for line in trained.scalars() if "seconds/batch" in line]
    assert [line["step"] for line in batches] == [1, 2, 3]
    assert [line["policy/version"] for line in batches] == [1.0, 2.0, 3.0]
    for line in batches:
        assert all(math.isfinite(value) for value in line.values())
        assert line["same_weights/share"] == 1.0
        assert line["staleness/mean"] == 0.0
        assert abs(line["mismatch_kl/engine_trainer"]) < 1e-6
        assert {"entropy/answer", "approx_kl/answer", "pass_at/4", "optimizer/learning_rate"} <= line.keys()
        assert line["optimizer/skipped_steps"] == 0.0
    assert undeclared({name for line in trained.scalars() for name in line} - {"step", "time"}) == []
    assert [line["step"] for line in trained.scalars() if "eval_accuracy/normal" in line] == [0, 3]


def test_an_evaluation_is_of_one_version_and_holds_up_no_prompts(trained: Run):
    rollouts = [s.rollout for s in traces(trained)]
    evaluated = [rollout for rollout in rollouts if rollout.prompt.purpose == pb.PURPOSE_EVALUATION]
    assert {rollout.prompt.policy_version for rollout in evaluated} == {0, 3}
    for rollout in evaluated:
        assert {span.policy_version for span in rollout.sample.versions} == {rollout.prompt.policy_version}
    issued = min(rollout.prompt.issued_at for rollout in rollouts if rollout.prompt.purpose == pb.PURPOSE_TRAIN)
    found = [line for line in trained.scalars() if line["step"] == 0 and "eval_accuracy/normal" in line]
    assert [issued < line["time"] for line in found] == [True], "training prompts waited for the evaluation"


def _sampled(run: Run) -> dict[str, list[int]]:
    """What was answered to training prompts, by rollout."""
    return {
        s.rollout.id: list(s.rollout.sample.response_token_ids)
        for s in traces(run)
        if s.rollout.prompt.purpose == pb.PURPOSE_TRAIN
    }


def ranks(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The learner's processes, without torchrun."""
    return [
        child
        for child in psutil.Process(launcher.pid).children(recursive=True)
        if "learner" in (line := child.cmdline()) and "torch.distributed.run" not in line
    ]


def test_a_learner_that_is_killed_and_stopped_at_arbitrary_points_ends_with_the_same_weights(
    trained: Run, tmp_path: Path, cold_start_model: Path, shapes: dict[str, Path], leftovers: list[psutil.Process]
):
    """Killed without warning, then told to stop in the midst of a batch."""
    port = free_port()
    run = training(tmp_path, cold_start_model, shapes, *THREE_BATCHES, f"metrics.learner_port={port}")
    process = run.start()
    leftovers.append(psutil.Process(process.pid))
    run.wait_for_step(1)
    time.sleep(random.Random(5).uniform(0.0, 1.5))
    killed = ranks(process)
    for child in psutil.Process(process.pid).children():
        if "learner" in child.cmdline():
            child.kill()  # torchrun alone: the kernel takes its ranks
    psutil.wait_procs(killed, timeout=30)
    steps_taken: list[int] = []
    while len(steps_taken) < 2 and not any(steps_taken):
        wait_for_optimizer_steps(port, 1)
        stopped = ranks(process)
        stopped[0].terminate()
        psutil.wait_procs(stopped, timeout=60)
        latest = max((run.folder / "runs" / "run" / "checkpoints").glob("[0-9]*"))
        unfinished = json.loads((latest / "trainer.json").read_text())["unfinished"]
        steps_taken.append(unfinished["steps"] if unfinished else 0)
    assert 0 < steps_taken[-1] < STEPS, "never stopped in the midst of a batch"
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output + run.logs()
    assert output.count("learner ended with status -9; restarting it") == 1, output
    assert output.count("learner ended with status 143; restarting it") == len(steps_taken), output
    checkpoint = Path("runs/run/checkpoints/000003/policy/model.safetensors")
    undisturbed, weights = (load_file(r.folder / checkpoint) for r in (trained, run))
    assert all(torch.equal(weights[name], value) for name, value in undisturbed.items())
    assert _sampled(trained) == _sampled(run)
    ledgers = [read_ledger(r.folder / "runs" / "run") for r in (trained, run)]
    assert ledgers[0] == ledgers[1]
    assert [list(groups.values()) for groups in ledgers[1].values()] == [[4] * PROMPTS] * 3


def test_the_logs_of_all_services_can_be_joined_on_a_trace(trained: Run):
    asked = (s.rollout.prompt for s in traces(trained) if s.requeries)
    prompt = next(prompt for prompt in asked if prompt.purpose == pb.PURPOSE_TRAIN)
    found: dict[str, set[str]] = {}
    for file in (trained.folder / "runs" / "run" / "logs").glob("*.log"):
        for line in file.read_text().splitlines():
            if trace_id(prompt.traceparent) in line:
                event = json.loads(line)
                found.setdefault(event["service"], set()).add(event["event"])
    assert found.keys() == {"actors", "reward_service", "learner"}
    assert {"answer", "generate"} <= found["actors"]
    assert {"score", "requery"} <= found["reward_service"]
    assert "learn" in found["learner"]


def test_each_prompt_is_answered_group_size_times_by_one_version(trained: Run):
    rollouts = [scored.rollout for scored in traces(trained) if scored.rollout.prompt.purpose == pb.PURPOSE_TRAIN]
    assert len({r.id for r in rollouts}) == len(rollouts) == 3 * PROMPTS * 4
    for rollout in rollouts:
        assert {span.policy_version for span in rollout.sample.versions} == {rollout.prompt.policy_version}
        assert len(rollout.sample.logprobs) == len(rollout.sample.response_token_ids)
    assert {version: len(prompts) for version, prompts in prompts_by_version(trained).items()} == {
        0: PROMPTS,
        1: PROMPTS,
        2: PROMPTS,
    }


def test_the_requery_sees_the_description_and_the_question_and_nothing_else(trained: Run, cold_start_model: Path):
    tokenizer = AutoTokenizer.from_pretrained(cold_start_model)
    vision = set(family_of("qwen2_5_vl").reserved_token_ids(tokenizer))
    template = PromptTemplate("plain_requery")
    asked = [(scored, requery) for scored in traces(trained) for requery in scored.requeries]
    assert len(asked) > 10, "the cold start should write descriptions"
    for scored, requery in asked:
        description = scored.response.partition("<description>")[2].partition("</description>")[0]
        assert requery.prompt == template.requery(description, scored.rollout.prompt.question)
        ids = list(requery.sample.prompt_token_ids)
        assert not vision & set(ids)
        assert tokenizer.decode(ids) == f"<|im_start|>user\n{requery.prompt}<|im_end|>\n<|im_start|>assistant\n"
        assert vision & set(scored.rollout.sample.prompt_token_ids)
    for scored in traces(trained):
        if "</description>" not in scored.response:
            assert not scored.requeries
            assert scored.rewards["visual"] == 0.0


def test_the_checkpoint_is_a_hugging_face_model_with_other_weights(trained: Run, cold_start_model: Path):
    folder = trained.folder / "runs" / "run" / "checkpoints" / "000003" / "policy"
    before, after = load_file(cold_start_model / "model.safetensors"), load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    AutoModelForImageTextToText.from_pretrained(folder)
    assert sorted(p.name for p in folder.parent.parent.iterdir()) == ["000002", "000003"]


def test_groups_without_signal_are_replaced_and_a_refreshed_reference_is_resumed(
    tmp_path: Path, cold_start_model: Path, shapes: dict[str, Path]
):
    run = training(
        tmp_path,
        cold_start_model,
        shapes,
        "learner.preset=see_think",
        "learner.groups.dynamic_sampling=true",
        "learner.off_policy.recompute_proximal=true",
        "learner.reference.refresh_every=1",
        "sampling.group_size=2",
        "learner.prompts_per_batch=2",
        "learner.prompts_per_step=2",
    )
    fewer = tmp_path / "fewer.parquet"
    pq.write_table(pq.read_table(shapes["train"]).slice(0, 40), fewer)
    for batches, options in ((2, ()), (3, ("--resume", "learner.learning_rate=2e-4"))):
        status, output = run.finish(f"learner.batches={batches}", *options)
        assert status == 0, output + run.logs()
        changed = ["train", str(tmp_path / "run.yaml"), *run.arguments[1:], "--resume", f"data.train={fewer}"]
        other = CliRunner().invoke(app, changed)
        assert other.exit_code == 2
        assert "data.train: 40 rows in" in other.output
    assert re.search(r"learner\.learning_rate +0\.0001 +0\.0002 +from the next optimizer step on", output)
    lines = [line for line in run.scalars() if "seconds/batch" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["groups_with_signal/share"] == 1.0 for line in lines)
    assert all(abs(line["mismatch_kl/engine_trainer"]) < 1e-6 for line in lines)
    answered = {s.rollout.prompt.id for s in traces(run) if s.rollout.prompt.purpose == pb.PURPOSE_TRAIN}
    assert len(answered) > 3 * 2, "with two answers each, some of the groups should have had no signal"
    assert all(line["kl/answer"] == pytest.approx(0.0, abs=1e-6) for line in lines), "the reference is the policy"
    saved = tmp_path / "runs" / "run" / "checkpoints" / "000003"
    reference, policy = (load_file(saved / name / "model.safetensors") for name in ("reference", "policy"))
    assert all(torch.equal(reference[name], policy[name]) for name in policy)

    limit = "learner.stop_when.grad_norm={above: 1e-9, batches: 1}"
    status, output = run.finish("learner.batches=5", "--resume", "learner.learning_rate=2e-4", limit)
    assert status == 1, output + run.logs()
    text = " ".join(output.split())
    assert "the learner ended with status 2" in text
    assert "learner.stop_when ended the run after batch 4: grad_norm/mean is" in text
    assert "run.name=OTHER model.path=" in text
    stopped = json.loads((tmp_path / "runs" / "run" / "checkpoints" / "000004" / "trainer.json").read_text())
    assert (stopped["batch"], stopped["healthy"]) == (4, False)
    assert run.scalars()[-1]["step"] == 4


def test_a_description_that_states_the_answer_is_visible(
    tmp_path: Path, trained: Run, shapes: dict[str, Path], cold_start_model: Path
):
    """A policy that was taught to write `the answer is X` into its descriptions."""
    table = pq.read_table(shapes["cold_start"])
    told = []
    for messages in table["messages"].to_pylist():
        description, boxed = messages[1]["content"].partition("</description>")[::2]
        if boxed:
            answer = parse_response(boxed.encode()).answer
            messages[1]["content"] = f"{description} ; the answer is {answer}</description>{boxed}"
        told.append(messages)
    place = table.column_names.index("messages")
    leaky = table.set_column(place, "messages", pa.array(told, table.schema.field("messages").type))
    pq.write_table(leaky, tmp_path / "leaky.parquet")
    taught = fine_tuning(
        tmp_path, cold_start_model, tmp_path / "leaky.parquet", "learner.sft.steps=20", "run.name=taught"
    )
    status, output = taught.finish()
    assert status == 0, output + taught.logs()
    run = training(tmp_path, tmp_path / "model", shapes, "learner.batches=0")
    status, output = run.finish()
    assert status == 0, output + run.logs()
    assert run.scalars()[-1]["eval_answer_leak/normal"] > 0.5
    assert trained.scalars()[0]["eval_answer_leak/normal"] == 0.0


@pytest.mark.parametrize("publish", [pytest.param("merged", marks=pytest.mark.full(sibling=ADAPTER)), "adapter"])
def test_digits_train_from_their_parquet_file_with_another_configuration_and_nothing_else(tmp_path: Path, publish: str):
    """With low-rank adapters here, which actors get merged or as they are."""
    from vision_sr1.cli.tasks.tiny_model import make_tiny_model

    data = write_task(TASKS["digits"], tmp_path / "data", seed=0, base=1, cold_start=1, train=16, held_out=4)
    make_tiny_model(tmp_path / "model", corpus(TASKS["digits"], rows=300))
    options = ["learner.batches=2", "learner.max_staleness=1"]
    options += ["learner.lora.rank=4", f"learner.lora.publish={publish}", "learner.learning_rate=1e-2"]
    run = training(tmp_path, tmp_path / "model", data, *options)
    status, output = run.finish()
    assert status == 0, output + run.logs()
    lines = [line for line in run.scalars() if "seconds/batch" in line]
    assert len(lines) == 2
    fresh = [line["mismatch_kl/engine_trainer"] for line in lines if "mismatch_kl/engine_trainer" in line]
    assert fresh, "the first batch has tokens of the policy that learns from them"
    assert max(map(abs, fresh)) < 1e-6, "actors hold other weights"
    assert {scored.rollout.prompt.data_source for scored in traces(run)} == {"digits/train", "digits/normal"}


def test_sets_of_several_forms_with_and_without_images_train_together_and_broken_rows_are_passed_over(
    tmp_path: Path, cold_start_model: Path, shapes: dict[str, Path]
):
    """Rows as Vision-SR1-47K has them, some of text only; and lines of JSON, of which an epoch takes half."""
    rows = pq.read_table(shapes["train"]).to_pylist()
    features = datasets.Features(
        {
            "problem": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
        }
    )
    hub_like: list[dict[str, Any]] = [
        {**{key: row[key] for key in ("problem", "answer")}, "images": row["images"]} for row in rows[:4]
    ]
    for question, images in (
        ("one red circle : what color", []),
        ("one red circle : what color", None),
        ("<image> what", []),
    ):
        hub_like.append({"problem": question, "answer": "red", "images": images})
    datasets.Dataset.from_list(hub_like, features=features).to_parquet(tmp_path / "hub.parquet")
    for number, row in enumerate(rows[4:8]):
        (tmp_path / f"{number}.png").write_bytes(row["images"][0]["bytes"])
    lines = [
        {"problem": row["problem"], "answer": row["answer"], "images": f"{n}.png"} for n, row in enumerate(rows[4:8])
    ]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sources = [str(tmp_path / "hub.parquet"), {"path": str(tmp_path / "lines.jsonl"), "weight": 0.5}]
    options = [f"data.train={json.dumps(sources)}", "learner.batches=2"]
    run = training(tmp_path, cold_start_model, shapes, *options)
    status, output = run.finish()
    assert status == 0, output + run.logs()
    asked = [scored.rollout.prompt for scored in traces(run) if scored.rollout.prompt.purpose == pb.PURPOSE_TRAIN]
    assert {prompt.data_source for prompt in asked} == {"hub", "lines"}
    assert {len(prompt.images) for prompt in asked} == {0, 1}
    first_epoch = {prompt.id: prompt.question for prompt in asked if prompt.id.startswith("0/")}
    expected = [row["problem"] for row in hub_like[:6]]
    from_lines = [prompt for prompt in asked if prompt.id.startswith("0/") and prompt.data_source == "lines"]
    assert len({prompt.id for prompt in from_lines}) == 2
    assert sorted(first_epoch.values()) == sorted([*expected, *{p.id: p.question for p in from_lines}.values()])
    log = (tmp_path / "runs" / "run" / "logs" / "learner.log").read_text()
    assert "hub.parquet, row 6: 1 <image> markers for 0 images" in log


def test_a_mistake_in_the_data_ends_the_run_with_its_reason(tmp_path: Path, tiny_model: Path, shapes: dict[str, Path]):
    run = training(tmp_path, tiny_model, shapes, "learner.batches=1", "data.prompt_key=question")
    status, output = run.finish()
    assert status == 2
    assert "no column 'question' (data.prompt_key); its columns: problem, answer" in output


def test_configuration_is_shown_with_origins(tmp_path: Path):
    import sys

    file = tmp_path / "run.yaml"
    file.write_text("learner: {batches: 5}\n")
    shown = subprocess.run(
        [sys.executable, "-m", "vision_sr1", "config", "show", file, "sampling.top_p=0.5"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "250", "PATH": "/usr/bin:/bin"},
    ).stdout
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.strip()}
    assert lines["sampling.top_p"] == ["0.5", "command", "line"]
    assert lines["learner.batches"][0] == "5"
    assert lines["learner.zero_stage"] == ["2", "default"]
