"""What reads bytes from outside, each as a function that must return or raise what it says, whatever it is given."""

import contextlib
import gzip
import io
import json
import tempfile
from pathlib import Path

from reward_service.graders import grade
from reward_service.rewards.answer_leak import stated_answer
from vision_sr1.config import DataConfig
from vision_sr1.data import DataError
from vision_sr1.data.pictures import Pictures
from vision_sr1.data.records import parsed, records
from vision_sr1.data.texts import messages, plain_text
from vision_sr1.pipeline.wire import WireError, decode
from vision_sr1.prompting.images import UnusableImageError, plain_image, stored_form
from vision_sr1.prompting.response import parse_response
from vision_sr1.v1 import actor_pb2, pipeline_pb2

MESSAGES = (
    pipeline_pb2.Prompt,
    pipeline_pb2.Rollout,
    pipeline_pb2.ScoredGroup,
    pipeline_pb2.ActorInfo,
    pipeline_pb2.PublishedWeights,
    actor_pb2.GenerateRequest,
)
MAX_PIXELS = 1_000_000


def response_parser(data: bytes) -> None:
    """Spans are within the response, and in order."""
    parsed = parse_response(data)
    last = 0
    for span in (parsed.description_span, parsed.think_span):
        if span is not None:
            assert last <= span[0] < span[1] <= len(data)
            last = span[1]
    if parsed.answer_span is not None:
        assert 0 <= parsed.answer_span[0] < parsed.answer_span[1] <= len(data)
    assert parsed.format != "description_think_answer" or parsed.description is not None
    assert parsed.format is None or parsed.answer is not None


def protobuf_decoders(data: bytes) -> None:
    """A message, or an error that says what is wrong."""
    for kind in MESSAGES:
        with contextlib.suppress(WireError):
            message = decode(kind, data)
            assert message.SerializeToString() is not None


def images(data: bytes) -> None:
    """A picture that every service reads alike, or a reason."""
    with contextlib.suppress(UnusableImageError):
        stored = stored_form(data, MAX_PIXELS)
        picture = plain_image(stored, MAX_PIXELS)
        assert picture.mode == "RGB"
        assert picture.width * picture.height <= MAX_PIXELS


def texts_and_paths(data: bytes) -> None:
    """A text that travels, or a reason; a path never leads out of its folder."""
    with contextlib.suppress(DataError):
        assert plain_text(data, "a text").encode()
    name = data.decode("utf-8", errors="surrogateescape")
    with contextlib.suppress(DataError):
        Pictures("nowhere/rows.parquet", DataConfig()).read(name, "a row")
        raise AssertionError(f"read {name!r}, though the folder is not there")


def conversations(data: bytes) -> None:
    """Turns with text and a known role, or a reason."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    with contextlib.suppress(DataError):
        assert all(turn.text.strip() and turn.role in ("system", "user", "assistant") for turn in messages(value, "x"))


def text_files(data: bytes) -> None:
    """Rows that are objects, or a reason, whatever the file's ending says."""
    with tempfile.TemporaryDirectory() as folder:
        for ending in ("jsonl", "json", "csv", "tsv", "jsonl.gz"):
            path = Path(folder) / f"rows.{ending}"
            path.write_bytes(data)
            with contextlib.suppress(DataError):
                for row in records(((str(path), 0, 0),)):
                    with contextlib.suppress(DataError):
                        assert isinstance(parsed(row["record"], "a row"), dict)


def graders(data: bytes) -> None:
    """Our own rules for answers say yes or no to anything, and a thing is itself."""
    text = data.decode("utf-8", errors="replace")
    answer, _, rest = text.partition("|")
    for name in ("exact", "normalized", "choice", "numeric", "any_of"):
        assert grade(name, answer, rest, text, 0.01) in (True, False)
        assert grade(name, text, text, answer, 0.01)
    stated_answer(rest, answer)


TARGETS = {
    f.__name__: f
    for f in (response_parser, protobuf_decoders, images, texts_and_paths, conversations, text_files, graders)
}


def seeds() -> list[bytes]:
    """Inputs that lead a fuzzer to the interesting places."""
    from PIL import Image

    pictures = []
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        encoded = io.BytesIO()
        Image.new("RGB", (9, 7), "red").save(encoded, kind)
        pictures.append(encoded.getvalue())
    prompt = pipeline_pb2.Prompt(schema_version=1, id="0/1", question="q", images=[pipeline_pb2.ImageRef(sha256="a")])
    rollout = pipeline_pb2.Rollout(schema_version=1, id="0/1/0", prompt=prompt)
    group = pipeline_pb2.ScoredGroup(schema_version=1, rollouts=[pipeline_pb2.ScoredRollout(rollout=rollout)])
    messages = [message.SerializeToString() for message in (prompt, rollout, group)]
    response = b"<description>a red square</description> <think>the square</think> \\boxed{\\frac{1}{2}}"
    return [
        response,
        response[20:],
        b"../../etc/passwd",
        b"Answer: B|Which? A. red B. blue\n(C) 12 cm",
        b"-1,000.5e3 \\%|\\frac{1}{2}",
        b"https://a/b.png",
        b'[{"from": "human", "value": "<image>?"}, {"role": "assistant", "content": [{"type": "text"}]}]',
        "caf\u00e9".encode(),
        b'\xef\xbb\xbf[{"a": 1.50, "b": [NaN, -1e999]}, {"a": "\\ud800"}]',
        b'a,b\n1,"2\n3"\n',
        gzip.compress(b'{"a": true}\n\n{"a": null, "a": 2}\n'),
        *messages,
        *pictures,
    ]
