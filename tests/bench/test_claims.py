from pathlib import Path

import pyarrow.parquet as pq

from bench.claims.judges import Reader, judge, training_answers
from tests.reward_service.conftest import Store
from tests.reward_service.test_store import write
from vision_sr1.config import DataConfig
from vision_sr1.data import Questions
from vision_sr1.evaluation.answers import answer_record
from vision_sr1.v1 import pipeline_pb2 as pb


def scored(row: dict, index: int, *, description: str, visual: float, version: int = 0) -> pb.ScoredRollout:
    prompt = pb.Prompt(
        id=f"0/{index}", run="r", purpose=pb.PURPOSE_TRAIN, question=row["problem"], answer=row["answer"]
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
        answers = [scored(raw[i], i + 2 * version, description="none", visual=0.0, version=version) for i in range(2)]
        await write(store, *answers)
    await write(store, scored(raw[2], 2, description="again", visual=0.0, version=1))  # sampled anew after a restart
    store.engine.dispose()
    answers = training_answers(folder, shapes["train"].parent, range(1, 2))
    assert [a["id"] for a in answers] == ["0/2/0", "0/3/0"]
    assert [a["description"] for a in answers] == ["again", "none"]
    assert answers[0]["scene"] == raw[2]["scene"]
