"""Columns of the files that the project writes: those that training reads without settings."""

import pyarrow as pa

_IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))

QUESTIONS = pa.schema(
    [
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("images", _IMAGES),
        ("data_source", pa.string()),
        ("scene", pa.string()),
    ]
)
FURTHER_QUESTIONS = pa.field(
    "further_questions",
    pa.list_(pa.struct([("question", pa.string()), ("answer", pa.string()), ("data_source", pa.string())])),
)
CONVERSATIONS = pa.schema(
    [
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("images", _IMAGES),
    ]
)
