"""What the name of a data set stands for: a split, files of a kind, a folder, or a name on a hub."""

import glob
from pathlib import Path
from typing import Literal

from vision_sr1.config import in_home
from vision_sr1.data.errors import DataError

Kind = Literal["parquet", "arrow", "json", "jsonl", "csv", "tsv"]
_KINDS: dict[str, Kind] = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}
_GZIP = ".gz"  # read behind the endings of text files
TEXT_KINDS: tuple[Kind, ...] = ("json", "jsonl", "csv", "tsv")


def kind_of(name: str) -> Kind | None:
    """The kind of file that a name's ending says; None for another ending."""
    path = Path(name.lower())
    if path.suffix == _GZIP:
        kind = _KINDS.get(Path(path.stem).suffix)
        return kind if kind in TEXT_KINDS else None
    return _KINDS.get(path.suffix)


def name_and_split(source: str) -> tuple[str, str]:
    """`NAME@SPLIT` in two, `~` as the home folder; the split is empty where none is named.

    An `@` in the name of a folder, or of a file, is part of the name.
    """
    if source.startswith("~"):
        source = str(in_home(Path(source)))
    name, separator, split = source.rpartition("@")
    if not separator or Path(source).exists() or "/" in split or kind_of(split):
        return source, ""
    return name, split


def folder_of(source: str) -> Path:
    """The folder that paths in a source's rows start from: that of its file, or the folder that it is."""
    name, _ = name_and_split(source)
    return Path(name) if Path(name).is_dir() else Path(name).parent


def title_of(source: str) -> str:
    """A source's name without folders and without the ending of a file."""
    path = Path(source)
    return Path(path.stem).stem if path.suffix.lower() == _GZIP else path.stem


def data_files(name: str) -> list[str]:
    """The files that a name or a pattern stands for, in their order; none for the name of a data set on a hub.

    Raises:
        DataError: nothing has this name, or it is of a kind that is not read.
    """
    if Path(name).is_file():
        files = [name]
    elif glob.has_magic(name):
        files = _matches(name)
    elif kind_of(name):
        raise DataError(f"no file {name}")
    elif Path(name).is_absolute() or name.startswith(".") or name.partition(":")[0].count("/") > 1:
        raise DataError(f"no file or folder {name}")
    else:
        return []
    for file in files:
        if kind_of(file) is None:
            known = ", ".join(_KINDS)
            raise DataError(
                f"{file}: files with this ending are not read; known: {known}, text files also with {_GZIP}"
            )
    if len(kinds := {str(kind_of(file)) for file in files}) > 1:
        raise DataError(f"{name}: files of several kinds ({', '.join(sorted(kinds))}): give each as a set of its own")
    return files


def _matches(pattern: str) -> list[str]:
    """Files that match; what is there under the pattern's very name, brackets and all, is no pattern."""
    literal, parts = Path(), Path(pattern).parts
    while len(parts) > 1 and (literal / parts[0]).exists():
        literal, parts = literal / parts[0], parts[1:]
    found = sorted(literal.glob("/".join(parts)))
    files = [str(path) for path in found if path.is_file()]
    if not files:
        what = f"only folders match {pattern}; give the files in them, such as {pattern}/*.jsonl"
        raise DataError(what if found else f"no data file matches {pattern}")
    return files
