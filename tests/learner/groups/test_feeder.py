from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from learner.groups.feeder import Feeder, FeederState
from vision_sr1.config import load_config
from vision_sr1.data import DataError, Mixture, QuestionRow, Questions

CONFIG = load_config(None, environment={}).config.data


def feeder(path: Path, **state: Any) -> Feeder:
    return Feeder(Mixture([Questions(str(path), CONFIG)], [1.0], 7), 7, FeederState(**state))


def ids(drawn: list[tuple[str, QuestionRow]]) -> list[str]:
    return [prompt_id for prompt_id, _ in drawn]


def test_an_epoch_has_every_row_once_and_the_next_another_order(shapes: dict[str, Path]):
    f = feeder(shapes["train"])
    first, second = ids(f.draw(64)), ids(f.draw(64))
    assert sorted(first) == sorted(f"0/{i}" for i in range(64))
    assert sorted(second) == sorted(f"1/{i}" for i in range(64))
    assert [i.partition("/")[2] for i in first] != [i.partition("/")[2] for i in second]


def test_a_restored_feeder_goes_on_where_the_saved_one_would(shapes: dict[str, Path]):
    original = feeder(shapes["train"])
    learned = ids(original.draw(20))
    original.learned(learned[:12])
    restored = feeder(shapes["train"], **asdict(original.state))
    assert ids(restored.again()) == learned[12:]
    assert restored.in_flight == 8
    assert ids(restored.draw(30)) == ids(original.draw(30))


@pytest.mark.parametrize("state", [{"position": 41}, {"outstanding": ["0/40"]}])
def test_a_state_of_more_rows_than_there_are_is_refused(tmp_path: Path, shapes: dict[str, Path], state: dict[str, Any]):
    fewer = tmp_path / "fewer.parquet"
    pq.write_table(pq.read_table(shapes["train"]).slice(0, 40), fewer)
    assert feeder(fewer, position=40, outstanding=["1/39"]).draw(1)
    with pytest.raises(DataError, match="an epoch has 40 rows, and the checkpoint has drawn 41 of its own: restore"):
        feeder(fewer, **state)


def test_prompts_yet_to_be_drawn_are_known_and_those_of_strangers_are_not_among_them(shapes: dict[str, Path]):
    f = feeder(shapes["train"])
    drawn = ids(f.draw(60))
    assert not any(map(f.is_to_come, drawn))
    assert sum(f.is_to_come(f"0/{i}") for i in range(64)) == 4
    assert f.is_to_come("1/0")
    assert not any(map(f.is_to_come, ["garbage", "0/64", "-1/3", "normal@3/0", ""]))


def test_rows_that_cannot_be_used_are_skipped(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    answers = ["red", "", None, "blue"]
    pq.write_table(pa.table({"problem": ["q"] * 4, "answer": answers}), tmp_path / "some.parquet")
    assert sorted(ids(feeder(tmp_path / "some.parquet").draw(2))) == ["0/0", "0/3"]
    pq.write_table(pa.table({"problem": ["q"] * 2, "answer": ["", ""]}), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="no row of 2 can be used.*the answer is empty"):
        feeder(tmp_path / "none.parquet").draw(1)


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"question": ["q"], "answer": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"no column 'problem' \(data.prompt_key\); its columns: question, answer"):
        Questions(str(tmp_path / "x.parquet"), CONFIG)
