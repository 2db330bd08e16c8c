"""Tables of rows from files, folders and hubs, through the `datasets` library: memory-mapped, so of any size."""

import json
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from vision_sr1.data.errors import DataError

ROWS_AT_ONCE = 1000  # of those read as they are stored
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "text"}
_SAVED = ("state.json", "dataset_dict.json")  # in a folder that `save_to_disk` wrote
_REPLACED = "\ufffd"  # what decoding puts in place of bytes that are no UTF-8


class Table(Protocol):
    """Rows by their number; what is no row of use raises `DataError`."""

    @property
    def column_names(self) -> list[str]:
        """Of the rows; where these differ, of the first."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def stored(self, columns: Collection[str], count: int) -> Iterator[pa.Table]:
        """The first `count` rows as they are stored, `ROWS_AT_ONCE` at a time.

        Args:
            columns: of interest; lines of JSON are given whole.
        """
        ...


def load_table(source: str) -> Table:
    """Reads `NAME`, `NAME@SPLIT`, or of a hub's `NAME:CONFIGURATION@SPLIT`; the split is `train` where none is named.

    Args:
        source: a file (parquet, arrow, json, jsonl), several by a pattern (`part-*.parquet`), a folder that
            `save_to_disk` wrote or that holds such files, or the name of a data set on a hub.

    Raises:
        DataError: there is nothing of that name, it cannot be read, or has no rows.
    """
    name, separator, split = source.rpartition("@")
    if not separator or Path(source).exists():
        name, split = source, ""
    table = _open(name, split or "train")
    if not len(table):
        raise DataError(f"{source} has no rows")
    return table


def _open(name: str, split: str) -> Table:
    import datasets

    datasets.logging.set_verbosity(logging.CRITICAL)  # errors are raised too
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a file of the user's is read without a word to any server
    path = Path(name)
    try:
        if path.is_dir() and any((path / saved).is_file() for saved in _SAVED):
            saved = datasets.load_from_disk(name)
            if isinstance(saved, datasets.DatasetDict):
                if split not in saved:
                    raise DataError(f"{name} has no split {split!r}; its splits: {', '.join(saved)}")
                saved = saved[split]
            return _Columns(saved, name)
        builder = _BUILDERS.get(path.suffix)
        if builder is None:
            hub_name, _, configuration = name.partition(":")
            return _Columns(datasets.load_dataset(hub_name, configuration or None, split=split), name)
        files = [name] if path.is_file() else sorted(map(str, path.parent.glob(path.name)))
        if not files:
            raise DataError(f"no data file {path}; `vision-sr1 data shapes` makes one")
        if not any(Path(file).stat().st_size for file in files):
            raise DataError(f"{name} is empty")
        if builder == "text":
            lines = datasets.load_dataset("text", data_files=files, split="train", encoding_errors="replace")
            return _JsonLines(lines, name)
        return _Columns(datasets.load_dataset(builder, data_files=files, split="train"), name)
    except DataError:
        raise
    except (datasets.exceptions.DatasetGenerationError, KeyError, OSError, ValueError) as error:
        if path.suffix in _BUILDERS:
            kind = path.suffix.removeprefix(".")
            raise DataError(f"{name} is no {kind} file that can be read: {error.__cause__ or error}") from error
        raise DataError(f"cannot load data set {name!r}, split {split!r}: {error}") from error


class _Columns:
    """A table as the library has it, images as they are stored: ours to decode."""

    def __init__(self, rows: Any, source: str) -> None:
        import datasets

        for column, feature in rows.features.items():
            if isinstance(feature, datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))
            elif isinstance(getattr(feature, "feature", None), datasets.Image):
                rows = rows.cast_column(column, datasets.List(datasets.Image(decode=False)))
        self._rows = rows
        self._source = source

    @property
    def column_names(self) -> list[str]:
        names: list[str] = self._rows.column_names
        return names

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            row: dict[str, Any] = self._rows[index]
        except UnicodeDecodeError as error:
            where = f"{self._source}, row {index}"
            raise DataError(
                f"{where}: a column is not UTF-8: {error}; write the file again in UTF-8", "text"
            ) from error
        return row

    def stored(self, columns: Collection[str], count: int) -> Iterator[pa.Table]:
        there = [column for column in self._rows.column_names if column in columns]
        return _stored(self._rows.select_columns(there), count)


class _JsonLines:
    """A line a row, each read when it is asked for: rows may differ, and a broken one spoils no other."""

    def __init__(self, lines: Any, source: str) -> None:
        self._lines = lines
        self._source = source

    @property
    def column_names(self) -> list[str]:
        for index in range(len(self)):
            try:
                return list(self[index])
            except DataError:
                continue
        raise DataError(f"{self._source} has no line that is a JSON object")

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        where, line = f"{self._source}, row {index}", self._lines[index]["text"]
        if _REPLACED in line:
            at = line.index(_REPLACED)
            raise DataError(f"{where}: not UTF-8 at character {at}; write the file again in UTF-8", "text")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: no JSON: {error}", "row") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: {line[:40]!r} is no JSON object", "row")
        return row

    def stored(self, columns: Collection[str], count: int) -> Iterator[pa.Table]:  # noqa: ARG002  (whole lines)
        return _stored(self._lines, count)


def _stored(rows: Any, count: int) -> Iterator[pa.Table]:
    tables: Iterator[pa.Table] = rows.select(range(count)).with_format("arrow").iter(ROWS_AT_ONCE)
    return tables
