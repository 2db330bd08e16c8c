"""What is wrong with a reference for its grader."""

import re

from reward_service.graders.any_of import listed
from reward_service.graders.choice import chosen, options
from reward_service.graders.expressions import is_expression
from reward_service.graders.numbers import quantity
from reward_service.graders.texts import plain
from vision_sr1.config import GraderName

_AROUND = re.compile(
    r"\\boxed\b|</?\s*(?:final_)?(?:answer|think|description)\s*>|^\s*####", re.IGNORECASE | re.MULTILINE
)


def unmatched(name: GraderName, reference: str, question: str) -> str | None:
    r"""Why no answer can match a reference; None where one can.

    An answer is the content of a `\boxed{}`: its braces balance, and no other box or tag is around it.
    """
    if not reference.strip():
        return "it is empty"
    if name == "judge":
        return None
    if around := _AROUND.search(reference):
        return f"it contains {around.group().strip()}; keep the answer alone"
    if name == "any_of":
        return None if any(plain(one) for one in listed(reference)) else "it lists no answer"
    is_text = name in ("exact", "normalized") or not can_read(name, reference, question)
    if is_text and not _balances(reference):
        return r"its braces do not balance, and those of \boxed{} do"
    return None


def can_read(name: GraderName, reference: str, question: str) -> bool:
    """Whether the grader of this name finds in a reference what it compares: a number, an option, an expression, words.

    Where it does not, it compares texts.
    """
    if name == "numeric":
        return quantity(reference) is not None
    if name == "choice":
        return bool(chosen(reference, options(question)))
    if name == "math_verify":
        return is_expression(reference) or quantity(reference) is not None
    if name == "any_of":
        return all(plain(one) for one in listed(reference)) and bool(listed(reference))
    return bool(plain(reference))


def _balances(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0
