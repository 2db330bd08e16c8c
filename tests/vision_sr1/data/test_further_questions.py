"""Further questions about the same images: where they come from, and which of them a prompt carries."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.vision_sr1.data.test_data_rows import encoded
from vision_sr1.cli.main import app
from vision_sr1.config import Config, DataConfig, RewardConfig, load_config
from vision_sr1.data import DataError, QuestionRow, Questions
from vision_sr1.data.questions import FurtherQuestion
from vision_sr1.pipeline.prompt_message import prompt_message
from vision_sr1.v1 import pipeline_pb2 as pb

Lines = Callable[..., str]
COLOR, SHAPE, COUNT = (
    {"question": "<image>What  color?", "answer": "red"},
    {"question": "what shape?", "answer": "circle"},
    {"question": "how many?", "answer": 1, "data_source": "counts"},
)


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    def write(*rows: dict[str, Any]) -> str:
        for color in ("red", "blue"):
            (tmp_path / f"{color}.png").write_bytes(encoded(color))
            (tmp_path / f"{color} again.png").write_bytes(encoded(color))
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / "rows.jsonl")

    return write


def row(problem: str = "<image>what color?", images: str | list[str] | None = "red.png", **more: Any) -> dict[str, Any]:
    return {"problem": problem, "answer": "red", "images": images, **more}


def asked(found: QuestionRow) -> list[tuple[str, str, str]]:
    return [(further.question, further.answer, further.data_source) for further in found.further_questions]


def test_a_column_has_them_each_once_and_never_the_own_question(lines: Lines):
    source = lines(row(further_questions=[COLOR, SHAPE, SHAPE, COUNT]), row(further_questions=None))
    rows = Questions(source, DataConfig(), further="any")
    assert asked(rows[0]) == [("what shape?", "circle", "rows"), ("how many?", "1", "counts")]
    assert asked(rows[1]) == [], "the other row has the same image, and this set has a column"
    assert asked(Questions(source, DataConfig())[0]) == []
    assert asked(Questions(source, DataConfig(further_questions_key="none"), further="column")[0]) == []


def test_without_a_column_they_are_those_of_other_rows_with_the_same_images(lines: Lines):
    source = lines(
        row(data_source="colors"),
        row("<image>what shape?", images="red again.png", data_source="shapes"),
        row("<image>how many?", images="blue.png"),
        row("<image> What color? "),
        row("<image><image>which?", images=["red.png", "blue.png"]),
        row("what is it?", images=None),
        row("<image>broken?", images="none.png"),
        row("<image>unanswered?", answer=None),
    )
    rows = Questions(source, DataConfig(), further="any")
    assert rows.has_further_questions()
    assert asked(rows[0]) == [("<image>what shape?", "red", "shapes")]
    assert asked(rows[1]) == [("<image>what color?", "red", "colors")]
    assert [asked(rows[index]) for index in (2, 4, 5)] == [[], [], []]
    alone = Questions(lines(row(), row(images="blue.png")), DataConfig(), further="any")
    assert not alone.has_further_questions()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("what shape?", "row 0: column 'further_questions' is no list of {question, answer} but 'what shape?'"),
        ([SHAPE, "how many?"], "number 1 is not {question, answer} but 'how many?'"),
        ([{"question": "how many?"}], "number 0 is not {question, answer}"),
        ([{"question": "", "answer": "1"}], "number 0: the question is empty"),
        ([{"question": "how many?", "answer": ["1"]}], "number 0: the answer is not text but a list"),
    ],
)
def test_a_column_of_something_else_is_said(column: Any, message: str, lines: Lines):
    rows = Questions(lines(row(further_questions=column)), DataConfig(), further="any")
    with pytest.raises(DataError) as error:
        _ = rows[0]
    assert message in str(error.value)
    with pytest.raises(DataError) as error:
        rows.has_further_questions()
    assert message in str(error.value)


def config(*overrides: str) -> Config:
    return load_config(None, list(overrides), environment={}).config


def carried(prompt_id: str, *overrides: str, purpose: "pb.Purpose" = pb.PURPOSE_TRAIN) -> list[str]:
    further = tuple(FurtherQuestion(f"{number}?", str(number), "s") for number in range(6))
    made = QuestionRow("what?", "red", [], "s", None, further)
    message = prompt_message(config(*overrides), prompt_id, made, [], purpose, 0)
    return [question.question for question in message.further_questions]


def test_a_prompt_carries_as_many_as_are_asked_the_same_whenever_it_is_issued():
    three = "reward.requery.questions=3"
    drawn = [carried(f"0/{index}", three) for index in range(20)]
    assert drawn == [carried(f"0/{index}", three) for index in range(20)]
    assert all(len(set(questions)) == 2 for questions in drawn)
    assert len({tuple(questions) for questions in drawn}) > 5
    assert drawn != [carried(f"1/{index}", three) for index in range(20)], "another epoch asks others"
    assert drawn != [carried(f"0/{index}", three, "run.seed=1") for index in range(20)]
    assert carried("0/0", "reward.requery.questions=9") == [f"{number}?" for number in range(6)]
    assert carried("0/0") == []
    assert carried("normal@0/0", three, purpose=pb.PURPOSE_EVALUATION) == []


def invoke(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, ["data", *arguments], env={"COLUMNS": "160"})
    assert result.exit_code == status, result.output
    return result.output


def test_a_check_counts_them_and_looks_at_their_answers(lines: Lines):
    wrong = {"question": "how many?", "answer": "<answer> 3 </answer>"}
    source = lines(row(further_questions=[SHAPE, wrong]), row(further_questions=[]))
    output = invoke("check", source, "reward.requery.questions=2")
    assert "further questions  1 of 2 rows have some about their images, up to 2" in output
    assert "row 0, further question 'how many?': mathruler on '<answer> 3 </answer>': it contains <answer>" in output


def test_a_converted_set_keeps_its_column(lines: Lines, tmp_path: Path):
    source = lines(row(more=[SHAPE, COUNT]), row(more=None))
    invoke("convert", source, str(tmp_path / "out.parquet"), "data.further_questions_key=more")
    found = Questions(str(tmp_path / "out.parquet"), DataConfig(), reward=RewardConfig(), further="any")
    assert [asked(found[index]) for index in range(2)] == [
        [("what shape?", "circle", "rows"), ("how many?", "1", "counts")],
        [],
    ]
