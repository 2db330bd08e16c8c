"""Names of data sets: what is there is read under whatever name it has, what is not is said to be missing."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from vision_sr1.cli.main import app
from vision_sr1.config import ConfigError, DataConfig, load_config
from vision_sr1.data import DataError, Questions

NAMES = [
    *(
        "rows[1]",
        "rows[a-b]",
        "[!x]",
        "a*b",
        "a?b",
        "{a,b}",
        "a b",
        "a@b",
        "a=b",
        "ü",
        "a%20b",
        "-a",
        "a'b",
        "~a",
        "#a",
    ),
    *("me@home/rows", "lr=1e-3/rows", "a[1]/rows", ".hidden/rows", "__x__/rows", "a b/c@d/e=f/rows"),
]


def write(path: Path, *answers: str) -> str:
    """Rows with these answers, in the kind of file that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.lower()
    if kind == ".parquet":
        pq.write_table(pa.table({"problem": ["what?"] * len(answers), "answer": list(answers)}), path)
        return str(path)
    rows = [json.dumps({"problem": "what?", "answer": answer}) for answer in answers]
    text = f"[{','.join(rows)}]" if kind == ".json" else "".join(row + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if kind == ".gz" else text.encode())
    return str(path)


def answers(source: str) -> list[str]:
    rows = Questions(source, DataConfig())
    return [rows[index].answer for index in range(len(rows))]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_file_of_any_name_is_read(tmp_path: Path, name: str, kind: str):
    assert answers(write(tmp_path / f"{name}.{kind}", "x", "y")) == ["x", "y"]


@pytest.mark.parametrize("ending", ["JSONL", "Json", "PARQUET", "NDJSON", "jsonl.GZ", "JSON"])
def test_endings_may_have_capitals(tmp_path: Path, ending: str):
    assert answers(write(tmp_path / f"rows.{ending}", "x")) == ["x"]


def test_the_home_folder_has_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    write(tmp_path / "rows.jsonl", "x")
    assert answers("~/rows.jsonl") == ["x"]
    assert answers("~/row*.jsonl") == ["x"]
    (tmp_path / "rows.jsonl").write_text('{"problem": "what?", "answer": "x", "images": "a.png"}')
    assert len(Questions("~/rows.jsonl", DataConfig())[0].images) == 1
    assert len(Questions("~/rows.jsonl", DataConfig(image_root=Path("~")))[0].images) == 1
    with pytest.raises(DataError, match=f"no file {tmp_path}/none.jsonl"):
        Questions("~/none.jsonl", DataConfig())


@pytest.mark.parametrize(
    ("pattern", "read"),
    [
        ("part-*.jsonl", ["a", "b"]),
        ("set-*/part.jsonl", ["c", "d"]),
        ("**/part.jsonl", ["c", "d"]),
        ("*@home/part-*.jsonl", ["e"]),
        ("me@home/part-*.jsonl", ["e"]),
        ("x[1]/part-*.jsonl", ["f"]),
        ("x[[]1]/part-*.jsonl", ["f"]),
        ("part-[0-1].jsonl", ["a"]),
        ("tables/*.parquet", ["g"]),
        ("tables", ["g"]),
    ],
)
def test_patterns_name_files_in_one_folder_or_several(tmp_path: Path, pattern: str, read: list[str]):
    write(tmp_path / "part-0.jsonl")  # an empty shard
    write(tmp_path / "part-1.jsonl", "a")
    write(tmp_path / "part-2.jsonl", "b")
    write(tmp_path / "set-1" / "part.jsonl", "c")
    write(tmp_path / "set-2" / "part.jsonl", "d")
    write(tmp_path / "me@home" / "part-1.jsonl", "e")
    write(tmp_path / "x[1]" / "part-1.jsonl", "f")
    write(tmp_path / "tables" / "part-1.parquet", "g")
    untyped = pa.table({"problem": pa.array([], pa.null()), "answer": pa.array([], pa.null())})
    pq.write_table(untyped, tmp_path / "tables" / "part-0.parquet")
    assert answers(str(tmp_path / pattern)) == read


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_paths_of_images_start_from_the_folder_of_their_own_file(tmp_path: Path, kind: str):
    encoded = {}
    for folder, color in (("set-1", "red"), ("set-2", "blue"), ("me@home", "green")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8), color).save(tmp_path / folder / "a.png")
        encoded[folder] = (tmp_path / folder / "a.png").read_bytes()
        row = {"problem": "what?", "answer": "x", "images": "a.png"}
        if kind == "jsonl":
            (tmp_path / folder / "rows.jsonl").write_text(json.dumps(row))
        elif kind == "csv":
            (tmp_path / folder / "rows.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
        else:
            pq.write_table(pa.Table.from_pylist([row]), tmp_path / folder / "rows.parquet")
    rows = Questions(str(tmp_path / f"set-*/rows.{kind}"), DataConfig())
    assert [rows[i].images for i in range(2)] == [[encoded["set-1"]], [encoded["set-2"]]]
    for source in (f"me@home/rows.{kind}", f"me@home/*.{kind}", "me@home", "me@home@train"):
        assert Questions(str(tmp_path / source), DataConfig())[0].images == [encoded["me@home"]], source


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.jsonl", "no file .*none.jsonl"),
        ("me@home/none.jsonl", "no file .*me@home/none.jsonl"),
        ("none-*.jsonl", r"no data file matches .*none-\*.jsonl"),
        ("none[1].jsonl", r"no data file matches .*none\[1\].jsonl"),
        ("fold*", r"only folders match .*fold\*"),
        ("none", "no file or folder .*none"),
        ("none@test", "no file or folder .*none"),
        ("rows.jsonl@test", "rows.jsonl is a file and has no splits: leave @test out"),
        ("rows.xlsx", "rows.xlsx: files with this ending are not read; known: .parquet"),
        ("rows.jsonl.zst", "rows.jsonl.zst: files with this ending are not read"),
        ("rows.parquet.gz", "rows.parquet.gz: files with this ending are not read"),
        ("rows", "rows: files with this ending are not read"),
        ("row*", "files with this ending are not read"),
        ("mixed.*", r"mixed.\*: files of several kinds \(csv, jsonl\)"),
        ("folder", "folder: the datasets library finds no data files"),
        ("cut.jsonl.gz", "cut.jsonl.gz is not a readable jsonl file: "),
        ("text.json.gz", "text.json.gz is not a readable json file: Not a gzipped file"),
        ("broken.json", "broken.json is not a readable json file: "),
        ("wide.jsonl", "no line that is a JSON object; .*row 0: not UTF-8"),
        ("blank.jsonl", "blank.jsonl has no rows"),
        ("zero.parquet", "zero.parquet is not a readable parquet file: .*0 bytes"),
        ("a::b.parquet", "rename it"),
    ],
)
def test_what_is_not_read_is_refused_with_the_truth(tmp_path: Path, name: str, message: str):
    whole = Path(write(tmp_path / "rows.jsonl.gz", *map(str, range(99)))).read_bytes()
    for other in ("rows.xlsx", "rows.jsonl.zst", "rows.parquet.gz", "rows"):
        (tmp_path / other).write_bytes(b"x")
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    (tmp_path / "text.json.gz").write_bytes(b"[]")
    (tmp_path / "broken.json").write_bytes(b'[{"problem": "what?"},')
    (tmp_path / "wide.jsonl").write_bytes('{"problem": "what?", "answer": "x"}\n'.encode("utf-16"))
    (tmp_path / "blank.jsonl").write_bytes(b"\n \n\n")
    (tmp_path / "zero.parquet").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    write(tmp_path / "rows.jsonl", "x")
    write(tmp_path / "a::b.parquet", "x")
    write(tmp_path / "mixed.jsonl", "x")
    (tmp_path / "mixed.csv").write_text("problem,answer\n")
    with pytest.raises(DataError, match=message):
        Questions(str(tmp_path / name), DataConfig())


@pytest.mark.parametrize("name", ["./none", "../none", "a/b/c", "~/none", "/none"])
def test_a_path_is_no_name_on_a_hub(name: str, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    monkeypatch.setattr("datasets.load_dataset", lambda *names, **_: asked.append(names[0]))
    with pytest.raises(DataError, match="no file or folder"):
        Questions(name, DataConfig())
    assert asked == []


def test_marks_and_blank_lines(tmp_path: Path):
    mark, row = "\ufeff", '{"problem": "what?", "answer": "x"}'
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{mark}{row}\r\n\n{mark}{row}\n \n\n")
    rows = Questions(str(path), DataConfig())
    assert [rows[0].answer, rows[2].answer, len(rows)] == ["x", "x", 3]
    with pytest.raises(DataError, match="row 1: .*the line is blank; remove it"):
        _ = rows[1]
    (tmp_path / "rows.json").write_text(f"{mark} \n[{row}]\n\n")
    assert answers(str(tmp_path / "rows.json")) == ["x"]
    (tmp_path / "rows.json").write_text(f"{mark}{row}\n{row}\n\n")
    assert answers(str(tmp_path / "rows.json")) == ["x", "x"]


def test_a_file_that_changed_is_read_again(tmp_path: Path):
    for answer in ("x", "yy"):
        assert answers(write(tmp_path / "rows.jsonl", answer)) == [answer]


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ("a=b/rows.jsonl", 2),
        ("a=b/rows.jsonl=2", 4),
        ("a=2", 2),
        ("a=b/row*.jsonl=0.5", 1),
        ("rows=2.jsonl", 2),
        ("a=2=3", 6),
    ],
)
def test_a_weight_is_what_follows_a_name(tmp_path: Path, source: str, rows: int):
    for name in ("a=b/rows.jsonl", "a=2/rows.jsonl", "rows=2.jsonl"):
        write(tmp_path / name, "x", "y")
    out = tmp_path / "out.parquet"
    result = CliRunner().invoke(app, ["data", "mix", str(out), str(tmp_path / source)])
    assert result.exit_code == 0, result.output
    assert len(answers(str(out))) == rows


@pytest.mark.parametrize("weight", ["many", "0", "-1", "nan", "inf", ""])
def test_a_weight_is_a_finite_number_above_0(tmp_path: Path, weight: str):
    source = write(tmp_path / "rows.jsonl", "x")
    result = CliRunner().invoke(app, ["data", "mix", str(tmp_path / "out.parquet"), f"{source}={weight}"])
    assert result.exit_code == 2, result.output
    assert "is not a weight; give a number above 0" in " ".join(result.output.split())


@pytest.mark.parametrize("weight", [".nan", ".inf"])
def test_a_weight_of_the_configuration_is_finite(weight: str):
    with pytest.raises(ConfigError, match="weight"):
        load_config(None, [f"data.train=[{{path: a, weight: {weight}}}]"], environment={})
