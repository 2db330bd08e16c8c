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

from vision_sr1.config import ConfigError, DataConfig, load_config
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


def test_a_file_is_read_without_asking_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    monkeypatch.setattr("datasets.load.get_session", lambda: asked.append("a server"))
    (tmp_path / "rows.jsonl").write_text('{"problem": "what?", "answer": "red"}\n')
    assert len(Questions(str(tmp_path / "rows.jsonl"), DataConfig())) == 1
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

    from vision_sr1.chat import render_user_turn
    from vision_sr1.data import QuestionRow
    from vision_sr1.prompts import PromptTemplate

    options = [f"model.path={tiny_model}", f"model.min_pixels={bounds[0]}", f"model.max_pixels={bounds[1]}"]
    config = load_config(None, [*options, "data.prompt_template=plain_answer"], environment={}).config
    images = [encoded(size=size), encoded()]
    row = QuestionRow("what is <image> and <image>?", "red", images, "x", None)
    processor = AutoProcessor.from_pretrained(tiny_model)
    text = render_user_turn(processor.tokenizer, PromptTemplate("plain_answer").answer(row.question, 2), 2)
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
