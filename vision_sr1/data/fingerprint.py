"""What a data set holds, in one short text: the same wherever the set is, another for other rows or another order."""

import hashlib
import json
from collections.abc import Iterator

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
    columns = (config.prompt_key, config.answer_key, config.source_key, config.scene_key, config.image_key)
    forms = (column for form in FORMS for column in form)
    read = sorted({*columns, *COLUMNS, *VIDEOS, *forms})
    digest = hashlib.sha256()
    for part in table.stored(read, count):
        for name in sorted(part.column_names):
            for leaf, values in _leaves(name, part[name]):
                digest.update(json.dumps([leaf, values.to_pylist()], default=repr).encode())
    return digest.hexdigest()


def _leaves(name: str, values: pa.ChunkedArray) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The parts of nested values, each with where it is."""
    kind = values.type
    if pa.types.is_struct(kind):
        yield name, pc.is_valid(values)
        for field in sorted(field.name for field in kind):
            yield from _leaves(f"{name}.{field}", pc.struct_field(values, field))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield name, pc.list_value_length(values)
        yield from _leaves(f"{name}[]", pc.list_flatten(values))
    elif kind in (pa.binary(), pa.large_binary()):
        yield name, pc.binary_length(values)
        yield name, pc.binary_slice(values, -TAIL_BYTES)
    elif name.endswith(".path") and kind in (pa.string(), pa.large_string()):  # absolute in folders of images
        yield name, pc.replace_substring_regex(values, "^/.*/", "")
    else:
        yield name, values
