"""What a data set holds, in one short text: the same wherever the set is, another for other rows or another order."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vision_sr1.config import DataConfig
from vision_sr1.data.conversations import FORMS
from vision_sr1.data.pictures import COLUMNS, VIDEOS
from vision_sr1.data.tables import Table

TAIL_BYTES = 32  # of an encoded image: PNG has its checksum there


def fingerprint(table: Table, config: DataConfig, count: int) -> str:
    """SHA-256 over the first `count` rows of the columns that training reads.

    Texts count whole, an encoded image by its length and its last bytes, an image file by its name: no image is read.
    """
    keys = (
        config.prompt_key,
        config.answer_key,
        config.source_key,
        config.scene_key,
        config.image_key,
        config.further_questions_key,
    )
    columns = {*keys, *(key.partition(".")[0] for key in keys), *COLUMNS, *VIDEOS}  # `a.b` may be a field of `a`
    read = columns.union(*FORMS)
    digests: dict[str, Any] = {}
    for part in table.stored(read, count):
        for column in part.column_names:
            for leaf, values in _leaves(column, part[column]):
                text = json.dumps(values.to_pylist(), separators=(",", ":"), default=repr)
                # Joined by commas without brackets, so that it does not matter where parts begin.
                digests.setdefault(leaf, hashlib.sha256()).update(f"{text[1:-1]},".encode() if len(values) else b"")
    leaves = {leaf: digest.hexdigest() for leaf, digest in digests.items()}
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()


def _leaves(name: str, values: pa.ChunkedArray) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The parts of nested values, each by a name of its own."""
    kind = values.type
    if pa.types.is_struct(kind):
        yield name, pc.is_valid(values)
        for field in kind:
            yield from _leaves(f"{name}.{field.name}", pc.struct_field(values, field.name))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield name, pc.list_value_length(values)
        yield from _leaves(f"{name}[]", pc.list_flatten(values))
    elif kind in (pa.binary(), pa.large_binary()):
        yield name, pc.binary_length(values)
        yield f"{name}[-{TAIL_BYTES}:]", pc.binary_slice(values, -TAIL_BYTES)
    elif kind in (pa.string(), pa.large_string()):
        is_absolute = name.endswith(".path")  # in folders of images
        shown = pc.replace_substring_regex(values, "^/.*/", "") if is_absolute else values
        yield name, shown.cast(pa.large_binary())  # which may be no UTF-8
    else:
        yield name, values
