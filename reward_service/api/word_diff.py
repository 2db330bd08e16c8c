"""The words in which two texts differ."""

import re
from difflib import SequenceMatcher

from vision_sr1.client.models import DiffPart

_WORD = re.compile(r"\s*\S+|\s+$")  # with the white space before it, so that the words are the text


def word_diff(old: str, new: str) -> list[DiffPart]:
    """The parts that both have, and those that only one has, in order. Equal parts are as `new` writes them."""
    before, after = _WORD.findall(old), _WORD.findall(new)
    matcher = SequenceMatcher(None, [word.strip() for word in before], [word.strip() for word in after])
    parts: list[DiffPart] = []
    for change, first, last, start, end in matcher.get_opcodes():
        if change == "equal":
            parts.append(DiffPart(kind="same", text="".join(after[start:end])))
            continue
        if first < last:
            parts.append(DiffPart(kind="removed", text="".join(before[first:last])))
        if start < end:
            parts.append(DiffPart(kind="added", text="".join(after[start:end])))
    return parts
