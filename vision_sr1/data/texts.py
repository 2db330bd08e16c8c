"""The texts of a row: plain ones, and messages of a conversation."""

import json
import math
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from vision_sr1.data.errors import DataError
from vision_sr1.data.pictures import stored_image
from vision_sr1.prompting.prompt_template import IMAGE_MARKER

_EXACT = 2**53  # whole floats below are exact
_TEXTS = ("text", "input_text", "output_text")  # types of parts
_IMAGES = ("image", "image_url", "input_image")
_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        text: with a marker `<image>` where an image is.
        images: that are given in the turn itself, as they are stored.
    """

    role: str
    text: str
    images: list[Any] = field(default_factory=list)


def plain_text(value: Any, what: str) -> str:
    """A value as text that every service can carry, written as in the file: see `_written`.

    Raises:
        DataError: it is empty, not UTF-8, has characters that no text has, or could be written in several ways.
    """
    text = _written(value, what)
    if not text.strip():
        raise DataError(f"{what} is empty", "text")
    if "\0" in text:
        raise DataError(f"{what} has the character NUL at {text.index(chr(0))}: remove it", "text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} has half a character at {error.start}: {error.reason}", "text") from error
    return text


def accepted_answers(value: list[Any], what: str) -> str:
    """Answers of which each is right, as the grader `any_of` takes them: a JSON list of texts.

    Raises:
        DataError: there is none, or one is no text.
    """
    if not value:
        raise DataError(f"{what} is empty", "text")
    texts = [plain_text(item, f"{what}, number {number}") for number, item in enumerate(value)]
    return json.dumps(texts, ensure_ascii=False)


def _written(value: Any, what: str) -> str:
    """Numbers by their shortest digits, whole ones without a fraction; booleans as in JSON, dates as in ISO 8601."""
    match value:
        case None:
            return ""
        case bool():
            return json.dumps(value)
        case str() | int():
            return str(value)
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError as error:
                raise DataError(f"{what} is not UTF-8: {error}; write the file again in UTF-8", "text") from error
        case Decimal() if value.is_finite():
            return format(value, "f")
        case float() | Decimal() if not math.isfinite(value):
            raise DataError(f"{what} is {value}: give a finite number, or a text", "text")
        case float():
            return f"{value:.0f}" if value.is_integer() and abs(value) < _EXACT else repr(value)
        case date() if not isinstance(value, datetime):
            return value.isoformat()
        case dict() | list():
            raise DataError(f"{what} is not text but a {type(value).__name__}", "text")
        case _:
            kind = type(value).__name__
            raise DataError(
                f"{what} is a {kind} ({value}), which can be written in several ways: store it as text", "text"
            )


def messages(value: Any, where: str) -> list[Message]:
    """Turns of `role` and `content` (OpenAI's, TRL's) or of `from` and `value` (ShareGPT's, LLaVA's).

    A content is a text, or parts of the types in `_TEXTS` and `_IMAGES`.

    Raises:
        DataError: it is no list of turns, or one has no known role, no text, or parts of another type.
    """
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: no messages", "row")
    return [_message(turn, f"{where}: message {number}") for number, turn in enumerate(value)]


def _message(turn: Any, what: str) -> Message:
    if not isinstance(turn, dict):
        raise DataError(f"{what} is not a turn with role and content but {str(turn)[:40]!r}", "row")
    said = turn.get("role") or turn.get("from")
    role = _ROLES.get(str(said).lower())
    if role is None:
        raise DataError(f"{what} has the role {said!r}; known: {', '.join(_ROLES)}", "row")
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if not isinstance(content, list):
        return Message(role, plain_text(content, what))
    text, images = "", []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXTS:
            text += _written(part.get("text"), f"{what}, a text")
        elif kind in _IMAGES:
            text += IMAGE_MARKER
            images += [] if stored_image(part) is None else [part]
        else:
            raise DataError(f"{what} has a part of type {kind!r}; known: {', '.join(_TEXTS + _IMAGES)}", "row")
    return Message(role, plain_text(text, what), images)
