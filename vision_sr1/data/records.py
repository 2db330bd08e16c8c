"""Rows of text files, JSON and CSV, as their author wrote them: numbers keep their digits, and no type is guessed."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vision_sr1.data.errors import DataError
from vision_sr1.data.sources import kind_of

_Stream = gzip.GzipFile | io.BufferedReader
_MARK = "\ufeff"  # that some editors put before UTF-8


class NoRowsError(DataError):
    """Files without a row."""


def records(files: tuple[tuple[str, int, int], ...]) -> Iterator[dict[str, bytes]]:
    """Each row of the files as the JSON of an object, unread; of JSON Lines as it stands there.

    Blank lines at the end of a file are no rows.

    Args:
        files: path, size and time of change, by which rows are cached.

    Raises:
        NoRowsError: none has a row.
        DataError: a file cannot be divided into rows.
    """
    is_empty = True
    for file, *_ in files:
        try:
            with _opened(file) as stream:
                for record in _divided(file, stream):
                    is_empty = False
                    yield {"record": record}
        except DataError:
            raise
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8: {error}; write the file again in UTF-8") from error
        except (ValueError, RecursionError, EOFError, OSError, zlib.error, csv.Error) as error:
            raise DataError(f"{file} is not a readable {kind_of(file)} file: {error}") from error
    if is_empty:
        raise NoRowsError(f"{', '.join(file for file, *_ in files)}: no rows")


def parsed(record: bytes, where: str) -> dict[str, Any]:
    """A row of `records`. Numbers with a fraction or an exponent are texts, digit for digit.

    Raises:
        DataError: it is not UTF-8, not JSON, or not an object.
    """
    try:
        text = record.decode()
    except UnicodeDecodeError as error:
        place = len(record[: error.start].decode())
        raise DataError(f"{where}: not UTF-8 at character {place}; write the file again in UTF-8", "text") from error
    if not text.strip():
        raise DataError(f"{where}: not JSON: the line is blank; remove it", "row")
    try:
        row = json_value(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}", "row") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: {text[:40]!r} is not a JSON object", "row")
    return row


def json_value(text: str) -> Any:
    """JSON with numbers of a fraction or an exponent as texts, digit for digit.

    Raises:
        ValueError: it is not JSON, or an object has a name twice.
        RecursionError: it is nested too deep.
    """
    return json.loads(text, parse_float=str, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has {max(names, key=names.count)!r} more than once")
    return found


def _opened(file: str) -> _Stream:
    return gzip.open(file) if file.lower().endswith(".gz") else Path(file).open("rb")


def _divided(file: str, stream: _Stream) -> Iterator[bytes]:
    kind = kind_of(file)
    if kind in ("csv", "tsv"):
        return _cells(file, stream, "," if kind == "csv" else "\t")
    if kind == "json" and stream.read(256).removeprefix(_MARK.encode()).lstrip().startswith(b"["):
        stream.seek(0)
        return _elements(stream.read().decode("utf-8-sig"))
    stream.seek(0)
    return _lines(stream)


def _lines(stream: _Stream) -> Iterator[bytes]:
    blank: list[bytes] = []
    for line in stream:
        record = line.rstrip(b"\r\n").removeprefix(_MARK.encode())
        if not record.strip():
            blank.append(record)
            continue
        yield from blank
        blank = []
        yield record


def _elements(text: str) -> Iterator[bytes]:
    """Elements of the one list that a file is."""
    for row in json_value(text):
        yield json.dumps(row).encode()


def _cells(file: str, stream: _Stream, delimiter: str) -> Iterator[bytes]:
    """Rows of a table whose first line names the columns; an empty cell is no value."""
    csv.field_size_limit(sys.maxsize)  # an image may be in a cell
    with io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        names = next(rows, [])
        if len(set(names)) < len(names):
            raise DataError(f"{file}: two columns have the same name: {', '.join(names)}")
        for cells in filter(None, rows):
            if len(cells) != len(names):
                raise DataError(f"{file}, line {rows.line_num}: {len(cells)} cells, and {len(names)} columns")
            yield json.dumps({name: cell or None for name, cell in zip(names, cells, strict=True)}).encode()
