import asyncio
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bench.claims.conditions import CONDITIONS
from bench.claims.judges import Reader, judge, training_answers
from bench.claims.runs import CLAIMS
from tests.reward_service.conftest import Store
from tests.reward_service.test_store import write
from vision_sr1.config import DataConfig
from vision_sr1.data import Questions
from vision_sr1.pipeline.answer_record import answer_record
from vision_sr1.v1 import pipeline_pb2 as pb


def scored(
    row: dict[str, Any], index: int, *, description: str, visual: float, version: int = 0, run: str = "r"
) -> pb.ScoredRollout:
    prompt = pb.Prompt(
        id=f"0/{index}", run=run, purpose=pb.PURPOSE_TRAIN, question=row["problem"], answer=row["answer"]
    )
    sample = pb.Sample(response_token_ids=[len(description)], versions=[pb.VersionSpan(policy_version=version, end=1)])
    response = f"<description> {description}</description><think> so</think>\\boxed{{{row['answer']}}}"
    rewards = {"accuracy": 1.0, "visual": visual, "format": 1.0, "answer_leak": 0.0}
    return pb.ScoredRollout(
        rollout=pb.Rollout(id=f"0/{index}/0", prompt=prompt, sample=sample), response=response, rewards=rewards
    )


def test_a_right_answer_from_a_wrong_description_is_a_shortcut_to_the_judges_that_see_it(shapes, tiny_model: Path):
    rows = Questions(str(shapes["train"]), DataConfig())
    raw = pq.read_table(shapes["train"]).to_pylist()
    color = next(i for i, r in enumerate(raw) if "what color" in r["problem"])
    true = scored(raw[color], color, description=raw[color]["scene"], visual=1.0)
    others = {"red": "blue", "blue": "green", "green": "red"}
    told = raw[color]["scene"].replace(raw[color]["answer"], others[raw[color]["answer"]])
    false = scored(raw[color], color, description=told, visual=1.0)
    reader = Reader(tiny_model)
    verdict = judge([answer_record("0/0/0", rows[color], s) for s in (true, false)], reader, reader)
    assert verdict.accuracy == 1.0
    assert verdict.sufficient["rule"] == 0.5
    assert verdict.shortcut["rule"] == 0.5
    assert verdict.shortcut["self"] == 0.0  # the policy's own re-query was right both times
    assert verdict.shortcut["base"] == 1.0  # an untrained reader answers nothing


async def test_the_answers_of_a_batch_are_read_from_the_traces(shapes, tmp_path: Path):
    raw = pq.read_table(shapes["train"]).to_pylist()
    folder = tmp_path / "r"
    folder.mkdir()
    store = Store(f"sqlite:///{folder}/traces.sqlite")
    for version in range(3):
        batch = [scored(raw[i], i + 2 * version, description="none", visual=0.0, version=version) for i in range(2)]
        await write(store, *batch)
    await write(store, scored(raw[2], 2, description="again", visual=0.0, version=1))  # sampled anew after a restart
    store.engine.dispose()
    answers = training_answers(folder, shapes["train"].parent, range(1, 2))
    assert [a["id"] for a in answers] == ["0/2/0", "0/3/0"]
    assert [a["description"] for a in answers] == ["again", "none"]
    assert answers[0]["scene"] == raw[2]["scene"]


@pytest.fixture
def finished_study(tmp_path: Path, shapes: dict[str, Path], tiny_model: Path) -> Path:
    """Folder of a study of one seed, with a claim and a condition: `see_think` takes a shortcut, `vision_sr1` none."""
    seed = tmp_path / "study" / "seed0"
    models = [seed / "models" / name for name in ("tiny", "base", "cold_start", "cold_start_40")]
    (seed / "models").mkdir(parents=True)
    for model in models:
        model.symlink_to(tiny_model)
    (seed / "data").symlink_to(shapes["train"].parent)
    rows = pq.read_table(shapes["train"]).to_pylist()
    questions = Questions(str(shapes["train"]), DataConfig())
    for study, folder in ((CLAIMS, seed), (CONDITIONS["weak"].study, seed / "weak")):
        for objective, is_shortcut in (("see_think", True), ("vision_sr1", False)):
            run = folder / objective
            policy = run / "checkpoints" / f"{study.batches:06d}" / "policy"
            policy.parent.mkdir(parents=True)
            policy.symlink_to(tiny_model)
            rewards = {f"reward/{name}": 0.5 for name in ("accuracy", "visual", "shortcut")}
            last = {"step": study.batches, "eval_accuracy/normal": 1.0, **rewards}
            (run / "scalars.jsonl").write_text(json.dumps(last) + "\n")
            answers = {
                version: scored(
                    rows[version],
                    version,
                    description="nothing" if is_shortcut else rows[version]["scene"],
                    visual=1.0,
                    version=version,
                    run=objective,
                )
                for version in (0, study.batches - 1)
            }
            store = Store(f"sqlite:///{run}/traces.sqlite")
            asyncio.run(write(store, *answers.values()))
            store.engine.dispose()
            (run / "evaluation").mkdir()
            evaluated = json.dumps(answer_record("0/0/0", questions[0], answers[0]))
            for version in (0, study.batches):
                for split in ("normal", "counter_prior"):
                    (run / "evaluation" / f"v{version}-{split}.jsonl").write_text(evaluated + "\n")
    return seed.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "marker", "options", "facts"),
    [
        ("bench.claims.__main__", "results", ["--seeds", "0", "--objectives"], "on 1 held-out images a split"),
        ("bench.claims.conditions", "conditions", ["--conditions", "weak"], "of the last"),
    ],
)
def test_a_finished_study_is_judged_and_reported(
    module: str,
    marker: str,
    options: list[str],
    facts: str,
    finished_study: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    report = finished_study / "claims.md"
    report.write_text(f"before\n<!-- {marker} -->\n*as before*\n<!-- /{marker} -->\nafter\n")
    monkeypatch.setattr(sys, "argv", [module, "--root", str(finished_study), "--report", str(report), *options])
    importlib.import_module(module).main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["value"], result["baseline"], result["ratio"]) == (0.0, 1.0, 0.0)
    text = report.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| `see_think` | 1.000 |" in text
    assert facts in text
    assert "as before" not in text
