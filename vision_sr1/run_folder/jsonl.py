"""Files of JSON lines that grow: each line is written at once, and read once it is whole.

A line that is no record, such as one that was cut off by a full disk, is skipped.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vision_sr1.run_folder.atomic import written_whole


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Adds a line, behind one that was cut off too; makes the file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(max(file.tell() - 1, 0))
        end = b"" if file.read() in (b"", b"\n") else b"\n"
        file.write(end + json.dumps(record).encode() + b"\n")


def write(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes a whole file; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as place:
        place.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines; none of a file that is not there."""
    return Tail(path).new()


def drop_incomplete_line(path: Path) -> None:
    """Removes the last line of a file where a process was killed while it wrote that: the next one begins anew."""
    if not path.is_file():
        return
    written = path.read_bytes()
    whole = _whole_lines(written)
    if len(whole) < len(written):
        path.write_bytes(whole)


class Tail:
    """Reads on from where it was.

    Args:
        from_end: begins behind what is there already.
    """

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._path = path
        self._offset = path.stat().st_size if from_end and path.is_file() else 0

    def new(self) -> list[dict[str, Any]]:
        """Whole lines since the last call; a line that is being written comes with the next."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            written = file.read()
        whole = _whole_lines(written)
        self._offset += len(whole)
        return [record for line in whole.splitlines() if isinstance(record := _parsed(line), dict)]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _whole_lines(written: bytes) -> bytes:
    return written[: written.rfind(b"\n") + 1]
