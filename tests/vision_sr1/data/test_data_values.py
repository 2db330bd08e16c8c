"""A reference answer is what the file's author wrote, or its row is refused."""

import gzip
import json
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vision_sr1.config import DataConfig, RewardConfig, load_config
from vision_sr1.data import DataError, Questions, questions

LABELS = datasets.ClassLabel(names=["cat", "dog"])
WRITTEN: dict[str, str] = {  # in JSON, and as it is read
    "1": "1",
    "-3": "-3",
    "1.50": "1.50",
    "1.0": "1.0",
    "1e3": "1e3",
    "0.1": "0.1",
    "12345678901234567890123": "12345678901234567890123",
    "3.14159265358979323846": "3.14159265358979323846",
    "true": "true",
    "false": "false",
    '"007"': "007",
    '"1.50"': "1.50",
    '"2020-01-01"': "2020-01-01",
    '"2020-01-01T00:00:00Z"': "2020-01-01T00:00:00Z",
    '"NaN"': "NaN",
    '" a"': " a",
}
REFUSED: dict[str, str] = {
    "NaN": "the answer is nan: give a finite number",
    "Infinity": "the answer is inf: give a finite number",
    "-Infinity": "the answer is -inf: give a finite number",
    "null": "the answer is empty",
    '{"a": 1}': "the answer is not text but a dict",
    '"1", "answer": "2"': "an object has 'answer' more than once",
}


def json_rows(folder: Path, kind: str) -> Questions:
    """A row of each answer in `WRITTEN`, then one of each in `REFUSED`."""
    rows = [f'{{"problem": "what?", "answer": {answer}}}' for answer in (*WRITTEN, *list(REFUSED)[: _whole(kind)])]
    text = f"[{', '.join(rows)}]" if kind == "json" else "\n".join(rows)
    path = folder / f"rows.{kind}"
    path.write_bytes(gzip.compress(text.encode()) if kind.endswith(".gz") else text.encode())
    return Questions(str(path), DataConfig())


def _whole(kind: str) -> int:
    """How many of `REFUSED` spoil their row alone: a list is parsed as a whole."""
    return len(REFUSED) - (kind == "json")


@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "json", "jsonl.gz"])
def test_answers_in_json_are_read_as_they_are_written(tmp_path: Path, kind: str):
    rows = json_rows(tmp_path, kind)
    assert [rows[index].answer for index in range(len(WRITTEN))] == list(WRITTEN.values())
    for index, message in enumerate(list(REFUSED.values())[: _whole(kind)], len(WRITTEN)):
        with pytest.raises(DataError, match=f"row {index}: .*{message}"):
            _ = rows[index]
    assert {row.data_source for row in (rows[0],)} == {"rows"}


@pytest.mark.parametrize(("kind", "separator"), [("csv", ","), ("tsv", "\t"), ("csv.gz", ",")])
def test_cells_of_a_table_are_texts(tmp_path: Path, kind: str, separator: str):
    cells = ["007", "1.50", "1e3", "NaN", "NA", "True", "2020-01-01", " a", '"a\n""b"""', "[1, 2]".replace(",", ";")]
    lines = [separator.join(("problem", "answer", "image"))] + [separator.join(("what?", cell, "")) for cell in cells]
    text = "\ufeff" + "\r\n".join([*lines, "", separator.join(("what?", "", ""))]) + "\r\n"
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(gzip.compress(text.encode()) if kind.endswith(".gz") else text.encode())
    rows = Questions(str(path), DataConfig())
    assert [rows[index].answer for index in range(len(cells))] == [*cells[:-2], 'a\n"b"', "[1; 2]"]
    with pytest.raises(DataError, match=f"row {len(cells)}: the answer is empty"):
        _ = rows[len(cells)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"problem,answer\nwhat?,1,2\n", "rows.csv, line 2: 3 cells, and 2 columns"),
        (b"problem,answer\nwhat?\n", "rows.csv, line 2: 1 cells, and 2 columns"),
        (b'problem,answer\nwhat?,"1\n', "rows.csv is not a readable csv file"),
        (b"problem,answer,answer\nwhat?,1,2\n", "two columns have the same name"),
        (b"problem,answer\nwhat?,caf\xe9\n", "rows.csv is not UTF-8.*write the file again"),
        (b"problem,answer\n", "rows.csv has no rows"),
    ],
)
def test_a_table_that_cannot_be_divided_into_cells_is_refused(tmp_path: Path, text: bytes, message: str):
    (tmp_path / "rows.csv").write_bytes(text)
    with pytest.raises(DataError, match=message):
        Questions(str(tmp_path / "rows.csv"), DataConfig())


@pytest.mark.parametrize(
    ("column", "read"),
    [
        (pa.array([1, None]), ["1", None]),
        (pa.array([1.0, 2.5]), ["1", "2.5"]),
        (pa.array([0.1, 2.5], pa.float32()), ["0.1", "2.5"]),
        (pa.array([0.1, 2.5]).cast(pa.float16()), ["0.1", "2.5"]),
        (pa.array([float("nan"), float("inf")]), [None, None]),
        (pa.array([Decimal("1.50"), Decimal("2.00")]), ["1.50", "2.00"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array([b"x", b"\xe9"]), ["x", None]),
        (pa.array(["x", "y"], pa.large_string()), ["x", "y"]),
        (pa.array([date(2020, 1, 1), None]), ["2020-01-01", None]),
        (pa.array([datetime(2020, 1, 1), datetime(2020, 1, 1, 12)]), [None, None]),
        (pa.array([time(1, 2), None]), [None, None]),
        (pa.array([7.0, None]), ["7", None]),  # as pandas stores integers beside a gap
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_typed_columns_give_what_their_type_keeps(tmp_path: Path, column: Any, read: list[str | None]):
    pq.write_table(pa.table({"problem": ["what?", "why?"], "answer": column}), tmp_path / "rows.parquet")
    rows = Questions(str(tmp_path / "rows.parquet"), DataConfig())
    for index, answer in enumerate(read):
        if answer is None:
            with pytest.raises(DataError, match=f"row {index}: the answer is"):
                _ = rows[index]
        else:
            assert rows[index].answer == answer


@pytest.mark.parametrize("kind", ["parquet", "saved", "arrow"])
def test_classes_are_read_by_their_names(tmp_path: Path, kind: str):
    text = datasets.Value("string")
    features = datasets.Features(
        {"problem": text, "answer": LABELS, "data_source": LABELS, "nested": {"class": LABELS}}
    )
    columns = {"problem": ["a", "b", "c"], "answer": [0, 1, -1], "data_source": [1, 0, 0]}
    columns["nested"] = [{"class": label} for label in (1, 0, 1)]
    written = datasets.Dataset.from_dict(columns, features=features)
    path = tmp_path / "rows.parquet"
    if kind == "parquet":
        written.to_parquet(path)
    else:
        written.save_to_disk(tmp_path / "saved")
        path = tmp_path / "saved" if kind == "saved" else next((tmp_path / "saved").glob("*.arrow"))
    rows = Questions(str(path), DataConfig())
    assert [(rows[i].answer, rows[i].data_source) for i in range(2)] == [("cat", "dog"), ("dog", "cat")]
    with pytest.raises(DataError, match="row 2: the answer is empty"):
        _ = rows[2]
    nested = Questions(str(path), DataConfig(answer_key="nested.class"))
    assert [nested[i].answer for i in range(3)] == ["dog", "cat", "dog"]


def test_a_folder_s_readme_may_name_its_classes(tmp_path: Path):
    (tmp_path / "train.jsonl").write_text('{"problem": "what?", "answer": 1}\n')
    assert Questions(str(tmp_path), DataConfig())[0].answer == "1"
    types = "- {name: problem, dtype: string}\n  - {name: answer, dtype: {class_label: {names: {'0': cat, '1': dog}}}}"
    (tmp_path / "README.md").write_text(f"---\ndataset_info:\n  features:\n  {types}\n---\n")
    assert Questions(str(tmp_path), DataConfig())[0].answer == "dog"


def test_a_source_and_a_scene_are_read_as_written_too(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    rows: tuple[dict[str, Any], ...] = (
        {"data_source": 0, "scene": 1},
        {"data_source": "", "scene": ""},
        {"scene": float("nan")},
        {"scene": []},
    )
    path.write_text("".join(json.dumps({"problem": "what?", "answer": "x", **row}) + "\n" for row in rows))
    read = Questions(str(path), DataConfig())
    assert [(read[i].data_source, read[i].scene) for i in range(2)] == [("0", "1"), ("rows", None)]
    for index, message in ((2, "the scene is nan"), (3, "the scene is not text but a list")):
        with pytest.raises(DataError, match=message):
            _ = read[index]


@pytest.mark.parametrize(
    ("row", "key", "answer"),
    [
        ({"answer": ["red", 1, "1.50"]}, "answer", '["red", "1", "1.50"]'),
        ({"answer": ["rot", "grün"]}, "answer", '["rot", "grün"]'),
        ({"answer": '["red", "blue"]'}, "answer", '["red", "blue"]'),
        ({"reward_model": {"ground_truth": ["red"], "style": "rule"}}, "reward_model.ground_truth", '["red"]'),
        ({"reward_model": {"ground_truth": 5}}, "reward_model.ground_truth", "5"),
        ({"a": {"b": {"c": "deep"}}}, "a.b.c", "deep"),
        ({"a.b": "flat", "a": {"b": "deep"}}, "a.b", "flat"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_answers_may_be_nested_or_several(tmp_path: Path, row: dict[str, Any], key: str, answer: str, kind: str):
    row = {"problem": "what?", **row}
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        strings = {"answer": [str(item) for item in row["answer"]]} if isinstance(row.get("answer"), list) else {}
        pq.write_table(pa.Table.from_pylist([row | strings]), path)
    config = load_config(None, [f"data.train={path}", f"data.answer_key={key}", "reward.grader=any_of"]).config
    assert questions(config).at(0, 0).answer == answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "the answer is empty"),
        ([""], "the answer, number 0 is empty"),
        (["a", float("inf")], "the answer, number 1 is inf"),
        (["a", ["b"]], "the answer, number 1 is not text but a list"),
    ],
)
def test_lists_of_answers_hold_texts(tmp_path: Path, answer: list[Any], message: str):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"problem": "what?", "answer": answer}) + "\n")
    with pytest.raises(DataError, match=message):
        _ = Questions(str(tmp_path / "rows.jsonl"), DataConfig(), reward=RewardConfig(grader="any_of"))[0]


def test_a_list_of_answers_needs_the_grader_of_its_source(tmp_path: Path):
    rows = [{"problem": "what?", "answer": ["a", "b"], "data_source": source} for source in ("open", "other")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = Questions(str(tmp_path / "rows.jsonl"), DataConfig(), reward=RewardConfig(graders={"open": "any_of"}))
    assert read[0].answer == '["a", "b"]'
    with pytest.raises(DataError, match=r"row 1: .*not text but a list; .*set reward.graders=\{other: any_of\}"):
        _ = read[1]


@pytest.mark.parametrize("key", ["reward_model.truth", "truth", "problem.truth"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_column_that_is_not_there_is_named_beside_those_that_are(tmp_path: Path, key: str, kind: str):
    row = {"problem": "what?", "reward_model": {"ground_truth": "5"}}
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    with pytest.raises(DataError, match=rf"no column '{key}' \(data.answer_key\); its columns: .*reward_model.ground_"):
        Questions(str(path), DataConfig(answer_key=key))
