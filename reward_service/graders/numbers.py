"""The grader `numeric`, and how a number is read."""

import re
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, DivisionByZero, InvalidOperation, Overflow

from reward_service.graders.lead_in import without_lead_in
from reward_service.graders.texts import normalized
from reward_service.graders.units import Unit, multiplier, unit

# Numbers of any size: an overflow is an error, not a value that equals every other overflow.
_ARITHMETIC = Context(prec=60, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[DivisionByZero, InvalidOperation, Overflow])

_GROUPED = (
    r"(?!0)\d{1,3}(?:(?:,\d{3})+(?:\.\d+)?|(?:[ ']\d{3})+(?:[.,]\d+)?|(?:\.\d{3})+,\d+|(?:\.\d{3}){2,})(?![\d.,]\d|\d)"
)
_VALUE = rf"(?:{_GROUPED}|\d+,\d+(?![,\d])|\d+(?:\.\d*)?|\.\d+)"
_ARGUMENT = r"(?:\s*\{{\s*(?P<{0}>[-+]?\s*\d+(?:\.\d+)?)\s*\}}|\s*(?P<{0}_digit>\d))"
_FRACTION = r"\\[dtc]?frac" + _ARGUMENT.format("over") + _ARGUMENT.format("under")
_POWER_OF_TEN = r"10\s*(?:\^|\*\*)\s*[({]?\s*(?P<power>[-+]?\s*\d+)\s*[)}]?"
_NUMBER = re.compile(
    rf"""
    (?P<sign>[-+]?)\s*(?P<inner_sign>[-+]?)\s*
    (?:
      {_POWER_OF_TEN}
    | (?:(?P<whole>\d+)(?:\s+|(?=\\)))? (?:(?P<above>{_VALUE})\s*/\s*(?P<below>{_VALUE}) | {_FRACTION})
    | (?P<value>{_VALUE})
      (?:[eE](?P<exponent>[-+]?\d+) | \s*(?:\\times|\\cdot|[×·⋅*x])\s*{_POWER_OF_TEN.replace("power", "scale")})?
    )
    """,
    re.VERBOSE,
)
_ABOUT = re.compile(
    r"(?:[\s=≈≃≅∼~]|\\(?:approx|sim|simeq|cong)(?![A-Za-z])|(?:about|approximately|approx\.?|around|roughly|circa|ca\.?|etwa|"
    r"ungefähr|rund|environ|aproximadamente|unos|cerca de)(?=\s)|大?约|大?約|およそ)+",
    re.IGNORECASE,
)
_NAMED = re.compile(r"(?!not?\b)(?:\\?[A-Za-z]{1,12}(?:_(?:\w|\{\w+\}))?\s*){1,2}(?==|≈|\\approx)")
_CURRENCY = re.compile(r"([-+\s]*)(?:US|\\)?((?:USD|EUR|GBP|CNY|RMB|JPY|CHF|INR|Rs\.?)(?=[\s\d])|[$€£¥₹₩])")
_NO_COMMA, _NO_MARKS = r"[^()\[\]{}\"',]+", r"[^()\[\]{}\"']+"
# In brackets a comma separates: `(3,5)` is a pair or an interval.
_ENCLOSED = re.compile(rf"\(({_NO_COMMA})\)|\[({_NO_COMMA})\]|\{{({_NO_COMMA})\}}|\"({_NO_MARKS})\"|'({_NO_MARKS})'")


_GROUPED_IN_BRACKETS = re.compile(r"[(\[{]\s*([-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?)\s*[)\]}]")


@dataclass(frozen=True)
class Quantity:
    """A number that a text is.

    Attributes:
        value: percentages as fractions.
        unit: that it is of.
    """

    value: Decimal
    unit: Unit

    def equals(self, other: "Quantity", tolerance: float) -> bool:
        """Whether the values differ by no more than a relative error, and the units agree."""
        if not self.unit.agrees(other.unit):
            return False
        difference = _ARITHMETIC.subtract(self.value, other.value).copy_abs()
        largest = max(self.value.copy_abs(), other.value.copy_abs()) if other.value else Decimal(1)
        return difference <= _ARITHMETIC.multiply(Decimal(str(tolerance)), largest)


def numeric(answer: str, reference: str, _: str = "", *, tolerance: float) -> bool:
    r"""The same number within a relative error, and no other unit where both name one.

    Where the reference is no number, as `normalized`.
    """
    wanted, given = quantity(reference), quantity(answer)
    if wanted is None:
        return normalized(answer, reference) or normalized(_without_name(answer), _without_name(reference))
    if given is None and (grouped := _GROUPED_IN_BRACKETS.fullmatch(without_lead_in(answer))):
        given = quantity(grouped[1])
    return given is not None and given.equals(wanted, tolerance)


def quantity(text: str) -> Quantity | None:
    r"""The one number that a text is, such as `-1,000.5`, `3,5`, `2 1/2`, `\frac34`, `75\%`, `2 \times 10^3`, `12 cm`.

    None where it is none: a list, a pair, a date, or a number that something else changes (`2\pi`, `5x`).
    """
    text = _without_name(text)
    if about := _ABOUT.match(text):
        text = text[about.end() :]
    if enclosed := _ENCLOSED.fullmatch(text):
        text = enclosed[enclosed.lastindex or 0]
    if currency := _CURRENCY.match(text):
        text = currency[1] + text[currency.end() :]
    text = text.replace("{,}", ",")
    found = _NUMBER.match(text)
    if found is None:
        return None
    factor, end = multiplier(text, found.end())
    behind = unit(text[end:])
    if behind is None:
        return None
    try:
        value = _ARITHMETIC.multiply(_value(found), factor)
    except (InvalidOperation, DivisionByZero, Overflow):
        return None
    if "-" in (found["sign"], found["inner_sign"]):
        value = value.copy_negate()
    return Quantity(value, unit(currency[2]) or behind if currency and behind == Unit() else behind)


def _without_name(text: str) -> str:
    """Without a lead-in, and without `x =`."""
    text = without_lead_in(text)
    named = _NAMED.match(text)
    return text[named.end() :].lstrip(" =≈") if named else text


def _value(found: re.Match[str]) -> Decimal:
    if found["power"]:
        return _scaled(Decimal(1), found["power"])
    if found["value"]:
        return _scaled(_decimal(found["value"]), found["exponent"] or found["scale"] or "0")
    over = found["above"] or found["over"] or found["over_digit"]
    under = found["below"] or found["under"] or found["under_digit"]
    fraction = _ARITHMETIC.divide(_decimal(over), _decimal(under))
    if found["whole"] and not 0 < fraction < 1:
        raise InvalidOperation  # no mixed number
    return _ARITHMETIC.add(Decimal(found["whole"] or 0), fraction)


def _scaled(value: Decimal, exponent: str) -> Decimal:
    power = _ARITHMETIC.create_decimal("1E" + "".join(exponent.split()))
    return _ARITHMETIC.multiply(value, power)


def _decimal(text: str) -> Decimal:
    """Of digits with marks between them: the last one is a decimal mark where it is the only one of its kind."""
    text = re.sub(r"[\s']", "", text)
    if re.fullmatch(r"[-+]?(?!0)\d{1,3}(?:,\d{3})+(?:\.\d+)?", text):
        return Decimal(text.replace(",", ""))
    if text.count(",") == 1:
        return Decimal(text.replace(".", "").replace(",", "."))
    return Decimal(text.replace(".", "") if text.count(".") > 1 else text)
