"""The words in which two texts differ."""

import re
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import takewhile

from vision_sr1.client.models import DiffPart

MOST_WORK = 100_000_000  # some seconds at worst

_WORD = re.compile(r"\s*\S+|\s+$")  # with the white space before it, so that the words are the text

Change = tuple[str, int, int, int, int]  # as SequenceMatcher.get_opcodes has it


def word_diff(old: str, new: str) -> list[DiffPart]:
    """The parts that both have, and those that only one has, in order. Equal parts are as `new` writes them."""
    before, after = _WORD.findall(old), _WORD.findall(new)
    parts: list[DiffPart] = []
    for change, first, last, start, end in _changes(
        [word.strip() for word in before], [word.strip() for word in after]
    ):
        if change == "equal":
            parts.append(DiffPart(kind="same", text="".join(after[start:end])))
            continue
        if first < last:
            parts.append(DiffPart(kind="removed", text="".join(before[first:last])))
        if start < end:
            parts.append(DiffPart(kind="added", text="".join(after[start:end])))
    return parts


def _changes(before: list[str], after: list[str]) -> Iterator[Change]:
    """What both begin and end with, and the changes between; where those take too long, frequent words do not count."""
    head = _same(before, after)
    tail = _same(before[head:][::-1], after[head:][::-1])
    if head:
        yield "equal", 0, head, 0, head
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    for change, first, last, start, end in SequenceMatcher(None, old, new, _work(old, new) > MOST_WORK).get_opcodes():
        yield change, head + first, head + last, head + start, head + end
    if tail:
        yield "equal", len(before) - tail, len(before), len(after) - tail, len(after)


def _same(before: list[str], after: list[str]) -> int:
    """How many words both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))


def _work(before: list[str], after: list[str]) -> int:
    """Steps of SequenceMatcher at worst: pairs of equal words, for as many blocks as there may be."""
    counts = Counter(after)
    return sum(counts[word] for word in before) * min(len(before), len(after))
