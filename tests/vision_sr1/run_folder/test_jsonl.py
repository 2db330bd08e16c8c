"""Files of JSON lines, also where a line was cut off."""

from pathlib import Path

from vision_sr1.run_folder.jsonl import Tail, append, read
from vision_sr1.run_folder.ledger import Ledger, read_ledger
from vision_sr1.run_folder.names import LEDGER


def test_lines_are_appended_and_read_on(tmp_path: Path):
    file = tmp_path / "new" / "lines.jsonl"
    tail = Tail(file)
    for number in (1, 2):
        append(file, {"a": number})
        assert tail.new() == [{"a": number}]
    assert read(file) == [{"a": 1}, {"a": 2}]


def test_a_line_behind_one_that_was_cut_off_is_whole(tmp_path: Path):
    ledger = Ledger(tmp_path)
    ledger.record(1, 1, {"0/1": 2})
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(b'{"batch": 2, "pol')
    ledger.record(2, 2, {"0/2": 2})
    assert read_ledger(tmp_path) == {1: {"0/1": 2}, 2: {"0/2": 2}}
