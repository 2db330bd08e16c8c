"""Texts as graders compare them, and the graders `exact` and `normalized`."""

import re
import unicodedata

from reward_service.graders.vocabulary import words

_WRAPPER = re.compile(
    r"\\(?:(?:text|math)(?:bf|it|md|normal|rm|sf|tt|up)?|operatorname|emph|[mhf]box|bm|boldsymbol|underline)\s*"
    r"\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_UNIT_COMMAND = re.compile(r"(?<=[\d)}])(?=\\(?:text|math)[a-z]*\s*\{\s*[^\W\d_])")
_WRAPPERS = 5  # as deep as they are unwrapped
_MARKDOWN = re.compile(r"(?<![\w*`\\])(\*{1,3}|_{1,3}|`{1,3})(?![\s*_`])([^*`\n]{1,100}?)(?<!\s)\1(?![\w*`])")
_SPACING = re.compile(r"(?<!\\)\\(?:[,;: ]|q?quad\b|enspace\b|thinspace\b)|(?<=\S)~")
_NO_MEANING = re.compile(r"(?<!\\)\\(?:[()\[\]!]|displaystyle\b|(?:left|right|[bB]igg?[lr]?)(?![A-Za-z]))")
_SIGNS = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d", "-")  # hyphens, dashes, minus
    | dict.fromkeys("‘’‚‹›′｀＇", "'")
    | dict.fromkeys("“”„«»「」『』《》″＂", '"')
    | {"\u066b": ".", "\u066c": ",", "\u066a": "%"}  # Arabic decimal and thousands separators, percent
    | {"！": "。", "\u2044": "/", "º": "°", "˚": "°", "µ": "μ", "Ω": "Ω", "Å": "Å"}
)


def _decomposing(kind: str, but: str = "") -> str:
    """The characters that Unicode takes for raised, lowered or fractions, as a class of a regular expression."""
    found = (chr(code) for code in range(0x3000) if unicodedata.decomposition(chr(code)).startswith(kind))
    return f"[{''.join(character for character in found if character not in but)}]"


_SMALL = re.compile(
    f"(?P<raised>{_decomposing('<super>', but='ªº™℠')}+)|(?P<lowered>{_decomposing('<sub>')}+)"
    f"|(?P<fraction>{_decomposing('<fraction>')})"
)
_SPELLED = {"raised": "^{%s}", "lowered": "_{%s}", "fraction": " %s"}
_SHORT_SCRIPT = re.compile(r"([_^])\{(\w)\}")
_COMMA = re.compile(r" ?([,;]) ?(?![\d ])|(?<![\d ]) ?([,;]) ?")  # but `1,000` and `1, 000` differ
_COMMA_IN_BRACKETS = re.compile(r" ?([,;]) ?()")
_LONGEST_COMMAND = 20
_CLOSES = re.compile(r"\\[A-Za-z]+$")
_HAS_FACTORIAL = re.compile(r"(?:[\d)}]|(?<!\w)[A-Za-z])!{0,2}$")
_HAS_PRIME = re.compile(r"(?:[\d)}]|(?<!\w)(?:[A-Za-z]|[A-Z]{2,4}))['\"]{0,3}$")
_BEFORE = 8  # characters before a mark that tell what it is
_ENDS = " \t\r\n.,;:!?¡¿\"'`…。，、；：！？"
_ARTICLES, _BEFORE_A = words("articles"), words("before_a")


def exact(answer: str, reference: str, _: str = "") -> bool:
    """The same characters, white space around them aside."""
    return answer.strip() == reference.strip()


def normalized(answer: str, reference: str, _: str = "") -> bool:
    """The same words: case, white space, articles, marks of LaTeX and Markdown, punctuation at the ends aside."""
    given, wanted = plain(answer), plain(reference)
    return given == wanted or _without_articles(given) == _without_articles(wanted)


def clean(text: str) -> str:
    r"""The characters that a text means, however they are typeset.

    Full-width and Arabic digits, dashes and quotes become ASCII; `²` becomes `^{2}` and `½` becomes `1/2`; Markdown,
    `\text{}`, spacing commands and the delimiters of mathematics go. A dollar sign stays where it is a currency.
    """
    text = "".join(character for character in text if unicodedata.category(character) != "Cf").translate(_SIGNS)
    text = unicodedata.normalize("NFKC", _SMALL.sub(_spelled, text)).translate(_SIGNS)
    text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    text = _NO_MEANING.sub("", _SPACING.sub(" ", text))
    for _ in range(_WRAPPERS):
        text, count = _WRAPPER.subn(_unwrapped, text)
        if not count:
            break
    text = _MARKDOWN.sub(r"\2", _MARKDOWN.sub(r"\2", text))
    return _without_delimiters(text).strip()


def _unwrapped(found: re.Match[str]) -> str:
    r"""What a command wraps; `\circ\text{C}` is no command `\circC`."""
    command = _CLOSES.search(found.string, max(0, found.start() - _LONGEST_COMMAND), found.start())
    return f" {found[1]}" if command and found[1][:1].isalpha() else found[1]


def spaced(text: str) -> str:
    r"""With a space before a unit that only its command sets apart from the number: `5\text{cm}`."""
    return _UNIT_COMMAND.sub(" ", text)


def plain(text: str) -> str:
    """A text's words in one case, single spaces between them, without the punctuation around them."""
    text = _SHORT_SCRIPT.sub(r"\1\2", clean(text).replace("$", ""))
    in_one_case = " ".join((_trimmed(text) or text).casefold().split())
    comma = _COMMA_IN_BRACKETS if in_one_case[:1] in tuple("([{") else _COMMA
    return comma.sub(lambda found: f"{found[1] or found[2]} ", in_one_case).strip()


def _spelled(found: re.Match[str]) -> str:
    return _SPELLED[found.lastgroup or ""] % unicodedata.normalize("NFKC", found.group())


def _without_delimiters(text: str) -> str:
    r"""`\$` is a currency, `$…$` and `$$…$$` are mathematics, a single `$` is a currency."""
    parts = text.split(r"\$")
    if sum(part.count("$") for part in parts) % 2 == 0:
        parts = [part.replace("$", "") for part in parts]
    return "$".join(parts)


def _trimmed(text: str) -> str:
    """Without punctuation at the ends; `!` and quotes stay where they may be a factorial, a derivative or a unit."""
    start = next((i for i, c in enumerate(text) if c not in _ENDS), len(text))
    opened = text[:start]
    if opened.endswith((".", ",")) and text[start : start + 1].isdigit():
        start -= 1
    end = len(text)
    while end > start and (mark := text[end - 1]) in _ENDS:
        has_meaning = _HAS_FACTORIAL if mark == "!" else _HAS_PRIME if mark in "'\"" else None
        if has_meaning and mark not in opened and has_meaning.search(text, max(start, end - _BEFORE), end - 1):
            break
        end -= 1
    return text[start:end]


def _without_articles(text: str) -> list[str]:
    found = text.split()
    return [
        word
        for before, word, after in zip(["", *found], found, [*found[1:], ""], strict=False)
        if not (word in _ARTICLES and after)
        and not (word == "a" and len(after) > 1 and after.isalpha() and (not before or before in _BEFORE_A))
    ]
