"""The forms in which others publish their data: schemas, files, splits, several sets at once."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from learner.model.sequences import SequenceBuilder, SequenceError
from vision_sr1.config import ConfigError, DataConfig, ModelConfig, load_config
from vision_sr1.data import Conversations, DataError, Mixture, Questions, conversations, questions
from vision_sr1.data.lengths import PromptLengths


def encoded(color: str = "red", size: tuple[int, int] = (16, 16)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, color).save(data, "PNG")
    return data.getvalue()


def lines(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def hub_like(folder: Path) -> datasets.Dataset:
    """Rows as Vision-SR1-47K has them: a list of images, some rows without."""
    features = datasets.Features(
        {
            "problem": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
        }
    )
    rows = [
        {"problem": "<image>What?", "answer": "red", "images": [{"bytes": encoded(), "path": None}]},
        {"problem": "1 + 1?", "answer": "2", "images": []},
        {"problem": "2 + 2?", "answer": "4", "images": None},
        {"problem": "Is <image> like <image>?", "answer": "no", "images": [encoded(), encoded("blue")]},
    ]
    return datasets.Dataset.from_list(rows, features=features)


def written(rows: datasets.Dataset, folder: Path, kind: str) -> str:
    """The same rows in a file or folder of some kind."""
    if kind == "parquet":
        rows.to_parquet(folder / "rows.parquet")
        return str(folder / "rows.parquet")
    if kind == "several parquet files":
        for part in range(2):
            rows.select(range(2 * part, 2 * part + 2)).to_parquet(folder / f"rows-{part}.parquet")
        return str(folder / "rows-*.parquet")
    if kind == "a folder with splits":
        (folder / "set" / "data").mkdir(parents=True)
        rows.to_parquet(folder / "set" / "data" / "test-00000-of-00001.parquet")
        return f"{folder / 'set'}@test"
    if kind == "saved":
        rows.save_to_disk(folder / "saved")
        return str(folder / "saved")
    if kind == "saved splits":
        datasets.DatasetDict({"train": rows.select([1]), "test": rows}).save_to_disk(folder / "saved")
        return f"{folder / 'saved'}@test"
    if kind == "arrow":
        rows.save_to_disk(folder / "saved")
        return str(next((folder / "saved").glob("*.arrow")))
    uri = "data:image/png;base64,"
    plain = [
        {**row, "images": [uri + base64.b64encode(image["bytes"]).decode() for image in row["images"] or []]}
        for row in rows.cast_column("images", datasets.List(datasets.Image(decode=False)))
    ]
    if kind == "jsonl":
        return lines(folder / "rows.jsonl", *plain)
    (folder / "rows.json").write_text(json.dumps(plain))
    return str(folder / "rows.json")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet", "rows.csv", "*.arrow", "set"])
def test_a_file_is_read_without_asking_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    asked: list[str] = []
    monkeypatch.setattr("datasets.load.get_session", lambda: asked.append("a server"))
    monkeypatch.setattr("socket.socket.connect", lambda _, address: asked.append(str(address)))
    rows = datasets.Dataset.from_dict({"problem": ["what?"], "answer": ["red"]})
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.save_to_disk(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).rename(tmp_path / "rows.arrow")
    (tmp_path / "rows.csv").write_text("problem,answer\nwhat?,red\n")
    (tmp_path / "set").mkdir()
    for name_of_json in ("rows.jsonl", "rows.json", "set/rows.jsonl"):
        (tmp_path / name_of_json).write_text('{"problem": "what?", "answer": "red"}\n')
    assert Questions(str(tmp_path / name), DataConfig())[0].answer == "red"
    assert asked == []


@pytest.mark.parametrize(
    "kind",
    [
        *("parquet", "several parquet files", "arrow", "jsonl", "json"),
        *("a folder with splits", "saved", "saved splits"),
    ],
)
def test_the_same_rows_are_read_from_every_kind_of_file(tmp_path: Path, kind: str):
    rows = Questions(written(hub_like(tmp_path), tmp_path, kind), DataConfig())
    assert [rows[i].question for i in range(4)] == ["<image>What?", "1 + 1?", "2 + 2?", "Is <image> like <image>?"]
    assert [rows[i].answer for i in range(4)] == ["red", "2", "4", "no"]
    assert [rows[i].images for i in range(4)] == [[encoded()], [], [], [encoded(), encoded("blue")]]


@pytest.mark.parametrize("kind", ["a folder with splits", "saved splits"])
def test_a_split_that_is_not_there_is_named(tmp_path: Path, kind: str):
    place = written(hub_like(tmp_path), tmp_path, kind).replace("@test", "@tset")
    with pytest.raises(DataError, match=r"split 'tset'.*test"):
        Questions(place, DataConfig())


@pytest.mark.parametrize(
    ("row", "question", "images"),
    [
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]},
            "<image>What?",
            [encoded()],
        ),
        (
            {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]},
            "What?",
            [encoded()],
        ),
        (
            {
                "prompt": [{"role": "user", "content": [{"type": "image", "image": "b.png"}, {"type": "image"}]}],
                "image": None,
            },
            "<image><image>",
            None,
        ),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image", "image": "b.png"}]}]},
            "<image>",
            [encoded("blue")],
        ),
    ],
)
def test_questions_as_trl_has_them(tmp_path: Path, row: dict[str, Any], question: str, images: list[bytes] | None):
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "b.png").write_bytes(encoded("blue"))
    path = lines(tmp_path / "rows.jsonl", {"solution": "red", "image": "a.png", **row})
    rows = Questions(path, DataConfig(prompt_key="prompt", answer_key="solution", image_key="image"))
    if images is None:
        with pytest.raises(DataError, match="2 <image> markers for 1 images"):
            _ = rows[0]
        return
    assert rows[0].question == question
    assert rows[0].images == images


@pytest.mark.parametrize(
    ("row", "roles", "text"),
    [
        (
            {"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Red."}]},
            "user assistant",
            "<image>What?",
        ),
        (
            {"conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]},
            "user assistant",
            "<image>\nWhat?",
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
                    {"role": "user", "content": [{"type": "text", "text": "What? "}, {"type": "image"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": "Red."}]},
                ]
            },
            "system user assistant",
            "Be brief.",
        ),
        (
            {
                "prompt": [{"role": "user", "content": "<image>What?"}],
                "completion": [{"role": "assistant", "content": "Red."}],
            },
            "user assistant",
            "<image>What?",
        ),
    ],
)
@pytest.mark.parametrize("key", ["images", "image"])
def test_conversations_of_every_form(tmp_path: Path, row: dict[str, Any], roles: str, text: str, key: str):
    (tmp_path / "a.png").write_bytes(encoded())
    found = Conversations(lines(tmp_path / "rows.jsonl", {key: "a.png", **row}), DataConfig())[0]
    assert [message["role"] for message in found.messages] == roles.split()
    assert found.messages[0]["content"] == text
    assert found.images == [encoded()]


def test_conversations_of_no_known_form_are_said_so(tmp_path: Path):
    with pytest.raises(
        DataError, match=r"no conversations \(messages, conversations, prompt and completion\).*: dialog"
    ):
        Conversations(lines(tmp_path / "rows.jsonl", {"dialog": []}), DataConfig())


def mixture(folder: Path, *weights: float) -> Mixture[Any]:
    sources: list[dict[str, Any]] = []
    for name, rows in (("a", 10), ("b", 4)):
        table = {"problem": [f"{name}{i}" for i in range(rows)], "answer": ["x"] * rows}
        pq.write_table(pa.table(table), folder / f"{name}.parquet")
        sources.append({"path": str(folder / f"{name}.parquet"), "weight": weights[len(sources)]})
    options = [f"data.train={json.dumps(sources)}", "run.seed=3"]
    return questions(load_config(None, options, environment={}).config)


def epoch(rows: Mixture[Any], number: int) -> list[str]:
    return [rows.at(number, index).question for index in range(len(rows))]


@pytest.mark.slow
def test_a_mixture_takes_of_each_set_what_its_weight_says(tmp_path: Path):
    rows = mixture(tmp_path, 1, 2)
    assert epoch(rows, 0) == epoch(rows, 1) == [f"a{i}" for i in range(10)] + 2 * [f"b{i}" for i in range(4)]
    rows = mixture(tmp_path, 0.3, 1.5)
    seen = [row for number in range(10) for row in epoch(rows, number)]
    assert len(seen) == 10 * (3 + 6)
    assert {seen.count(f"a{i}") for i in range(10)} == {3}
    assert {seen.count(f"b{i}") for i in range(4)} == {15}
    assert epoch(rows, 0)[:3] != ["a0", "a1", "a2"], "a part of a set is no beginning of it"
    assert epoch(mixture(tmp_path, 0.3, 1.5), 7) == epoch(rows, 7)


def test_sets_are_given_by_path_with_weight_or_both(tmp_path: Path):
    for given in ("a.parquet", "[a.parquet]", "{path: a.parquet}", "[{path: a.parquet, weight: 1}]"):
        config = load_config(None, [f"data.sft={given}"], environment={}).config
        assert [(source.path, source.weight) for source in config.data.sft] == [("a.parquet", 1.0)]
    with pytest.raises(ConfigError, match="weight: .*greater than 0"):
        load_config(None, ["data.train=[{path: a, weight: -1}]"], environment={})
    with pytest.raises(ConfigError, match=r"unknown key data.train\[0\].wieght: did you mean"):
        load_config(None, ["data.train=[{path: a, wieght: 1}]"], environment={})
    (tmp_path / "talk.jsonl").write_text('{"messages": [{"role": "assistant", "content": "x"}]}\n' * 3)
    sources = DataConfig.model_validate({"sft": [str(tmp_path / "talk.jsonl")]}).sft
    assert len(conversations(sources, DataConfig(), 0)) == 3
    with pytest.raises(DataError, match="no row of the data is left"):
        Mixture([["row"]], [0.1], 0)


@pytest.mark.parametrize("size", [(16, 16), (56, 84), (31, 200), (400, 300)])
@pytest.mark.parametrize("bounds", [(3136, 3136), (784, 12_544), (50_176, 200_704)])
def test_the_tokens_of_a_prompt_are_known_beforehand(tiny_model: Path, size: tuple[int, int], bounds: tuple[int, int]):
    """As the model's own processor expands text and images."""
    from transformers import AutoProcessor

    from vision_sr1.data import QuestionRow
    from vision_sr1.prompting.chat import Chat
    from vision_sr1.prompting.prompt_template import PromptTemplate

    options = [f"model.path={tiny_model}", f"model.min_pixels={bounds[0]}", f"model.max_pixels={bounds[1]}"]
    config = load_config(None, [*options, "data.prompt_template=plain_answer"], environment={}).config
    images = [encoded(size=size), encoded()]
    row = QuestionRow("what is <image> and <image>?", "red", images, "x", None)
    processor = AutoProcessor.from_pretrained(tiny_model)
    text = Chat(processor.tokenizer).user_turn(PromptTemplate("plain_answer").answer(row.question, 2), 2)
    pictures = [Image.open(io.BytesIO(image)) for image in images]
    edges = {"shortest_edge": bounds[0], "longest_edge": bounds[1]}
    expanded = processor(text=[text], images=pictures, images_kwargs={"size": edges}, return_tensors="pt")
    assert PromptLengths(config).tokens(row) == expanded["input_ids"].shape[1]


def test_a_prompt_that_is_too_long_is_refused_with_its_numbers(tiny_model: Path, tmp_path: Path):
    rows = [{"problem": f"what{' is' * n}?", "answer": "red", "images": []} for n in (1, 300)]
    options = [f"model.path={tiny_model}", "sampling.max_prompt_tokens=100", "data.prompt_template=plain_answer"]
    options.append(f"data.train={lines(tmp_path / 'rows.jsonl', *rows)}")
    config = load_config(None, options, environment={}).config
    read = questions(config, PromptLengths(config).check)
    assert read.at(0, 0).question == "what is?"
    with pytest.raises(DataError, match=r"row 1: 3\d\d tokens, 0 of them for images; 100 are allowed") as e:
        read.at(0, 1)
    assert e.value.reason == "length"


def bare(data: bytes) -> str:
    return base64.b64encode(data).decode()


PNG = encoded()
URI = f"data:image/png;base64,{bare(PNG)}"
STORED: dict[str, Any] = {
    "a path": "a.png",
    "a file URL": "file://FOLDER/a.png",
    "a data URI": URI,
    "a data URI without a type": f"data:;base64,{bare(PNG)}",
    "a data URI of Qwen's": f"data:image;base64,{bare(PNG)}",
    "a data URI in capitals": f"DATA:IMAGE/PNG;BASE64,{bare(PNG)}",
    "a data URI with a parameter": f"data:image/png;name=a.png;base64,{bare(PNG)}",
    "base64": bare(PNG),
    "base64 in lines": "\n".join(bare(PNG)[start : start + 76] for start in range(0, len(bare(PNG)), 76)) + "\n",
    "base64 without its padding": bare(PNG).rstrip("="),
    "a struct with a path": {"path": "a.png"},
    "a struct with base64 as bytes": {"bytes": bare(PNG), "path": None},
    "a struct with base64": {"base64": bare(PNG)},
    "OpenAI's struct": {"url": URI, "detail": "low"},
}
PARTS: dict[str, dict[str, Any]] = {
    "OpenAI's": {"type": "image_url", "image_url": {"url": URI}},
    "OpenAI's with a path": {"type": "image_url", "image_url": {"url": "a.png", "detail": "auto"}},
    "OpenAI's without a struct": {"type": "image_url", "image_url": URI},
    "that of OpenAI's responses": {"type": "input_image", "image_url": URI},
    "that of transformers": {"type": "image", "url": URI},
    "that of transformers with base64": {"type": "image", "base64": bare(PNG)},
    "Qwen's": {"type": "image", "image": "a.png"},
    "with a struct": {"type": "image", "image": {"bytes": None, "path": "a.png"}},
    "one whose image is in the column": {"type": "image_url", "image_url": None},
}


@pytest.mark.parametrize("name", STORED)
def test_images_are_stored_in_any_of_these_ways(tmp_path: Path, name: str):
    (tmp_path / "a.png").write_bytes(PNG)
    stored = STORED[name]
    if name == "a file URL":
        stored = stored.replace("FOLDER", str(tmp_path))
    rows = [{"problem": "what?", "answer": "x", "images": images} for images in (stored, [stored, stored])]
    read = Questions(lines(tmp_path / "rows.jsonl", *rows), DataConfig())
    assert [read[index].images for index in range(2)] == [[PNG], [PNG, PNG]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_base64_of_every_format_is_an_image(tmp_path: Path, kind: str):
    data = io.BytesIO()
    Image.effect_noise((20, 20), 60).convert("RGB").save(data, kind)
    row = {"problem": "what?", "answer": "x", "images": bare(data.getvalue())}
    assert len(Questions(lines(tmp_path / "rows.jsonl", row), DataConfig())[0].images) == 1


def test_an_image_whose_path_is_a_loop_of_links_is_refused(tmp_path: Path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    read = Questions(
        lines(tmp_path / "rows.jsonl", {"problem": "?", "answer": "x", "images": "loop.png"}), DataConfig()
    )
    with pytest.raises(DataError, match=r"row 0, image 0: 'loop.png' is a link that leads back to itself"):
        read[0]


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("iVBORw0KGgo" + "A" * 5000 + "!", "is neither a path nor an image in base64"),
        ("A" * 5000, "is neither a path nor an image in base64"),
        ("A" * 300, "cannot be read: File name too long"),
        ("half\ud800", "cannot be read: surrogates not allowed"),
        (bare(b"\x89PNG\r\n\x1a\n\0\0\0\r" + b"x" * 99), "111 bytes that are not an image"),
        ("data:image/png,abc", "is a data URI without ;base64"),
        ("data:image/png;base64,a", "is not base64"),
        ("file:///etc/passwd", "leads out of"),
        ("file://[a.png", "is not a file URL"),
        ("https://example.org/a.png", "is a URL: download it"),
        ({"url": "https://example.org/a.png"}, "is a URL: download it"),
        ({"bytes": None, "path": None}, "neither bytes nor a path"),
        ({"path": {"path": {}}}, "neither bytes nor a path"),
    ],
)
def test_images_that_are_stored_otherwise_are_refused(tmp_path: Path, stored: Any, message: str):
    row = {"problem": "what?", "answer": "x", "images": [stored]}
    read = Questions(lines(tmp_path / "rows.jsonl", row), DataConfig())
    with pytest.raises(DataError, match=f"row 0, image 0: .*{message}") as refused:
        _ = read[0]
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_messages_have_images_in_any_of_these_parts(tmp_path: Path, name: str, kind: str):
    (tmp_path / "a.png").write_bytes(PNG)
    content = [{"type": "text", "text": "What is "}, PARTS[name], {"type": "text", "text": "?"}]
    asked = [{"role": "user", "content": content}]
    replied = [{"role": "assistant", "content": [{"type": "text", "text": "Red."}]}]
    question = {"problem": asked, "answer": "red", "images": ["a.png"]}
    talk = {"messages": [*asked, *replied], "images": ["a.png"]}
    if kind == "parquet":
        for place, row in (("question", question), ("talk", talk)):
            pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{place}.parquet")
    else:
        lines(tmp_path / "question.jsonl", question)
        lines(tmp_path / "talk.jsonl", talk)
    read = Questions(str(tmp_path / f"question.{kind}"), DataConfig())[0]
    assert (read.question, read.images) == ("What is <image>?", [PNG])
    said = Conversations(str(tmp_path / f"talk.{kind}"), DataConfig())[0]
    assert (said.messages[0]["content"], said.images) == ("What is <image>?", [PNG])


TALKS: dict[str, tuple[list[str], int, str | None]] = {  # turns, images, and why they do not fit
    "no images": (["user: what ?", "assistant: red"], 0, None),
    "an image and no marker": (["user: what ?", "assistant: red"], 1, None),
    "an image and no marker, after a system turn": (["system: count .", "user: what ?", "assistant: red"], 2, None),
    "a marker each": (["user: <image> what ?", "assistant: red", "user: <image> ?", "assistant: blue"], 2, None),
    "a marker in the system's turn": (["system: <image> .", "user: what ?", "assistant: red"], 1, None),
    "a question behind": (["user: <image> what ?", "assistant: red", "user: and ?"], 1, None),
    "more markers": (["user: <image> <image> what ?", "assistant: red"], 1, "2 <image> markers for 1 images"),
    "fewer markers": (["user: <image> what ?", "assistant: red"], 2, "1 <image> markers for 2 images"),
    "a marker and no image": (["user: <image> what ?", "assistant: red"], 0, "1 <image> markers for 0 images"),
    "a marker in a reply": (["user: what ?", "assistant: <image> red"], 1, "0 of 1 images are in a turn that is"),
    "a marker behind": (
        ["user: what ?", "assistant: red", "user: <image> ?"],
        1,
        "0 of 1 images are in a turn that is",
    ),
    "a system turn alone": (["system: count .", "assistant: red"], 1, "0 of 1 images are in a turn that is"),
    "only a reply": (["assistant: red"], 0, "the conversation begins with an assistant turn"),
    "a reply before the question": (["assistant: red", "user: what ?", "assistant: red"], 0, "the conversation begins"),
}


@pytest.mark.parametrize("name", TALKS)
def test_a_conversation_is_refused_here_where_training_refuses_it(tmp_path: Path, tiny_model: Path, name: str):
    turns, images, message = TALKS[name]
    said = [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]
    pictures = [encoded(size=(56, 56))] * images
    row = {"messages": said, "images": [bare(picture) for picture in pictures]}
    read = Conversations(lines(tmp_path / "talk.jsonl", row), DataConfig())
    builder = SequenceBuilder(ModelConfig(path=str(tiny_model), min_pixels=3136, max_pixels=3136, max_model_len=256))
    if message is None:
        assert builder.from_messages(read[0].messages, read[0].images).is_image.any() == bool(images)
        return
    with pytest.raises(DataError, match=f"talk.jsonl, row 0: {message}") as refused:
        _ = read[0]
    assert refused.value.reason == "row"
    with pytest.raises(SequenceError):
        builder.from_messages(said, pictures)
