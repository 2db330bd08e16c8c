r"""Reading a response: `<description>…</description> <think>…</think> \boxed{…}`, and where each part's tokens are.

Works on bytes, because a token is a run of bytes: spans of the text are then exactly spans of tokens, whatever
characters a token boundary cuts through.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from vision_sr1.prompting.chat import control_tokens

# The authors' code removes white space around each of < > / before it reads a response; tags here match either way.
_OPEN, _CLOSE = rb"<\s*%s\s*>", rb"<\s*/\s*%s\s*>"
_BOX = rb"\\boxed\{"
_BLOCKS = {name: (re.compile(_OPEN % name), re.compile(_CLOSE % name)) for name in (b"description", b"think")}
_BEGINS_DESCRIBED = re.compile(rb"\s*" + _OPEN % b"description")
_DESCRIBED_THINKS = re.compile(_CLOSE % b"description" + rb"\s*" + _OPEN % b"think")
_BEGINS_THINKING = re.compile(rb"\s*" + _OPEN % b"think")
_THOUGHT_ANSWERS = re.compile(_CLOSE % b"think" + rb"\s*(?=" + _BOX + rb")")
_BOXED = re.compile(_BOX)
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")

Span = tuple[int, int]
ResponseFormat = Literal["description_think_answer", "think_answer"]

# How each format begins, and what joins its blocks: it ends with the answer that the last of these leads to.
_FORMATS: dict[ResponseFormat, tuple[re.Pattern[bytes], list[re.Pattern[bytes]]]] = {
    "description_think_answer": (_BEGINS_DESCRIBED, [_DESCRIBED_THINKS, _THOUGHT_ANSWERS]),
    "think_answer": (_BEGINS_THINKING, [_THOUGHT_ANSWERS]),
}
_NAMES: dict[ResponseFormat, tuple[bytes, ...]] = {
    "description_think_answer": (b"description", b"think"),
    "think_answer": (b"think",),
}


@dataclass(frozen=True)
class ParsedResponse:
    """The parts of a response; spans are [start, end) in bytes and include tags.

    Attributes:
        description: text between the description tags, None without a complete block.
        answer: content of the last `\\boxed{}` with balanced braces, None without one.
        format: which blocks the response is by the authors' rule; None: neither. It begins with the first block's tag,
            one block's end leads to the next, and it ends with one box. In between anything is accepted, further tags
            included: `surplus_tags` finds them.
    """

    description: str | None
    answer: str | None
    format: ResponseFormat | None
    description_span: Span | None
    think_span: Span | None
    answer_span: Span | None


def parse_response(response: bytes) -> ParsedResponse:
    """Reads a response strictly: what is not in its block is not taken for it."""
    description = _block(b"description", response, 0)
    think = _block(b"think", response, description.whole[1] if description else 0)
    boxed = _last_box(response)
    return ParsedResponse(
        description=_text(response[slice(*description.content)]) if description else None,
        answer=_text(response[boxed[0] + len(b"\\boxed{") : boxed[1] - 1]) if boxed else None,
        format=_format(response),
        description_span=description.whole if description else None,
        think_span=think.whole if think else None,
        answer_span=boxed,
    )


@dataclass(frozen=True)
class _Block:
    whole: Span
    content: Span


def _block(name: bytes, response: bytes, start: int) -> _Block | None:
    """The first complete block; in one pass, however many tags are opened and never closed."""
    opening, closing = _BLOCKS[name]
    first = opening.search(response, start)
    last = closing.search(response, first.end()) if first else None
    if first is None or last is None:
        return None
    return _Block((first.start(), last.end()), (first.end(), last.start()))


def _format(response: bytes) -> ResponseFormat | None:
    for name, (beginning, joints) in _FORMATS.items():
        found = beginning.match(response)
        for joint in joints:
            found = joint.search(response, found.end()) if found else None
        if found and _is_one_box(response[found.end() :].rstrip()):
            return name
    return None


def surplus_tags(response: bytes, blocks: ResponseFormat) -> dict[str, int]:
    """Tags that a response has more often than once, or at all where the format has no such block: how often each.

    The beginning of a box counts as a tag. A response of this format without any is each of its blocks once, in order,
    and nothing outside them.
    """
    found = {"\\boxed{}": (len(_BOXED.findall(response)), 1)}
    for name, (opening, closing) in _BLOCKS.items():
        allowed = int(name in _NAMES[blocks])
        found[f"<{name.decode()}>"] = len(opening.findall(response)), allowed
        found[f"</{name.decode()}>"] = len(closing.findall(response)), allowed
    return {tag: count for tag, (count, allowed) in found.items() if count > allowed}


def _last_box(response: bytes) -> Span | None:
    start = response.rfind(b"\\boxed{")
    if start < 0:
        return None
    depth = 0
    for position in range(start + len(b"\\boxed"), len(response)):
        depth += {ord("{"): 1, ord("}"): -1}.get(response[position], 0)
        if depth == 0:
            return start, position + 1
    return None


def _is_one_box(answer: bytes) -> bool:
    return len(_BOXED.findall(answer)) == 1 and _last_box(answer) == (0, len(answer))


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace").strip()


class TokenBytes:
    """The bytes that each token stands for, of tokenizers by bytes or, as Gemma's, by pieces; control tokens stand for
    none."""

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.get_added_vocab()
        special = {*tokenizer.all_special_ids, *(added[token] for token in control_tokens(tokenizer) & added.keys())}
        self._bytes: dict[int, bytes] = {}
        self._written = {index: token.encode() for token, index in added.items()}
        byte_of = _byte_level_alphabet()
        vocabulary = tokenizer.get_vocab()
        is_byte_level = all(byte_of.keys() >= set(token) for token in vocabulary.keys() - added.keys())
        for token, index in vocabulary.items():
            if index in special:
                self._bytes[index] = b""
            elif token in added:
                self._bytes[index] = token.encode()
            else:
                self._bytes[index] = bytes(byte_of[c] for c in token) if is_byte_level else _bytes_of_piece(token)

    def of(self, token_ids: list[int]) -> list[bytes]:
        """Each token's bytes; ids outside the vocabulary (padding of the embedding) have none."""
        get = self._bytes.get
        return [get(token, b"") for token in token_ids]

    def written(self, token_ids: list[int]) -> list[bytes]:
        """Each token's bytes in a prompt, where control tokens are as they are written."""
        return [self._written.get(token) or self._bytes.get(token, b"") for token in token_ids]

    def is_control(self, token_id: int) -> bool:
        """Whether a token was added to the vocabulary of texts, such as an image's or the end of a turn."""
        return token_id in self._written


def _bytes_of_piece(token: str) -> bytes:
    """Of SentencePiece's vocabulary: spaces are written ▁, bytes <0xNN>."""
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()


class TokenPlaces:
    """Where the bytes of each token are in a response.

    Args:
        token_bytes: of the tokens; the response is their concatenation.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._ends = list(accumulate(map(len, token_bytes)))

    def span(self, span: Span) -> Span:
        """The tokens [start, end) that hold the bytes [start, end); a token on a boundary belongs to the span."""
        first = bisect_right(self._ends, span[0])
        last = bisect_left(self._ends, span[1])
        return first, min(last + 1, len(self._ends))


def _byte_level_alphabet() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character: printable ones as themselves, others from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet
