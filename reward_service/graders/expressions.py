"""The graders `mathruler` and `math_verify`, which compare mathematical expressions."""

import logging
import re
import string
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from reward_service.graders.lead_in import without_lead_in
from reward_service.graders.numbers import quantity
from reward_service.graders.texts import normalized
from reward_service.graders.units import Unit, unit
from reward_service.graders.vocabulary import CHARACTERS, words

_DIGITS = 30
_LONGEST = 2000  # characters of mathematics; longer answers are texts
_DEEPEST = 30  # brackets within one another
_RELATIVE = 1e-5  # by which numbers differ at most that the library takes for equal

_SYMBOLS = str.maketrans({c: rf"\{name} " for c, name in CHARACTERS.items()} | {"°": r"^{\circ}", "、": ","})
_ROOT = re.compile(r"(?:√|(?<![A-Za-z\\])sqrt)\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))")
_EXPONENT = re.compile(r"(?<![\w.])(\d+\.?\d*|\.\d+)[eE]([-+]?\d+)(?![\w.])")
_MIXED = re.compile(r"(?<![\d.])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_HALF_OF = re.compile(r"(?<![\w.}])(\d+)\s*/\s*(\d+)(?=\s+(?:\\?[A-Za-z]|√))")  # `4/3 pi` is no `4/(3 pi)`
_DERIVATIVE = re.compile(r"[A-Za-z]\)?(?:'|\^?\{?\\prime)")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?: \d{3})+(?![\d.]*\d)")
_COMMAND = re.compile(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+|_\{[A-Za-z]+\}")
_FUNCTIONS = words("functions")
_FUNCTION = re.compile(rf"(?<![A-Za-z\\])({'|'.join(sorted(words('commands'), key=len, reverse=True))})(?![A-Za-z])")
# Dates, times, versions and addresses: numbers joined by marks that mean no arithmetic.
_NO_ARITHMETIC = re.compile(
    r"(?<![\d.])(?:\d{4}\s*([-/.])\s*\d{1,2}\s*\1\s*\d{1,2}|\d{1,2}\s*([-/.])\s*\d{1,2}\s*\2\s*\d{2,4}"
    r"|\d+\s*[-/]\s*0\d+|0\d+\s*[-/]\s*\d+|\d{3}-\d{4}|(?:1[89]|20)\d\d-(?:1[89]|20)\d\d"
    r"|\d\d:\d\d|\d:0\d|\d+:\d+:\d+|\d+(?:\.\d+){2,})(?![\d.]*\d)"
)
_UNKNOWNS = frozenset("xyzXYZ (){}\\")
_DEGREES = r"\s*\^\s*\{?\s*\\circ\s*\}?(?:\s*[CF])?"
_BEHIND = re.compile(
    rf"(?P<body>.*(?:[\d)}}\]]|\\pi))(?P<unit>{_DEGREES}|\s+[^\s\d(){{}}\[\]=<>,;^][^=<>,;]*|[A-Za-zμ]{{2}}[^=<>,;]*)"
)
_VARIABLE = re.compile(r"[-+]?[\d.]+[A-Za-z](?:\^.*)?")  # behind a number at once: `2m` may be twice m


def mathruler(answer: str, reference: str, _: str = "") -> bool:
    """The authors' rule: equal after normalization, or equal as mathematical expressions."""
    from mathruler.grader import grade_answer

    return bool(grade_answer(answer, reference))


def math_verify(answer: str, reference: str, _: str = "") -> bool:
    """Equal to the library math-verify, as expressions, sets, intervals or equations; else as `normalized`.

    Words are no products of letters, dates no differences, small numbers not equal because both are small, and an
    equation stands for its right side only where its left side is a name for it.
    """
    from math_verify import verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limit is off; ours kills
    if "=" in answer and "=" in reference and _primes(answer) != _primes(reference):  # which the library drops
        return False
    given, wanted = _read(answer), _read(reference)
    if not given.unit.agrees(wanted.unit):
        return False
    if given.number is not None and given.number == wanted.number:
        return True
    if verify(wanted.expressions, given.expressions, timeout_seconds=None) and any(
        _stands_for(one, other) and _is_as_large(one, other)
        for one in given.expressions
        for other in wanted.expressions
    ):
        return True
    return normalized(answer, reference)


def _primes(equation: str) -> int:
    """Of what its left side derives."""
    left = equation.partition("=")[0]
    return left.count("'") + left.count("′") + left.count("\\prime")


def is_expression(text: str) -> bool:
    """Whether `math_verify` compares a text as mathematics."""
    return bool(_read(text).expressions)


@dataclass(frozen=True)
class _Mathematics:
    """What a text says: a number in decimals, expressions, and the unit behind either."""

    number: Decimal | None
    expressions: list[Any]
    unit: Unit


def _read(text: str) -> _Mathematics:
    text = without_lead_in(text).rstrip(" .,;。，；")
    found = None if "=" in text or _VARIABLE.fullmatch(text) else quantity(text)
    if len(text) > _LONGEST or _NO_ARITHMETIC.search(text):
        return _Mathematics(None, [], Unit())
    named = found.unit if found else Unit()
    behind = _BEHIND.fullmatch(text.translate(_SYMBOLS))
    body = text
    if behind and (symbol := unit(behind["unit"])) is not None:
        body, named = behind["body"], symbol
    # A list of two numbers is no number with a decimal comma here.
    number = found.value if found and not re.search(r"\d,\d{1,2}(?!\d)", text) else None
    return _Mathematics(number, [] if _is_in_words(body) else _parsed(_latex(body)), named)


def _latex(text: str) -> str:
    text = _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2] or root[3]}}}", text)
    text = _FUNCTION.sub(r"\\\1 ", text).replace("**", "^")
    text = _EXPONENT.sub(r"\1 \\times 10^{\2}", _MIXED.sub(r"(\1+\\frac{\2}{\3})", text))
    text = _THOUSANDS.sub(lambda number: number.group().replace(" ", ""), text)
    text = _HALF_OF.sub(r"\\frac{\1}{\2}", text)
    return re.sub(r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi ", text).translate(_SYMBOLS)


def _is_in_words(text: str) -> bool:
    """Whether a text's letters are words rather than variables, or have primes, which the library would drop."""
    if "=" not in text and _DERIVATIVE.search(text):
        return True
    letters = _COMMAND.sub(" ", text)
    for run in re.finditer(r"[^\W\d_]+", letters):
        word = run.group().casefold()
        if not set(run.group()) - CHARACTERS.keys() <= set(string.ascii_letters):
            return True
        is_product = set(word) <= set("xyz") or (set(word) <= set("abc") and letters[: run.start()][-1:].isdigit())
        if len(word) > 2 and word not in _FUNCTIONS and not is_product:
            return True
    parts = map(str.strip, re.split(r"[,;]|\band\b|\bor\b", text))
    return text == letters and any(map(_is_part_in_words, parts))


def _is_part_in_words(text: str) -> bool:
    """Whether letters alone, and marks between words, are words: `no`, `c a t`, `no/on`, but not `a/b` or `sin(x)`."""
    runs = re.findall("[A-Za-z]+", text)
    if not re.fullmatch(r"[A-Za-z\s/'&(){}\\-]{2,}", text) or len("".join(runs)) < 2 or set(text) <= _UNKNOWNS:
        return False
    is_listed = bool(re.search(r"['&]|\b[A-Za-z]\s+[A-Za-z]\b", text))
    is_calculated = bool(re.search("[/-]", text)) and any(len(run) == 1 for run in runs)
    return is_listed or (not is_calculated and any(len(run) > 1 and run.casefold() not in _FUNCTIONS for run in runs))


def _parsed(latex: str) -> list[Any]:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse
    from sympy.core.relational import Relational

    if re.search(r"(?<![_^\d])\d+\s+\d", latex):  # side by side, which the library takes for a product
        return []
    if not _can_be_nested(latex):
        return []
    # Its list of units has `c` and `ab` in it, which are variables.
    normalization = NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, boxed="last")
    boxes = LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalization)
    found: list[Any] = parse(
        rf"\boxed{{{latex}}}", extraction_config=[boxes], fallback_mode="no_fallback", parsing_timeout=None
    )
    # Of a chain that it cannot read it takes the last side.
    return found if "=" not in latex or all(expression.has(Relational) for expression in found) else []


def _can_be_nested(latex: str) -> bool:
    """Whether as many brackets close as open, and few are open at once: the library takes long for others."""
    depth = deepest = 0
    for character in latex:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return depth == 0 and deepest <= _DEEPEST


def _stands_for(given: Any, wanted: Any) -> bool:
    """Whether an equation may be compared by its right side: its left side is a name, or the same number."""
    from math_verify.grader import is_equation
    from sympy import FiniteSet

    if isinstance(given, FiniteSet):
        return all(_stands_for(one, wanted) for one in given.args)
    if not is_equation(given):
        return True
    sides = _sides(given)
    numbers = [side for side in sides if side.is_number]
    if any(not _is_close(number, numbers[0]) for number in numbers):
        return False
    return bool(is_equation(wanted) or _is_name(sides[0]) or sides[0].is_number)


def _is_name(side: Any) -> bool:
    """Whether a side of an equation is `x`, `f(x)`, `AB` or `A/B`: names for the other side."""
    from sympy import Symbol, Tuple
    from sympy.core.function import AppliedUndef

    if side.is_Mul or isinstance(side, Tuple):
        return all(map(_is_name, side.args))
    return isinstance(side, (Symbol, AppliedUndef)) or bool(side.is_Pow and side.exp == -1 and _is_name(side.base))


def _sides(equation: Any) -> list[Any]:
    """Of `a = b`, and of `a = b = c`."""
    parts = getattr(equation, "_unsorted_args", (equation,))
    return [parts[0].lhs, *(part.rhs for part in parts)]


def _is_as_large(given: Any, wanted: Any) -> bool:
    """Whether the numbers of two equal expressions are close; the library's own rounding is absolute."""
    ones, others = _numbers(given), _numbers(wanted)
    return len(ones) != len(others) or all(map(_is_close, ones, others))


def _numbers(expression: Any) -> list[Any]:
    """The numbers that an expression is, or consists of, by size."""
    from sympy import FiniteSet, Interval, MatrixBase, N, Tuple
    from sympy.core.relational import Relational

    if isinstance(expression, Relational) or (
        hasattr(expression, "_unsorted_args") and not isinstance(expression, FiniteSet)
    ):
        parts = [side for side in _sides(expression) if not side.is_symbol]
    elif isinstance(expression, Interval):
        parts = [expression.start, expression.end]
    elif isinstance(expression, MatrixBase):
        parts = list(expression.flat())
    elif isinstance(expression, (FiniteSet, Tuple)):
        parts = [number for part in expression.args for number in _numbers(part)]
    else:
        parts = [expression]
    numbers = [part for part in parts if part.is_number and part.is_extended_real]
    return sorted(numbers, key=lambda number: N(number, _DIGITS))


def _is_close(one: Any, other: Any) -> bool:
    from math_verify.grader import get_pct_val
    from sympy import Abs, Max, N, simplify

    if one == other:
        return True
    pairs = [(one, other), (get_pct_val(one, one), get_pct_val(other, other))]  # `50%` is 50 as well
    for a, b in pairs:
        x, y = N(a.doit(), _DIGITS), N(b.doit(), _DIGITS)
        if Abs(x - y) <= _RELATIVE * Max(Abs(x), Abs(y)):
            return True
    return simplify(one - other) == 0
