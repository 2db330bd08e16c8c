"""Rows that are broken in every way that was thought of: each is reported with its number and its reason, none stops
the run, and none is trained on."""

import base64
import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from learner.groups.feeder import Feeder, FeederState
from vision_sr1.cli.dataset.check import Report, check
from vision_sr1.cli.main import app
from vision_sr1.config import Config, load_config
from vision_sr1.data import DataError, Questions, questions
from vision_sr1.data.lengths import PromptLengths


def png(width: int = 56, height: int = 56) -> bytes:
    data = io.BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB").save(data, "PNG")
    return data.getvalue()


def header_only(width: int, height: int) -> bytes:
    """A PNG that says it is so large, of few bytes."""
    whole, chunk = png(), b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return whole[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[33:]


def uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def turns(*said: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in said]


GOOD = {"problem": "what color ?", "answer": "red", "images": [uri(png())]}
BROKEN: dict[str, tuple[Any, str]] = {
    "an empty question": ({**GOOD, "problem": ""}, "the question is empty"),
    "no question": ({**GOOD, "problem": None}, "the question is empty"),
    "a missing question": ({"answer": "red"}, "the question is empty"),
    "a blank question": ({**GOOD, "problem": " \n"}, "the question is empty"),
    "a NUL in the question": ({**GOOD, "problem": "a\0b"}, "the question has the character NUL at 1"),
    "half a character": ('{"problem": "a\\ud800", "answer": "red"}', "the question has half a character at 1"),
    "bytes that are no UTF-8": (b'{"problem": "caf\xe9", "answer": "red"}', "not UTF-8 at character 16"),
    "a question that is an object": ({**GOOD, "problem": {"text": "what?"}}, "the question is not text but a dict"),
    "an empty answer": ({**GOOD, "answer": ""}, "the answer is empty"),
    "no answer": ({**GOOD, "answer": None}, "the answer is empty"),
    "a missing answer": ({"problem": "what?"}, "the answer is empty"),
    "several answers": ({**GOOD, "answer": ["red", "blue"]}, "the answer is not text but a list"),
    "a broken line": ('{"problem": "what?", ', "not JSON: "),
    "two objects on a line": ('{"problem": "a"} {"problem": "b"}', "not JSON: Extra data"),
    "a line that is no object": ("[1, 2]", "'[1, 2]' is not a JSON object"),
    "a blank line": ("", "not JSON: "),
    "a nest of lists": ("[" * 100_000, "not JSON: "),
    "no turns": ({**GOOD, "problem": []}, "no messages"),
    "an unknown role": ({**GOOD, "problem": turns(("tool", "x"))}, "message 0 has the role 'tool'; known: human"),
    "a turn without text": ({**GOOD, "problem": turns(("user", None))}, "message 0 is empty"),
    "a turn that is no turn": (
        {**GOOD, "problem": ["what?"]},
        "message 0 is not a turn with role and content but 'what?'",
    ),
    "several turns": (
        {**GOOD, "problem": turns(("user", "a"), ("assistant", "b"), ("user", "c"))},
        "a question is one turn of the user; here are: user, assistant, user",
    ),
    "nobody asks": ({**GOOD, "problem": turns(("system", "be brief"))}, "one turn of the user; here are: none"),
    "a part that is a sound": ({**GOOD, "problem": turns(("user", [{"type": "audio"}]))}, "a part of type 'audio'"),
    "a video": ({**GOOD, "videos": ["a.mp4"]}, "videos cannot be used: sample frames"),
    "more markers than images": ({**GOOD, "problem": "<image> <image>"}, "2 <image> markers for 1 images"),
    "a marker and no image": ({"problem": "<image>?", "answer": "red"}, "1 <image> markers for 0 images"),
    "fewer markers than images": (
        {**GOOD, "problem": "<image>?", "images": [uri(png())] * 2},
        "1 <image> markers for 2",
    ),
    "no base64": (
        {**GOOD, "images": ["data:image/png;base64,§"]},
        "image 0: 'data:image/png;base64,§'... is not base64",
    ),
    "an empty image": ({**GOOD, "images": [uri(b"")]}, "image 0: an image of 0 bytes"),
    "no image at all": ({**GOOD, "images": [uri(b"<html>")]}, "image 0: 6 bytes that are not an image"),
    "half an image": ({**GOOD, "images": [uri(png()[:2000])]}, "image 0: an image of 2000 bytes is cut off or damaged"),
    "a decompression bomb": (
        {**GOOD, "images": [uri(header_only(60_000, 60_000))]},
        "image 0: a decompression bomb: Image size (3600000000",
    ),
    "a ribbon": ({**GOOD, "images": [uri(png(2, 500))]}, "one side is 200 times the other or more"),
    "too many bytes": ({**GOOD, "images": [uri(png(400, 400))]}, "are over data.max_image_bytes (100000)"),
    "a URL": ({**GOOD, "images": ["https://example.org/a.png"]}, "is a URL: download it"),
    "a path that leads out": ({**GOOD, "images": ["../../etc/passwd"]}, "leads out of"),
    "an absolute path": ({**GOOD, "images": ["/etc/passwd"]}, "leads out of"),
    "a path with NUL": ({**GOOD, "images": ["a\0.png"]}, "is neither a path"),
    "a missing file": ({**GOOD, "images": ["gone.png"]}, "no image file"),
    "a folder": ({**GOOD, "images": ["."]}, "no image file"),
    "an image that is a number": ({**GOOD, "images": [7]}, "image 0: neither bytes nor a path"),
    "an empty struct": ({**GOOD, "images": [{"bytes": None, "path": None}]}, "image 0: neither bytes nor a path"),
    "too long a prompt": ({**GOOD, "problem": "is " * 400}, "are allowed (sampling.max_prompt_tokens"),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Config:
    """Of a run whose data has a good row before each that is broken."""
    lines = []
    for number, (broken, _) in enumerate(BROKEN.values()):
        lines.append(json.dumps({**GOOD, "problem": f"what color is number {number} ?"}).encode())
        lines.append(
            broken
            if isinstance(broken, bytes)
            else (broken if isinstance(broken, str) else json.dumps(broken)).encode()
        )
    path = tmp_path_factory.mktemp("broken") / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    options = [f"data.train={path}", f"model.path={tiny_model}", "data.prompt_template=plain_answer"]
    options += ["sampling.max_prompt_tokens=300", "data.max_image_bytes=100000", "model.min_pixels=3136"]
    return load_config(None, options, environment={}).config


@pytest.fixture(scope="module")
def report(config: Config) -> Report:
    rows = Questions(config.data.train[0].path, config.data)
    return check(rows, PromptLengths(config), lambda row: None, lambda index, row: None)


def test_there_are_enough():
    assert len(BROKEN) >= 30


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_row_is_reported_with_its_number_and_reason(kind: str, report: Report):
    row = 2 * list(BROKEN).index(kind) + 1
    said = [line for lines in report.refused.values() for line in lines if re.search(rf"rows.jsonl, row {row}\b", line)]
    assert len(said) == 1, said
    assert BROKEN[kind][1] in said[0]


def test_good_rows_between_them_are_not(report: Report):
    assert report.rows == 2 * len(BROKEN)
    assert report.usable == len(BROKEN)
    assert report.duplicates == []


def test_an_epoch_has_the_good_rows_each_once_and_no_other(config: Config):
    feeder = Feeder(questions(config, PromptLengths(config).check), 0, FeederState())
    asked = [row.question for _, row in feeder.draw(len(BROKEN))]
    assert sorted(asked) == sorted(f"what color is number {number} ?" for number in range(len(BROKEN)))


@pytest.mark.slow
def test_the_command_lists_them_and_its_page_shows_rows_as_they_are(config: Config, tmp_path: Path):
    source, page = config.data.train[0].path, tmp_path / "page.html"
    table = Path(source).with_name("talk.jsonl")
    table.write_text(json.dumps({"messages": turns(("user", "<script>alert(1)</script>"), ("assistant", "no"))}) + "\n")
    result = CliRunner().invoke(app, ["data", "check", str(table), "--page", str(page)])
    assert result.exit_code == 0, result.output
    assert "conversations  1, of which 1 can be used" in result.output
    assert "&lt;script&gt;alert(1)" in page.read_text()
    result = CliRunner().invoke(app, ["data", "check", source, "data.max_image_bytes=100000", "--page", str(page)])
    assert result.exit_code == 1, result.output
    assert f"questions     {2 * len(BROKEN)}, of which {len(BROKEN) + 1} can be used" in result.output, (
        "lengths need a model"
    )
    assert "row 1: the question is empty" in result.output
    assert "is a URL: download it" in page.read_text()


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., str]:
    def write(name: str, *rows: dict[str, Any]) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def invoke(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, ["data", *arguments])
    assert result.exit_code == status, result.output
    return result.output


def test_answers_that_a_grader_cannot_read_and_rows_asked_twice_are_said(rows: Callable[..., str]):
    options = "What? A. red B. blue"
    source = rows(
        "rows",
        {"problem": "1 + 1?", "answer": "2", "data_source": "sums"},
        {"problem": "1 + 1?", "answer": "two", "data_source": "sums"},
        {"problem": options, "answer": "B", "data_source": "options"},
        {"problem": options + " C. green", "answer": "blue", "data_source": "options"},
        {"problem": options + " D. none", "answer": "purple", "data_source": "options"},
        {"problem": "solve", "answer": r"\frac{1}{2}", "data_source": "other"},
        {"problem": "1 + 2?", "answer": "<answer> 3 </answer>", "data_source": "sums"},
        {"problem": "2 + 1?", "answer": r"so \boxed{3}", "data_source": "other"},
    )
    output = invoke("check", source, "reward.grader=math_verify", "reward.graders={sums: numeric, options: choice}")
    assert "row 1 asks what row 0 asks" in output
    assert "answers that no response can match under their grader: 2" in output
    assert "row 6: numeric on '<answer> 3 </answer>': it contains <answer>; keep the answer alone" in output
    assert r"row 7: math_verify on 'so \\boxed{3}': it contains \boxed; keep the answer alone" in output
    assert "answers that their grader cannot read, and compares as text (reward.grader, reward.graders): 2" in output
    assert "row 1: numeric cannot read 'two'" in output
    assert "row 4: choice cannot read 'purple'" in output


@pytest.mark.slow
def test_sizes_are_said_in_full(rows: Callable[..., str]):
    output = invoke("check", rows("rows", {"problem": "what?", "answer": "red", "images": uri(png(1500, 1000))}))
    assert "1,500,000 to 1,500,000, median 1,500,000" in output


def test_a_converted_set_is_the_same_without_settings(rows: Callable[..., str], tmp_path: Path):
    source = rows("rows", {"q": "what?", "a": "red", "pic": uri(png())}, {"q": "1 + 1?", "a": 2}, {"q": "", "a": "x"})
    output = invoke(
        "convert", source, str(tmp_path / "out.parquet"), "data.prompt_key=q", "data.answer_key=a", "data.image_key=pic"
    )
    assert "left out: " in output
    assert "row 2: the question is empty" in output
    found = Questions(str(tmp_path / "out.parquet"), load_config(None, environment={}).config.data)
    assert [(row.question, row.answer, len(row.images)) for row in (found[0], found[1])] == [
        ("what?", "red", 1),
        ("1 + 1?", "2", 0),
    ]
    again = invoke("convert", source, str(tmp_path / "out.parquet"), "data.prompt_key=q", "data.answer_key=a", status=2)
    assert "out.parquet is there already" in again


def test_answers_that_are_nested_and_several_are_converted_to_text(rows: Callable[..., str], tmp_path: Path):
    source = rows("rows", *({"problem": "what?", "reward_model": {"ground_truth": gt}} for gt in (["red", 1], 1, [])))
    options = ["data.answer_key=reward_model.ground_truth", "reward.grader=any_of"]
    output = invoke("convert", source, str(tmp_path / "out.parquet"), *options)
    assert "row 2: the answer is empty" in output
    found = Questions(str(tmp_path / "out.parquet"), load_config(None, environment={}).config.data)
    assert [found[0].answer, found[1].answer, len(found)] == ['["red", "1"]', "1", 2]
    refused = invoke("convert", source, str(tmp_path / "one.parquet"), options[0])
    assert "set reward.graders={rows: any_of}" in " ".join(refused.split())


def test_images_without_a_place_in_their_conversation_are_told_by_the_check(rows: Callable[..., str]):
    said = turns(("user", "<image> what?"), ("assistant", "red"))
    talks = [{"messages": said, "images": [uri(png())] * images} for images in (1, 2, 0)]
    output = invoke("check", rows("talk", *talks), status=1)
    assert "conversations  3, of which 1 can be used" in output
    assert "row 1: 1 <image> markers for 2 images" in output
    assert "row 2: 1 <image> markers for 0 images" in output


def test_a_mixture_is_written_by_weights(rows: Callable[..., str], tmp_path: Path):
    one = rows("one", *({"problem": f"a{i}", "answer": "x"} for i in range(10)))
    two = rows("two", *({"problem": f"b{i}", "answer": "x"} for i in range(3)))
    talk = rows("talk", {"messages": turns(("user", "hi"), ("assistant", "ho"))})
    invoke("mix", str(tmp_path / "out.parquet"), f"{one}=0.5", f"{two}=2")
    found = Questions(str(tmp_path / "out.parquet"), load_config(None, environment={}).config.data)
    asked = [found[index].question for index in range(len(found))]
    assert len(set(asked)) == 5 + 3
    assert len(asked) == 5 + 6
    assert asked != sorted(asked)
    assert {found[index].data_source for index in range(len(found))} == {"one", "two"}
    refused = invoke("mix", str(tmp_path / "b.parquet"), one, talk, status=2)
    assert "questions and conversations cannot be mixed" in refused
    assert "'many' is not a weight" in invoke("mix", str(tmp_path / "c.parquet"), f"{one}=many", status=2)


def test_no_image_is_on_both_sides_of_a_split(rows: Callable[..., str], tmp_path: Path):
    pictures = [uri(png()) for _ in range(12)]
    asked: list[dict[str, Any]] = [
        {"problem": f"{i} <image>", "answer": "x", "images": pictures[i % 12]} for i in range(36)
    ]
    asked += [
        {"problem": f"{i} <image><image>", "answer": "x", "images": [pictures[i], pictures[i + 1]]} for i in (0, 5)
    ]
    asked += [{"problem": "same", "answer": "x"}] * 2
    source = rows("rows", *asked)
    invoke("split", source, str(tmp_path / "halves"), "--held-out", "0.3", "--seed", "3")
    config = load_config(None, environment={}).config.data
    sides = []
    for name in ("train", "held_out"):
        found = Questions(str(tmp_path / "halves" / f"{name}.parquet"), config)
        sides.append([found[index] for index in range(len(found))])
    assert sorted(row.question for side in sides for row in side) == sorted(row["problem"] for row in asked)
    assert 12 <= len(sides[1]) <= 18
    images = [{image for row in side for image in row.images} for side in sides]
    assert not images[0] & images[1]
    assert len({row.question == "same" for row in sides[0]} & {row.question == "same" for row in sides[1]}) == 1
    everything = invoke("split", source, str(tmp_path / "none"), "--held-out", "100", status=2)
    assert "nothing of 40 rows is left to train on" in everything


def test_a_set_without_rows_is_refused(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(DataError, match=r"rows.jsonl has no rows"):
        Questions(str(tmp_path / "rows.jsonl"), load_config(None, environment={}).config.data)
