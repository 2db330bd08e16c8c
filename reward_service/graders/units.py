"""What may follow a number: words that multiply it, and its unit."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal

from reward_service.graders.vocabulary import by_word, table, words

_MULTIPLIERS = {word: Decimal(factor) for word, factor in by_word("multipliers").items()}
_IDEOGRAPHS = "".join(word for word in _MULTIPLIERS if len(word) == 1 and word.isalpha())
_SPELLED = "|".join(re.escape(word) for word in sorted(_MULTIPLIERS, key=len, reverse=True) if len(word) > 1)
_MULTIPLIER = re.compile(
    rf"\s*(?:\\?(?P<mark>[%‰])|(?P<thousand>(?<=\d)(?-i:k)(?![^\W\d_]))|(?P<word>{_SPELLED})(?![^\W\d_])\.?"
    rf"|(?P<ideograph>[{_IDEOGRAPHS}])(?![分克米瓦卡帕赫焦牛伏]))",  # `千克` is kilogram
    re.IGNORECASE,
)

_SYMBOLS = words("symbols")
_PREFIXED = re.compile(rf"(?:{'|'.join(words('symbol_prefixes'))})(?:{'|'.join(words('prefixed_symbols'))})")
_LITER = re.compile(rf"(?:{'|'.join(words('symbol_prefixes'))})?l")
_NAMES = by_word("names")
_NAME_PREFIXES = by_word("name_prefixes")
_COMMANDS = {r"\circ": "°", r"\degree": "°", r"\Omega": "Ω", r"\mu": "μ", r"\euro": "€", r"\pounds": "£", r"\yen": "¥"}
_TOKEN = re.compile(
    r"\s*(?P<slash>/|\bper\b|\bpro\b|\bpar\b|\bpor\b|每)?\s*"
    r"(?:(?P<word>°\s?[CF](?![^\W\d_])|[^\W\d_]+|[°'\"$€£¥₹₩])(?:(?:\^|(?<=[A-Za-z]))\{?(?P<power>[-+]?[1-9])\}?(?!\d))?)"
)

_NO_UNITS = words("no_units") | _MULTIPLIERS.keys()
_NO_UNIT_SIGNS: frozenset[str] = frozenset(*words("no_unit_signs"))
_OF = {"of", "de", "in"}
_MEANINGS = {word: frozenset(f"{one}^1" for one in symbols.split()) for word, symbols in table("meanings").items()}
_LONGEST = 4  # words that a unit has, or a multiplier


def multiplier(text: str, start: int) -> tuple[Decimal, int]:
    """The product of the words at a place that multiply the number before it (`million`, `%`, `万`), and their end."""
    factor = Decimal(1)
    for _ in range(_LONGEST):
        found = _MULTIPLIER.match(text, start)
        if found is None:
            break
        word = found["mark"] or found["word"] or found["ideograph"]
        factor *= _MULTIPLIERS[word.lower()] if word else 1000
        start = found.end()
    return factor, start


@dataclass(frozen=True)
class Unit:
    """What a number counts.

    Attributes:
        symbol: of known units, in one spelling; empty without one.
        words: others, such as `apple`.
    """

    symbol: str = ""
    words: frozenset[str] = frozenset()

    def agrees(self, other: "Unit") -> bool:
        """Whether the two name no different things; one that is left out agrees, and so do words beside a symbol."""
        if Unit() in (self, other):
            return True
        for one, another in ((self, other), (other, self)):
            if not one.symbol and another.symbol in frozenset().union(*(_MEANINGS.get(w, ()) for w in one.words)):
                return True
        return self.symbol == other.symbol and bool(self.words & other.words or not self.words or not other.words)


def unit(text: str) -> Unit | None:
    """The unit that a text is; an empty one for an empty text.

    None where the text is no unit, but something that changes the number before it.
    """
    text = re.sub(r"\\[A-Za-z]+", lambda command: _COMMANDS.get(command.group(), command.group()), text)
    text = re.sub(r"μ\s+(?=[A-Za-z])", "μ", re.sub(r"\^\s*\{?\s*°\s*\}?", "°", text))
    text = re.sub(r"\bdegrees?\s*([CF])(?![A-Za-z])", r"°\1", text)
    text = re.sub(r"\\?cdot|[·⋅*]", " ", text).rstrip(" \t\n.,;。，；、")
    text = re.sub(r"^(\s*)[(\[](.*)[)\]]$", r"\1 \2", re.sub(r"(?<=[^\W\d_])!+$", "", text))
    text = re.sub(r"(?<=/)\s*\(([^()]*)\)\s*$", r"\1", text)
    text = re.sub(r"\b(square|sq\.?|cubic|cu\.?)\s+([A-Za-z]+)", _power_behind, text)
    is_apart = text[:1].isspace()
    powers: Counter[str] = Counter()
    place, count, below, others = 0, 0, False, set()
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None or count == _LONGEST:
            return None
        place, count = found.end(), count + 1
        below = below or bool(found["slash"])
        is_preposition = found["word"] == "in" and count > 1  # `5 apples in a basket`; no inches
        symbol = None if is_preposition else _known(found["word"].replace(" ", ""))
        if symbol == "K" and not is_apart and count == 1:  # kelvin, or thousand
            return None
        if symbol is None:
            if found["power"] or not _is_plain_word(found["word"], is_apart or count > 1):
                return None
            if found["word"].isascii():  # Chinese has no spaces by which its words could be compared
                others.add(found["word"].casefold().removesuffix("s"))
            continue
        for part, power in _parts(symbol):
            powers[part] += power * int(found["power"] or 1) * (-1 if below else 1)
    if "°C" in powers or "°F" in powers:  # degrees Celsius
        del powers["°"]
    del powers["unit"]
    symbols = " ".join(f"{symbol}^{power}" for symbol, power in sorted(powers.items()) if power)
    return Unit(symbols, frozenset(others - _OF))


def _power_behind(found: re.Match[str]) -> str:
    return f"{found[2]}^{2 if found[1].startswith('s') else 3}"


def _parts(symbol: str) -> list[tuple[str, int]]:
    above, _, below = symbol.partition("/")
    powers = [factor.partition("^") for factor in above.split("·")]
    return [(name, int(power or 1)) for name, _, power in powers] + ([(below, -1)] if below else [])


def _known(word: str) -> str | None:
    """A unit's symbol, from its symbol or one of its names."""
    if word in _SYMBOLS or _PREFIXED.fullmatch(word):
        return word[:-1] + "L" if _LITER.fullmatch(word) else word
    if len(word) > 2 and word.removesuffix("s") in _SYMBOLS:  # `mins`
        return word.removesuffix("s")
    name = word.casefold()
    for candidate in (
        name,
        name.removesuffix("s"),
        name.removesuffix("n"),
        name.removesuffix("es"),
        name.removesuffix("en"),
    ):
        if candidate in _NAMES:
            return _NAMES[candidate]
        for prefix, symbol in _NAME_PREFIXES.items():
            if candidate.startswith(prefix) and candidate.removeprefix(prefix) in _NAMES:
                return symbol + _NAMES[candidate.removeprefix(prefix)]
    return None


def _is_plain_word(word: str, is_apart: bool) -> bool:
    """Whether a word may be what is counted: letters that follow a number at once are variables."""
    if word.casefold() in _NO_UNITS or _NO_UNIT_SIGNS & set(word):
        return False
    if all(unicodedata.category(letter) == "Lo" for letter in word):  # of a script without cases, such as Chinese
        return True
    return is_apart and (len(word) >= 3 or word in _OF)
