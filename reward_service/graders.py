"""Rules that say whether an answer is right. They run where they can be killed (`grading.py`): some do algebra."""

import json
import logging
import math
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from vision_sr1.config import GraderName

Grader = Callable[[str, str, str], bool]  # answer, reference, question

_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\s*\{([^{}]*)\}")
_LETTER = re.compile(r"\(?([A-Za-z])\)?")
_SAID = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+|final\s+|best\s+)?(?:answer|option|choice)\s*(?:is|:)?\s*:?\s*)?"
    r"[(\[]?([A-Za-z])(?:[)\].:](?:\s.*)?)?",
    re.IGNORECASE | re.DOTALL,
)
_OPTION = re.compile(r"(?:^|\s)[(\[]?([A-Z])[)\].:]\s*(.+?)(?=(?:\s+[(\[]?[A-Z][)\].:]\s)|\n|$)", re.DOTALL)
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*(?:\\[dt]?frac\s*\{\s*(?P<over>\d+(?:\.\d+)?)\s*\}\s*\{\s*(?P<under>\d+(?:\.\d+)?)\s*\}"
    r"|(?P<value>\d[\d,]*\.?\d*(?:e[-+]?\d{1,3})?|\.\d+)(?:\s*/\s*(?P<by>\d+(?:\.\d+)?))?)\s*(?P<percent>\\?%)?",
    re.IGNORECASE,
)


def grade(name: GraderName, answer: str, reference: str, question: str, numeric_tolerance: float) -> bool:
    """Whether the rule of this name takes the answer for right; `judge` is none (grading.py)."""
    graders: dict[GraderName, Grader] = {
        "mathruler": mathruler,
        "math_verify": math_verify,
        "exact": exact,
        "normalized": normalized,
        "choice": choice,
        "numeric": partial(numeric, tolerance=numeric_tolerance),
        "any_of": partial(any_of, tolerance=numeric_tolerance),
    }
    return graders[name](answer, reference, question)


def can_read(name: GraderName, reference: str, question: str) -> bool:
    """Whether the grader of this name finds in a reference what it compares: a number, an option, an expression, words.

    Where it does not, it compares texts.
    """
    if name == "numeric":
        return _number(reference) is not None
    if name == "choice":
        return _option(reference, _options(question)).isupper()
    if name == "math_verify":
        return bool(_expressions(reference))
    if name == "any_of":
        return all(_plain(one) for one in _listed(reference)) and bool(_listed(reference))
    return bool(_plain(reference))


def warm_up(names: Iterable[GraderName]) -> None:
    """Loads what the graders of these names need: a second or more that is not to count as grading."""
    for name in names:
        if name == "judge":
            continue
        grade(name, r"\frac{1}{2}", "0.5", "", 0.0)


def mathruler(answer: str, reference: str, _: str = "") -> bool:
    """The authors' rule: equal after normalization, or equal as mathematical expressions."""
    from mathruler.grader import grade_answer

    return bool(grade_answer(answer, reference))


def math_verify(answer: str, reference: str, _: str = "") -> bool:
    """Equal to the library math-verify, as expressions, sets, intervals or equations; else as `normalized`."""
    from math_verify import verify

    wanted, given = _expressions(reference), _expressions(answer)
    if wanted and given and verify(wanted, given, timeout_seconds=None):
        return True
    return normalized(answer, reference)


def exact(answer: str, reference: str, _: str = "") -> bool:
    """The same characters, white space around them aside."""
    return answer.strip() == reference.strip()


def normalized(answer: str, reference: str, _: str = "") -> bool:
    r"""The same words: case, white space, articles, `\text{}`, dollar signs and punctuation at the ends aside."""
    return _plain(answer) == _plain(reference)


def choice(answer: str, reference: str, question: str) -> bool:
    r"""The same option, by its letter (`B`, `(b)`, `B. blue`, `Answer: B`) or by its text in the question."""
    options = _options(question)
    return _option(answer, options) == _option(reference, options)


def numeric(answer: str, reference: str, _: str = "", *, tolerance: float) -> bool:
    r"""The same number within a relative error; `1,000`, `3/4`, `\frac{3}{4}`, `75\%`, `1.5e3`, `12 cm` are numbers.

    Where the reference is no number, as `normalized`.
    """
    wanted, given = _number(reference), _number(answer)
    if wanted is None:
        return normalized(answer, reference)
    return given is not None and math.isclose(given, wanted, rel_tol=tolerance, abs_tol=0.0 if wanted else tolerance)


def any_of(answer: str, reference: str, _: str = "", *, tolerance: float) -> bool:
    """One of the answers that the reference lists (a JSON list of texts), each as a number or as `normalized`."""
    return any(numeric(answer, one, tolerance=tolerance) for one in _listed(reference))


def _listed(reference: str) -> list[str]:
    try:
        listed = json.loads(reference)
    except ValueError:
        return [reference]
    return [str(one) for one in listed] if isinstance(listed, list) else [reference]


def _plain(text: str) -> str:
    text = _TEXT.sub(r"\1", unicodedata.normalize("NFKC", text)).replace("$", "").casefold()
    words = text.strip(" \t\n.,;:!?\"'`").split()
    return " ".join(word for word in words if word not in ("a", "an", "the") or len(words) == 1)


def _expressions(text: str) -> list[Any]:
    from math_verify import parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limit is off; ours kills
    found: list[Any] = parse(rf"\boxed{{{text}}}", fallback_mode="no_fallback", parsing_timeout=None)
    return found


def _options(question: str) -> dict[str, str]:
    """The question's options, in words, by their letters."""
    return {letter.upper(): _plain(text) for letter, text in _OPTION.findall(question)}


def _option(text: str, options: dict[str, str]) -> str:
    """The letter that a text stands for, where it stands for one; else the text itself."""
    text = _TEXT.sub(r"\1", text).replace("$", "").strip().rstrip(".")
    by_text = [letter for letter, option in options.items() if option == _plain(text)]
    if len(by_text) == 1:
        return by_text[0]
    said = _LETTER.fullmatch(text) or _SAID.fullmatch(text)
    if said and (not options or said.group(1).upper() in options):
        return said.group(1).upper()
    return _plain(text)


def _number(text: str) -> float | None:
    """The one number that a text is, a unit behind it or a currency sign before it aside."""
    text = _TEXT.sub(r"\1", text).replace("\\$", "").replace("$", "").replace("\u2212", "-").replace("\\,", "").strip()
    found = _NUMBER.match(text.lstrip("€£¥≈~="))
    if found is None or re.search(r"\d", text[found.end() :]):
        return None
    over, under = found["over"] or found["value"].replace(",", ""), found["under"] or found["by"]
    value = float(over) / (float(under) if under else 1.0) if under is None or float(under) else None
    if value is None:
        return None
    return (-1.0 if found["sign"] == "-" else 1.0) * value * (0.01 if found["percent"] else 1.0)
