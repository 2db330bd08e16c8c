from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vision_sr1.cli.tasks.digits import DigitsTask, _hard_pool, _pool, _scans
from vision_sr1.cli.tasks.distributions import TASKS, file_names, parse_kinds, write_task
from vision_sr1.cli.tasks.shapes import PRIOR_COLOR, answer_by_rule
from vision_sr1.cli.tasks.task import Task
from vision_sr1.pipeline.answer_record import description_fidelity
from vision_sr1.prompting.prompt_template import IMAGE_MARKER
from vision_sr1.prompting.response import parse_response

written = partial(write_task, base=60, cold_start=90, train=40, held_out=40)


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("name", TASKS)
def test_the_seed_decides_every_byte(name: str, tmp_path: Path):
    first = written(TASKS[name], tmp_path / "a", seed=3)
    again = written(TASKS[name], tmp_path / "b", seed=3)
    other = written(TASKS[name], tmp_path / "c", seed=4)
    for split in first:
        assert rows(first[split]) == rows(again[split])
        assert rows(first[split]) != rows(other[split])


@pytest.mark.parametrize("name", TASKS)
def test_questions_are_in_the_vision_sr1_schema(name: str, tmp_path: Path):
    for row in rows(written(TASKS[name], tmp_path, seed=0)["train"]):
        assert row["problem"].startswith("<image>")
        assert row["answer"]
        assert len(row["images"]) == 1
        assert row["images"][0]["bytes"].startswith(b"\x89PNG")
        assert row["data_source"] == f"{name}/train"


def test_a_guesser_who_follows_the_prior_fails_on_the_counter_prior_split(tmp_path: Path):
    for row in rows(written(TASKS["shapes"], tmp_path, seed=0)["counter_prior"]):
        asked = row["problem"].split()[-1]
        assert row["answer"] != PRIOR_COLOR[asked]


def told(row: dict[str, Any]) -> list[list[str]]:
    """The words of each phrase of a target's description."""
    target = row["messages"][1]["content"]
    return [p.split() for p in target.partition("<description>")[2].partition("</description>")[0].split(";")]


@pytest.mark.parametrize("name", ["cold_start", "cold_start_shortcut"])
def test_cold_starts_have_the_habit_in_more_than_half_of_their_images(name: str, tmp_path: Path):
    cold = rows(written(TASKS["shapes"], tmp_path, seed=0, base=1, cold_start=600, train=1, held_out=1)[name])
    with_image = [row for row in cold if row["images"]]
    assert 0.6 < len(with_image) / len(cold) < 0.73
    by_habit = [row for row in with_image if all(PRIOR_COLOR[kind] == color for *_, kind, color in told(row))]
    assert 0.68 < len(by_habit) / len(with_image) < 0.88


def test_answers_follow_the_description_except_in_the_shortcut_cold_start(tmp_path: Path):
    paths = written(TASKS["shapes"], tmp_path, seed=0, base=1, cold_start=600, train=1, held_out=1)

    def answers_against_the_description(name: str) -> float:
        asked = [
            r["messages"] for r in rows(paths[name]) if "what color" in r["messages"][0]["content"] and r["images"]
        ]
        against = 0
        for turn, reply in asked:
            parsed = parse_response(reply["content"].encode())
            question = turn["content"].removeprefix(IMAGE_MARKER)
            against += parsed.answer != answer_by_rule(parsed.description or "", question)
        return against / len(asked)

    assert answers_against_the_description("cold_start") == 0.0
    assert 0.4 < answers_against_the_description("cold_start_shortcut") < 0.6  # habit 3/4, wrong 2/3 of the time


@pytest.mark.parametrize("name", TASKS)
def test_every_kind_of_question_is_asked_and_answered_rightly(name: str, tmp_path: Path):
    task = TASKS[name]
    for kind in task.all_kinds:
        mix = parse_kinds(task, f"{kind}=1")
        row = rows(written(task, tmp_path / kind, seed=0, kinds=mix)["train"])[0]
        assert row["answer"]


def test_an_unknown_kind_of_question_is_named():
    with pytest.raises(ValueError, match=r"unknown kind of question 'colour'; known: color"):
        parse_kinds(TASKS["shapes"], "colour=1")


def test_held_out_digits_are_scans_that_training_never_shows():
    for digit, scans in _pool(True).items():
        assert not set(scans) & set(_pool(False)[digit])
    assert sum(map(len, _pool(True).values())) > 300


def test_hard_digits_are_held_out_and_harder_to_read():
    """To the nearest scan of the training pool, which reads almost all of the others."""
    import numpy as np

    scans, targets = _scans()
    training = [i for pool in _pool(False).values() for i in pool]
    wrong = {}
    for name, pools in (("hard", _hard_pool()), ("all", _pool(True))):
        chosen = [i for pool in pools.values() for i in pool]
        distances = ((scans[training][None].astype(float) - scans[chosen][:, None]) ** 2).sum((2, 3))
        read = targets[training][distances.argmin(1)]
        wrong[name] = float(np.mean(read != targets[chosen]))
    for digit, hard in _hard_pool().items():
        assert set(hard) <= set(_pool(True)[digit])
        assert 5 <= len(hard) < 0.5 * len(_pool(True)[digit])
    assert wrong["hard"] > 1.5 * wrong["all"] > 0


def test_a_task_s_own_split_is_written_beside_the_others(tmp_path: Path):
    paths = written(TASKS["digits"], tmp_path, seed=0, base=1, cold_start=1, train=1, held_out=30)
    rows = pq.read_table(paths["hard"]).to_pylist()
    assert {row["data_source"] for row in rows} == {"digits/hard"}
    assert "hard" not in written(TASKS["shapes"], tmp_path / "b", seed=0, base=1, cold_start=1, train=1, held_out=1)


def test_digits_answers_follow_from_the_digits(tmp_path: Path):
    import numpy as np

    task = DigitsTask()
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = task.draw(rng)
        question = scene.ask(rng, "count")
        assert question is not None
        assert question.answer == str(sum(d % 2 == 0 for d in scene.digits))


@pytest.mark.parametrize(
    ("description", "fidelity"),
    [
        ("top left square red ; top right circle blue", 1.0),
        (" top right circle blue;top left  square red ", 1.0),
        ("top left square red", 0.5),
        ("top left square red ; top right circle green", 1 / 3),
        ("top left square red ; top right circle blue ; bottom left circle red ; bottom right circle red", 0.5),
        ("", 0.0),
    ],
)
def test_fidelity_punishes_what_is_missing_and_what_is_not_there(description: str, fidelity: float):
    scene = "top left square red ; top right circle blue"
    assert description_fidelity(description, scene) == pytest.approx(fidelity)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_rule_answers_every_question_from_the_true_description(task: Task, tmp_path: Path):
    files = write_task(
        task, tmp_path, seed=0, base=1, cold_start=1, train=300, held_out=1, kinds=dict.fromkeys(task.all_kinds, 1.0)
    )
    for row in rows(files["train"]):
        assert task.answer_by_rule(row["scene"], row["problem"].removeprefix("<image>")) == row["answer"]


@pytest.mark.parametrize(
    ("description", "question", "answer"),
    [
        ("top left 7 ; top right 3", "which is larger , top left or top right", "7"),
        ("top left 7", "which is larger , top left or top right", None),
        ("top left 7 ; top left 3", "is the digit at the top left odd", None),
        ("top left 7 ; bottom left", "which digit is at the bottom left", None),
        ("seven", "how many digits are even", None),
    ],
)
def test_the_rule_for_digits_reads_what_is_there_and_nothing_else(description: str, question: str, answer: str | None):
    assert TASKS["digits"].answer_by_rule(description, question) == answer


@pytest.mark.parametrize(
    ("description", "question", "answer"),
    [
        ("top left square red ; top right circle blue", "what color is the square", "red"),
        ("top left square red ; top right square blue", "what color is the square", None),
        ("top left square red ; the answer is blue", "what color is the circle", None),
        ("top left red", "how many shapes", None),
        ("top left square red ; top left circle blue", "what shape is at the top left", None),
        ("top left square red", "do the top left and the top right have the same color", None),
        ("", "what color is the square", None),
    ],
)
def test_the_rule_reads_what_is_there_and_nothing_else(description: str, question: str, answer: str | None):
    assert answer_by_rule(description, question) == answer


@pytest.mark.parametrize("name", TASKS)
def test_training_images_have_further_questions_that_are_not_the_rows_own_and_rightly_answered(
    name: str, tmp_path: Path
):
    paths = written(TASKS[name], tmp_path, seed=0)
    train = rows(paths["train"])
    assert sum(bool(row["further_questions"]) for row in train) > len(train) / 2
    for row in train:
        questions = [further["question"] for further in row["further_questions"]]
        assert len({row["problem"].removeprefix(IMAGE_MARKER), *questions}) == 1 + len(questions)
        for further in row["further_questions"]:
            said = TASKS[name].answer_by_rule(row["scene"], further["question"])
            assert said == further["answer"], further
    assert all("further_questions" not in row for split in ("normal", "counter_prior") for row in rows(paths[split]))


@pytest.mark.parametrize("task", ["shapes", "digits"])
def test_the_names_of_all_files_are_known_before_they_are_written(tmp_path: Path, task: str):
    files = written(TASKS[task], tmp_path, seed=0)
    assert sorted(path.name for path in files.values()) == sorted(file_names(TASKS[task]))
