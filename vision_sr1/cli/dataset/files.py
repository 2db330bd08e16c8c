"""Data sets made of others: parquet files in the form that training reads without settings, images within them."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vision_sr1.cli.dataset.check import AnyRow, open_rows, readable_rows, said
from vision_sr1.cli.dataset.schemas import CONVERSATIONS, FURTHER_QUESTIONS, QUESTIONS
from vision_sr1.config import Config, SourceConfig
from vision_sr1.data.conversations import Conversations
from vision_sr1.data.errors import DataError
from vision_sr1.data.mixture import Mixture
from vision_sr1.data.questions import QuestionRow, Questions

ROWS_AT_ONCE = 256  # in memory
Refused = Callable[[DataError], None]


def convert(source: str, path: Path, config: Config, refused: Refused) -> int:
    """Writes the rows of a set that can be used; returns how many.

    Raises:
        DataError: the set cannot be read, or the file is there already.
    """
    rows = open_rows(source, config.data, config.reward, "column")
    return _write(path, _schema([rows]), (row for _, row in _usable(readable_rows(rows), refused)))


def mix(sources: Sequence[SourceConfig], path: Path, config: Config, seed: int, refused: Refused) -> int:
    """Writes one epoch of a mixture in the order of the seed; returns its rows.

    Raises:
        DataError: a set cannot be read, they are not of one kind, or the file is there already.
    """
    sets = [open_rows(source.path, config.data, config.reward, "column") for source in sources]
    if len({type(rows) for rows in sets}) > 1:
        raise DataError("questions and conversations cannot be mixed: " + ", ".join(source.path for source in sources))
    mixture: Mixture[AnyRow] = Mixture(sets, [source.weight for source in sources], seed)

    def rows() -> Iterator[tuple[int, AnyRow | DataError]]:
        for index in np.random.default_rng(seed).permutation(len(mixture)).tolist():
            try:
                yield index, mixture.at(0, index)
            except DataError as error:
                yield index, error

    return _write(path, _schema(sets), (row for _, row in _usable(rows(), refused)))


def split(source: str, folder: Path, config: Config, held_out: float, seed: int, refused: Refused) -> dict[str, int]:
    """Writes `train.parquet` and `held_out.parquet`; returns their rows. No image is in both, nor a question without.

    Args:
        held_out: so many rows or, below 1, this share of them; a few more where rows share images.

    Raises:
        DataError: the set cannot be read, nothing would be left to train on, or a file is there already.
    """
    rows = open_rows(source, config.data, config.reward, "column")
    kin = _Kin()
    usable = [(index, kin.add(row)) for index, row in _usable(readable_rows(rows), refused)]
    families: dict[int, list[int]] = {}
    for index, member in usable:
        families.setdefault(kin.family(member), []).append(index)
    wanted = held_out if held_out >= 1 else held_out * len(usable)
    chosen: set[int] = set()
    order = np.random.default_rng(seed).permutation(len(families))
    for family in (list(families.values())[place] for place in order):
        if len(chosen) >= wanted:
            break
        chosen.update(family)
    if not chosen:
        raise DataError(
            f"{source}: with {held_out:g} held out no row of {len(usable)} is; give 1 or more, or a share below 1"
        )
    if len(chosen) == len(usable):
        raise DataError(f"{source}: with {held_out:g} held out nothing of {len(usable)} rows is left to train on")
    folder.mkdir(parents=True, exist_ok=True)
    return {
        name: _write(
            folder / f"{name}.parquet",
            _schema([rows]),
            (rows[index] for index, _ in usable if (index in chosen) is is_held_out),
        )
        for name, is_held_out in (("train", False), ("held_out", True))
    }


class _Kin:
    """Rows that share an image, and those that share images with these."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._known: dict[bytes, int] = {}

    def add(self, row: AnyRow) -> int:
        """A row, as a member of a family."""
        member = len(self._parents)
        self._parents.append(member)
        for part in row.images or [said(row).encode()]:
            other = self._known.setdefault(hashlib.sha256(part).digest(), member)
            self._parents[self.family(other)] = self.family(member)
        return member

    def family(self, member: int) -> int:
        """The same for all of its members."""
        while self._parents[member] != member:
            self._parents[member] = member = self._parents[self._parents[member]]
        return member


def _usable(rows: Iterable[tuple[int, AnyRow | DataError]], refused: Refused) -> Iterator[tuple[int, AnyRow]]:
    for index, row in rows:
        if isinstance(row, DataError):
            refused(row)
        else:
            yield index, row


def _schema(sets: Sequence[Questions | Conversations]) -> pa.Schema:
    """Columns of a file with the rows of these sets."""
    if not all(isinstance(rows, Questions) for rows in sets):
        return CONVERSATIONS
    has_further = any(isinstance(rows, Questions) and rows.has_further_column for rows in sets)
    return QUESTIONS.append(FURTHER_QUESTIONS) if has_further else QUESTIONS


def _write(path: Path, schema: pa.Schema, rows: Iterable[AnyRow]) -> int:
    """Writes a file that is there whole or not at all."""
    if path.suffix != ".parquet":
        raise DataError(f"{path}: what is written is parquet: choose a name that ends in .parquet")
    if path.exists():
        raise DataError(f"{path} is there already; remove it or choose another name")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        count = _write_rows(unfinished, schema, rows)
        unfinished.rename(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def _write_rows(path: Path, schema: pa.Schema, rows: Iterable[AnyRow]) -> int:
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        waiting = []
        for row in rows:
            waiting.append(_record(row))
            count += 1
            if len(waiting) == ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
                waiting = []
        writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
    return count


def _record(row: AnyRow) -> dict[str, object]:
    images = [{"bytes": image, "path": None} for image in row.images]
    if isinstance(row, QuestionRow):
        return {
            "problem": row.question,
            "answer": row.answer,
            "images": images,
            "data_source": row.data_source,
            "scene": row.scene,
            FURTHER_QUESTIONS.name: [asdict(further) for further in row.further_questions],
        }
    return {"messages": row.messages, "images": images}
