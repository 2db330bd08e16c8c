"""The texts of a row: plain ones, and messages of a conversation."""

from dataclasses import dataclass, field
from typing import Any

from vision_sr1.data.errors import DataError
from vision_sr1.prompts import IMAGE_MARKER

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
    """A value as text that every service can carry.

    Raises:
        DataError: it is empty, not UTF-8, or has characters that no text has.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{what} is not UTF-8: {error}; write the file again in UTF-8", "text") from error
    if isinstance(value, (dict, list)):
        raise DataError(f"{what} is no text but a {type(value).__name__}", "text")
    text = "" if value is None else str(value)
    if not text.strip():
        raise DataError(f"{what} is empty", "text")
    if "\0" in text:
        raise DataError(f"{what} has the character NUL at {text.index(chr(0))}: remove it", "text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} has half a character at {error.start}: {error.reason}", "text") from error
    return text


def messages(value: Any, where: str) -> list[Message]:
    """Turns of `role` and `content` (OpenAI's, TRL's) or of `from` and `value` (ShareGPT's, LLaVA's).

    A content is a text, or parts of type `text` and `image`.

    Raises:
        DataError: it is no list of turns, or one has no known role, no text, or parts of another type.
    """
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: no messages", "row")
    return [_message(turn, f"{where}: message {number}") for number, turn in enumerate(value)]


def _message(turn: Any, what: str) -> Message:
    if not isinstance(turn, dict):
        raise DataError(f"{what} is no turn of role and content but {str(turn)[:40]!r}", "row")
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
        if kind == "text":
            text += str(part.get("text") or "")
        elif kind == "image":
            text += IMAGE_MARKER
            images += [part[key] for key in ("image", "url", "path") if part.get(key) is not None][:1]
        else:
            raise DataError(f"{what} has a part of type {kind!r}; known: text, image", "row")
    return Message(role, plain_text(text, what), images)
