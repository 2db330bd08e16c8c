"""Rows that data sets have in life, and what is said of those that cannot be used."""

import io
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vision_sr1.config import DataConfig
from vision_sr1.data import Conversations, DataError, Questions


def encoded(color: str = "red", kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 16), color).save(data, kind)
    return data.getvalue()


def questions(folder: Path, config: DataConfig | None = None, **columns: list[Any]) -> Questions:
    table = {"problem": ["what is it?"], "answer": ["red"]} | columns
    pq.write_table(pa.table(table), folder / "rows.parquet")
    return Questions(str(folder / "rows.parquet"), config or DataConfig())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"problem": [""]}, "row 0: the question is empty"),
        ({"answer": [None]}, "row 0: the answer is empty"),
        ({"answer": ["  "]}, "row 0: the answer is empty"),
        ({"problem": [b"caf\xe9?"]}, "row 0: the question is not UTF-8.*write the file again"),
        ({"problem": ["a\0b"]}, "row 0: the question has the character NUL at 1"),
        ({"problem": ["<image> and <image>?"], "images": [[{"bytes": encoded()}]]}, "2 <image> markers for 1 images"),
        ({"images": [[{"bytes": b"junk"}]]}, "row 0, image 0: 4 bytes that are not an image"),
        ({"images": [[{"bytes": None, "path": None}]]}, "row 0, image 0: neither bytes nor a path"),
        ({"images": [[{"path": "https://example.org/a.png"}]]}, "is a URL: download it"),
        ({"images": [[{"path": "../outside.png"}]]}, "leads out of .*set data.image_root"),
        ({"images": [[{"path": "/etc/passwd"}]]}, "leads out of"),
        ({"images": [[{"path": "missing.png"}]]}, "no image file .*missing.png"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_reason(tmp_path: Path, columns: dict[str, Any], message: str):
    (tmp_path / "data").mkdir()
    (tmp_path / "outside.png").write_bytes(encoded())
    with pytest.raises(DataError, match=message):
        _ = questions(tmp_path / "data", **columns)[0]


def test_a_link_does_not_lead_out_of_the_folder_either(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(encoded())
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="leads out of"):
        _ = questions(tmp_path / "data", images=[["link.png"]])[0]
    config = DataConfig(image_root=tmp_path)
    assert questions(tmp_path / "data", config, images=[["secret.png"]])[0].images == [encoded()]


def test_images_come_as_bytes_paths_structs_or_the_feature_of_the_datasets_library(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded())
    for images in (
        [[encoded()]],
        [["a.png"]],
        [[{"path": "a.png"}]],
        [[{"bytes": encoded(), "path": "x"}]],
        [{"bytes": encoded()}],
    ):
        assert questions(tmp_path, images=images)[0].images == [encoded()]
    for name, feature, value in (
        ("list", datasets.List(datasets.Image()), [{"bytes": encoded(), "path": None}]),
        ("one", datasets.Image(), {"bytes": encoded(), "path": None}),
    ):
        features = datasets.Features({"problem": datasets.Value("string"), "answer": datasets.Value("string")})
        features["images"] = feature
        rows = {"problem": ["q"], "answer": ["a"], "images": [value]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{name}.parquet")
        assert Questions(str(tmp_path / f"{name}.parquet"), DataConfig())[0].images == [encoded()]


def test_a_wrong_extension_does_not_matter_an_image_is_what_its_bytes_say(tmp_path: Path):
    jpeg = encoded(kind="JPEG")
    (tmp_path / "a.png").write_bytes(jpeg)
    (tmp_path / "text.png").write_text("no image at all")
    rows = questions(tmp_path, problem=["a?", "b?"], answer=["a", "b"], images=[["a.png"], ["text.png"]])
    assert rows[0].images == [jpeg]
    with pytest.raises(DataError, match="row 1, image 0: 15 bytes that are not an image"):
        _ = rows[1]


def test_latex_and_numbers_are_answers(tmp_path: Path):
    rows = questions(tmp_path, answer=[r"$\frac{1}{2}\left(x^2\right)$"])
    assert rows[0].answer == r"$\frac{1}{2}\left(x^2\right)$"
    assert questions(tmp_path, answer=[0])[0].answer == "0"


def test_a_file_that_is_no_parquet_is_said_so(tmp_path: Path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"rows.parquet is not a readable parquet file"):
        Questions(str(tmp_path / "rows.parquet"), DataConfig())


def test_a_conversation_without_text_is_refused(tmp_path: Path):
    messages = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]]
    pq.write_table(pa.table({"messages": messages}), tmp_path / "talk.parquet")
    with pytest.raises(DataError, match="row 0: message 1 is empty"):
        _ = Conversations(str(tmp_path / "talk.parquet"), DataConfig())[0]
