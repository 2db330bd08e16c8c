"""Tables of rows from files, folders and hubs, through the `datasets` library: memory-mapped, so of any size."""

import glob
import itertools
import logging
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vision_sr1.data.errors import DataError
from vision_sr1.data.records import NoRowsError, json_value, parsed, records
from vision_sr1.data.sources import TEXT_KINDS, data_files, kind_of, name_and_split
from vision_sr1.runtime.hub import HubError, check_hub

ROWS_AT_ONCE = 1000  # of those read as they are stored
_SAVED = ("state.json", "dataset_dict.json")  # in a folder that `save_to_disk` wrote
_TRAIN = "train"
_LOOKED_AT = 100  # rows of a text file, for their columns
_WRITTEN_AT_ONCE = 100  # rows of a text file, which may have images in them


class Table(Protocol):
    """Rows by their number; what is no row of use raises `DataError`."""

    @property
    def column_names(self) -> list[str]:
        """Of the rows; where these differ, of the first ones. The field `b` of a column `a` is `a.b`."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def folder(self, index: int, /) -> Path:
        """That paths in a row start from."""
        ...

    def stored(self, columns: Collection[str], count: int) -> Iterator[pa.Table]:
        """The first `count` rows as they are stored, `ROWS_AT_ONCE` at a time.

        Args:
            columns: of interest; rows of text files are given whole.
        """
        ...


def load_table(source: str) -> Table:
    """Reads `NAME`, `NAME@SPLIT`, or of a hub's `NAME:CONFIGURATION@SPLIT`; the split is `train` where none is named.

    Args:
        source: a file (parquet, arrow, json, jsonl, csv, tsv; text files also with `.gz`), several by a pattern
            (`part-*.parquet`), a folder that `save_to_disk` wrote or that holds such files, or the name of a data set
            on a hub.

    Raises:
        DataError: there is nothing of that name, it cannot be read, or has no rows.
    """
    name, split = name_and_split(source)
    table = _open(name, split or _TRAIN)
    if not len(table):
        raise DataError(f"{source} has no rows")
    return table


def value_of(row: dict[str, Any], column: str) -> Any:
    """A row's value in a column; `a.b` is the field `b` of the column `a`. None where there is none."""
    if column in row:
        return row[column]
    head, separator, field = column.partition(".")
    inside = row.get(head)
    return value_of(inside, field) if separator and isinstance(inside, dict) else None


def _open(name: str, split: str) -> Table:
    import datasets

    datasets.logging.set_verbosity(logging.CRITICAL)  # errors are raised too
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a file of the user's is read without a word to any server
    if not name:
        raise DataError("the name of a data set is empty: give a file, a folder or a hub name")
    try:
        if Path(name).is_dir():
            return _open_folder(name, split)
        if files := data_files(name):
            if split != _TRAIN:
                raise DataError(f"{name} is a file and has no splits: leave @{split} out")
            return _open_files(files, name)
        hub_name, _, configuration = name.partition(":")
        check_hub(hub_name, "dataset")
        return _Columns(datasets.load_dataset(hub_name, configuration or None, split=split), name, Path(name).parent)
    except DataError:
        raise
    except HubError as error:
        raise DataError(str(error)) from error
    except (datasets.exceptions.DatasetGenerationError, KeyError, OSError, ValueError) as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        raise DataError(f"cannot load data set {name!r}, split {split!r}: {error.__cause__ or error}") from error


def _open_folder(name: str, split: str) -> Table:
    """What `save_to_disk` wrote, or a folder of files: by the types that its README.md gives, where it gives some."""
    import datasets

    if any((Path(name) / saved).is_file() for saved in _SAVED):
        saved = datasets.load_from_disk(name)
        if isinstance(saved, datasets.DatasetDict):
            if split not in saved:
                raise DataError(f"{name} has no split {split!r}; its splits: {', '.join(saved)}")
            saved = saved[split]
        return _Columns(saved, name, Path(name))
    try:
        builder = datasets.load_dataset_builder(name)
    except (FileNotFoundError, IndexError) as error:  # an index: of the folder's name, which `/` has not
        raise DataError(
            f"{name}: the datasets library finds no data files in this folder; name one of its files"
        ) from error
    files = (builder.config.data_files or {}).get(split, [])
    has_types = any(info.features for info in datasets.info.DatasetInfosDict.from_directory(name).values())
    if files and all(map(kind_of, files)) and not has_types:
        return _open_files(files, name)
    return _Columns(datasets.load_dataset(name, split=split), name, Path(name))


def _open_files(files: Sequence[str], name: str) -> Table:
    """Files of one kind, those of one folder after those of another."""
    opened = _open_texts if kind_of(files[0]) in TEXT_KINDS else _open_tables
    tables = [
        table
        for folder, group in itertools.groupby(map(Path, files), lambda file: file.parent)
        if (table := opened(list(group), name, folder)) is not None
    ]
    if not tables:
        raise DataError(f"{name} has no rows")
    return tables[0] if len(tables) == 1 else _Joined(tables)


def _open_texts(files: list[Path], name: str, folder: Path) -> Table | None:
    """Text files; None where they have no rows."""
    import datasets

    versions = tuple((str(file.absolute()), (now := file.stat()).st_size, now.st_mtime_ns) for file in files)
    features = datasets.Features({"record": datasets.Value("large_binary")})
    try:
        rows = datasets.Dataset.from_generator(
            records, features=features, gen_kwargs={"files": versions}, writer_batch_size=_WRITTEN_AT_ONCE
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, NoRowsError):
            return None
        raise
    return _Records(rows, name, folder)


def _open_tables(files: list[Path], name: str, folder: Path) -> Table | None:
    """Files of columns with a type; None where they have no rows."""
    import datasets

    kind = kind_of(files[0].name)
    if kind == "parquet":
        files = [file for file in files if _has_rows(file)]
    if not files:
        return None
    names = [glob.escape(str(file.resolve())) for file in files]
    if any("::" in file for file in names):  # fsspec takes what follows for another file system
        raise DataError(f"{name}: a name with '::' cannot be read: rename it")
    try:
        return _Columns(datasets.load_dataset(kind, data_files=names, split=_TRAIN), name, folder)
    except (datasets.exceptions.DatasetGenerationError, OSError, ValueError) as error:
        raise DataError(f"{name} is no {kind} file that can be read: {error.__cause__ or error}") from error


def _has_rows(file: Path) -> bool:
    """Whether a parquet file has rows: one that has none may have columns of no type, which fit no other file's."""
    try:
        return bool(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a readable parquet file: {error}") from error


class _Columns:
    """A table of columns with a type: images as they are stored, ours to decode, and classes by their names."""

    def __init__(self, rows: Any, source: str, folder: Path) -> None:
        self._rows = rows.with_format("arrow")
        self._features = rows.features
        self._source = source
        self._folder = folder

    @property
    def column_names(self) -> list[str]:
        return list(_names(self._features))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            row: dict[str, Any] = self._rows[index].to_pylist()[0]
        except UnicodeDecodeError as error:
            where = f"{self._source}, row {index}"
            raise DataError(
                f"{where}: a column is not UTF-8: {error}; write the file again in UTF-8", "text"
            ) from error
        return {column: _value(self._features[column], value) for column, value in row.items()}

    def folder(self, _: int, /) -> Path:
        return self._folder

    def stored(self, columns: Collection[str], count: int) -> Iterator[pa.Table]:
        there = [column for column in self._rows.column_names if column in columns]
        return _stored(self._rows.select_columns(there), count)


def _value(feature: Any, value: Any) -> Any:
    """A value as its author gave it: the name of a class, a narrow float without digits that it never had."""
    import datasets

    if value is None:
        return None
    if isinstance(feature, datasets.ClassLabel):
        return feature.names[value] if 0 <= value < len(feature.names) else None
    if isinstance(feature, datasets.Json):
        return json_value(value)
    if isinstance(feature, datasets.Value) and feature.dtype in ("float16", "float32"):
        return float(str(np.dtype(feature.dtype).type(value)))
    if isinstance(feature, dict):
        return {name: _value(inner, value[name]) for name, inner in feature.items()}
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return [_value(feature.feature, item) for item in value]
    return value


class _Records:
    """Rows of text files, each parsed when it is asked for: rows may differ, and a broken one spoils no other."""

    def __init__(self, rows: Any, source: str, folder: Path) -> None:
        self._rows = rows
        self._source = source
        self._folder = folder

    @property
    def column_names(self) -> list[str]:
        names: dict[str, None] = {}
        broken: list[DataError] = []
        for index in range(min(len(self), _LOOKED_AT)):
            try:
                names |= dict.fromkeys(_names(self[index]))
            except DataError as error:
                broken.append(error)
        if not names:
            raise DataError(
                f"{self._source} has no line that is a JSON object; {broken[0] if broken else 'all are {}'}"
            )
        return list(names)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return parsed(self._rows[index]["record"], f"{self._source}, row {index}")

    def folder(self, _: int, /) -> Path:
        return self._folder

    def stored(self, columns: Collection[str], count: int) -> Iterator[pa.Table]:  # noqa: ARG002  (whole rows)
        text = pa.schema([("record", pa.large_string())])  # unchecked: it may be no UTF-8
        return (part.cast(text, safe=False) for part in _stored(self._rows, count))


class _Joined:
    """Tables one after the other."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables
        self._ends = list(itertools.accumulate(map(len, tables)))

    @property
    def column_names(self) -> list[str]:
        return list(dict.fromkeys(name for table in self._tables for name in table.column_names))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        table, place = self._place(index)
        return table[place]

    def folder(self, index: int, /) -> Path:
        table, place = self._place(index)
        return table.folder(place)

    def stored(self, columns: Collection[str], count: int) -> Iterator[pa.Table]:
        for table in self._tables:
            taken = min(count, len(table))
            yield from table.stored(columns, taken)
            count -= taken

    def _place(self, index: int) -> tuple[Table, int]:
        number = bisect_right(self._ends, index)
        table = self._tables[number]
        return table, index - (self._ends[number] - len(table))


def _stored(rows: Any, count: int) -> Iterator[pa.Table]:
    tables: Iterator[pa.Table] = rows.select(range(count)).with_format("arrow").iter(ROWS_AT_ONCE)
    return tables


def _names(columns: Mapping[str, Any]) -> Iterator[str]:
    """Columns by name, and the fields of those that have some."""
    for name, inside in columns.items():
        yield name
        if isinstance(inside, dict):
            yield from (f"{name}.{field}" for field in _names(inside))
