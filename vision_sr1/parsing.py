r"""Reading a response: `<description>…</description> <think>…</think> \boxed{…}`, and where each part's tokens are.

Works on bytes, because a token is a run of bytes: spans of the text are then exactly spans of tokens, whatever
characters a token boundary cuts through.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

# The authors' code removes white space around each of < > / before it reads a response; tags here match either way.
_OPEN, _CLOSE = rb"<\s*%s\s*>", rb"<\s*/\s*%s\s*>"
_DESCRIPTION = re.compile(_OPEN % b"description" + rb"(?P<content>.*?)" + _CLOSE % b"description", re.DOTALL)
_THINK = re.compile(_OPEN % b"think" + rb"(?P<content>.*?)" + _CLOSE % b"think", re.DOTALL)
_BOXED = re.compile(rb"\\boxed\{")
_DESCRIBED, _THOUGHT = (block.pattern.replace(b"?P<content>", b"") for block in (_DESCRIPTION, _THINK))
_ANSWERED = rb"\s*(?P<answer>\\boxed\{.*\})\s*"

Span = tuple[int, int]
ResponseFormat = Literal["description_think_answer", "think_answer"]

_FORMATS: dict[ResponseFormat, re.Pattern[bytes]] = {
    "description_think_answer": re.compile(rb"\s*" + _DESCRIBED + rb"\s*" + _THOUGHT + _ANSWERED, re.DOTALL),
    "think_answer": re.compile(rb"\s*" + _THOUGHT + _ANSWERED, re.DOTALL),
}


@dataclass(frozen=True)
class ParsedResponse:
    """The parts of a response; spans are [start, end) in bytes and include tags.

    Attributes:
        description: text between the description tags, None without a complete block.
        answer: content of the last `\\boxed{}` with balanced braces, None without one.
        format: which blocks the response is, in this order with one box at the end and nothing else; None: neither.
    """

    description: str | None
    answer: str | None
    format: ResponseFormat | None
    description_span: Span | None
    think_span: Span | None
    answer_span: Span | None


def parse_response(response: bytes) -> ParsedResponse:
    """Reads a response strictly: what is not in its block is not taken for it."""
    description = _DESCRIPTION.search(response)
    think = _THINK.search(response, description.end() if description else 0)
    boxed = _last_box(response)
    return ParsedResponse(
        description=_text(description["content"]) if description else None,
        answer=_text(response[boxed[0] + len(b"\\boxed{") : boxed[1] - 1]) if boxed else None,
        format=_format(response),
        description_span=description.span() if description else None,
        think_span=think.span() if think else None,
        answer_span=boxed,
    )


def _format(response: bytes) -> ResponseFormat | None:
    for name, pattern in _FORMATS.items():
        whole = pattern.fullmatch(response)
        if whole is not None and _is_one_box(whole["answer"]):
            return name
    return None


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
    """The bytes that each token of a byte-level tokenizer stands for; special tokens stand for none."""

    def __init__(self, tokenizer: Any) -> None:
        special = set(tokenizer.all_special_ids)
        added = tokenizer.get_added_vocab()
        self._bytes: dict[int, bytes] = {}
        byte_of = _byte_level_alphabet()
        for token, index in tokenizer.get_vocab().items():
            if index in special:
                self._bytes[index] = b""
            elif token in added:
                self._bytes[index] = token.encode()
            else:
                self._bytes[index] = bytes(byte_of[character] for character in token)

    def pieces(self, token_ids: list[int]) -> list[bytes]:
        """Each token's bytes; ids outside the vocabulary (padding of the embedding) have none."""
        return [self._bytes.get(token, b"") for token in token_ids]


def token_span(pieces: list[bytes], span: Span) -> Span:
    """The tokens [start, end) that hold the bytes [start, end); a token on a boundary belongs to the span."""
    first = last = len(pieces)
    position = 0
    for index, piece in enumerate(pieces):
        following = position + len(piece)
        if first == len(pieces) and following > span[0]:
            first = index
        if following >= span[1]:
            last = index + 1
            break
        position = following
    return first, last


def _byte_level_alphabet() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character: printable ones as themselves, others from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet
