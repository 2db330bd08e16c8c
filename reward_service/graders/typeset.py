"""Mathematics in one spelling, to compare short formulas as texts."""

import re

from reward_service.graders.texts import plain
from reward_service.graders.vocabulary import CHARACTERS

_NAMED = {name: character for character, name in CHARACTERS.items() if name.islower()} | {
    "le": "≤",
    "ge": "≥",
    "ne": "≠",
}
_COMMAND = re.compile(rf"\\({'|'.join(sorted(_NAMED, key=len, reverse=True))})(?![a-z])\s*")
_DEGREES = re.compile(r"\s*\^\s*\{?\s*\\(?:circ|degree)\s*\}?")
_SCRIPT = re.compile(r"([_^])\s*\{([^{}]*)\}")
_ROOT = re.compile(r"(?:\\sqrt|√)\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\d+|[a-z]))")
_FRACTION = re.compile(r"(\d?)\s*\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)\s*(\d))")
_SIMPLE = re.compile(r"-?[\w.]+|√\(\w+\)")
_GAP = re.compile(r"(?<![^\W_]) | (?![^\W_])|(?<=\d) (?=[^\W\d_])")
_GROUPED = re.compile(r"(?<![\d,(\[{])\d{1,3}(?:,\d{3})+(?![\d,])")
_NESTED = 5  # fractions and roots within one another


def in_one_spelling(text: str) -> str:
    r"""A text as `plain` has it, with `1/2` for `\frac{1}{2}`, `√(3)` for `\sqrt3`, `°` for `^\circ`, `π` for `\pi`.

    Without braces around scripts, spaces beside signs, and the marks that group digits.
    """
    text = _COMMAND.sub(lambda found: _NAMED[found[1]], _DEGREES.sub("°", plain(text)))
    text = text.replace("\\%", "%")
    for _ in range(_NESTED):
        before = text
        text = _SCRIPT.sub(lambda found: found[1] + _bracketed(found[2]), text)
        text = _ROOT.sub(lambda found: f"√({(found[1] or found[2] or found[3] or '').strip()})", text)
        text = _FRACTION.sub(_fraction, text)
        if text == before:
            break
    text = text.replace("\\{", "{").replace("\\}", "}").replace("_", "")
    text = _GAP.sub("", " ".join(text.split()))
    return _GROUPED.sub(lambda number: number.group().replace(",", ""), text)


def _fraction(found: re.Match[str]) -> str:
    whole = f"{found[1]} " if found[1] else ""
    return f"{whole}{_bracketed(found[2] or found[4])}/{_bracketed(found[3] or found[5])}"


def _bracketed(text: str | None) -> str:
    text = (text or "").strip()
    return text if _SIMPLE.fullmatch(text) else f"({text})"
