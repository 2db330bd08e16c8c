r"""The reward `answer_leak`: 1 where a description gives the answer away as a bare statement, not an observation.

It is so where the description has a `\boxed`, says that the answer is what the response then answers, or has a sentence
that is nothing but that answer. That the answer's words occur in an observation ("the square is red") is what a good
description is about, and does not count.
"""

import re

from vision_sr1.config import RewardConfig
from vision_sr1.rewards import Reward, ScoredResponse

_SENTENCE_END = re.compile(r"(?:[.!?\n]|;(?!(?<=\d;)\s*\d))+")  # `12; 15` are values
_NUMBERED = re.compile(r"(?:^|(?<=[\s.;:!?]))(\d{1,2})[.)](?=\s+\S)")
_MARKS = " \"'`*_()[]{}<>,-"
_LEAD_IN = r"\b(?:answer|solution|result)\b\s*(?:is|=|:|must be|would be|should be)?\s*:?\s*(?:the|an?)?\s*"


def answer_leak(answered: ScoredResponse, _: RewardConfig) -> Reward:
    """1 with the words that give the answer away, or 0."""
    leak = stated_answer(answered.description or "", answered.answer)
    if leak is None:
        return Reward(0.0, "the description does not state the answer")
    return Reward(1.0, f"the description states the answer: {leak!r}")


def stated_answer(description: str, answer: str | None) -> str | None:
    """The words of a description that state the answer; None where it does not."""
    if "\\boxed" in description:
        return "\\boxed"
    if not answer:
        return None
    stated = re.escape(" ".join(answer.lower().split()))
    if said := re.search(_LEAD_IN + rf"\W?{stated}(?!\w)", " ".join(description.lower().split())):
        return said.group()
    for sentence in _SENTENCE_END.split(_without_numbers(description.lower())):
        bare = " ".join(sentence.split()).strip(_MARKS)
        if re.fullmatch(rf"\W?{stated}\W?", bare):
            return bare
    return None


def _without_numbers(text: str) -> str:
    """Without the numbers 1, 2, 3 … of a list's items."""
    number = 0

    def item(found: re.Match[str]) -> str:
        nonlocal number
        is_next = int(found[1]) == number + 1
        number += is_next
        return "." if is_next else found.group()

    return _NUMBERED.sub(item, text)
