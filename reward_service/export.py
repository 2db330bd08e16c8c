"""Traces as a file that pandas and the data sets library read as plain columns: Parquet or JSON lines."""

import base64
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from reward_service.api.table import TraceTable
from reward_service.store import TraceFilter, TraceReader
from vision_sr1.client.models import Row
from vision_sr1.config import ConfigError
from vision_sr1.run_folder.atomic import written_whole

AT_ONCE = 500
SUFFIXES = (".parquet", ".jsonl")
IMAGE_BYTES = "image_bytes"

_TYPES = {
    "step": pa.int64(),
    "policy_version": pa.int64(),
    "recorded_at": pa.float64(),
    "images": pa.list_(pa.string()),
    "response_tokens": pa.int64(),
    "response_token_ids": pa.list_(pa.uint32()),
    "logprobs": pa.list_(pa.float32()),
    IMAGE_BYTES: pa.list_(pa.binary()),
}


def check_suffix(path: Path) -> None:
    """Raises ConfigError where the file's name says no format."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: the suffix names no format of an export; use {' or '.join(SUFFIXES)}")


def export_traces(table: TraceTable, path: Path, *, images: bool) -> int:
    """Writes a run's traces, oldest first, in the format of the suffix; returns how many. The file appears when it is
    whole.

    Args:
        images: add the column `image_bytes`: encoded images, in JSON lines as base64, without those that the store
            does not have.

    Raises:
        ConfigError: there are none.
    """
    batches = _batches(table, images=images)
    first = next(batches, None)
    if first is None:
        raise ConfigError(
            f"no traces of run {table.run!r} are left in the store: see reward.traces.keep_days and sample"
        )
    count = 0
    with written_whole(path) as place, _writer(place, path.suffix, list(first[0])) as write:
        for rows in chain([first], batches):
            write(rows)
            count += len(rows)
    return count


@contextlib.contextmanager
def _writer(place: Path, suffix: str, columns: Sequence[str]) -> Iterator[Callable[[list[Row]], None]]:
    """What adds rows to a file."""
    if suffix == ".parquet":
        schema = pa.schema({name: _type(name) for name in columns})
        with pq.ParquetWriter(place, schema, compression="zstd") as writer:
            yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema))
    else:
        with place.open("w", encoding="utf-8") as file:
            yield lambda rows: file.writelines(
                json.dumps(row, ensure_ascii=False, default=_base64) + "\n" for row in rows
            )


def _batches(table: TraceTable, *, images: bool) -> Iterator[list[Row]]:
    image = lru_cache(AT_ONCE)(lambda sha256: _image(table.reader, sha256))
    wanted, last = TraceFilter(run=table.run), 0
    while found := table.reader.after(wanted, last, AT_ONCE):
        rows = table.rows(found)
        if images:
            for row in rows:
                row[IMAGE_BYTES] = [data for sha256 in row["images"] if (data := image(sha256)) is not None]
        yield rows
        last = found[-1].sequence


def _image(reader: TraceReader, sha256: str) -> bytes | None:
    found = reader.image(sha256)
    return found.data if found is not None else None


def _type(column: str) -> pa.DataType:
    is_number = column.startswith(("reward_", "advantage_"))
    return _TYPES.get(column, pa.float64() if is_number else pa.string())


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
