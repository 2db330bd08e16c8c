"""The grader `choice`: which of a question's options a text means."""

import re
from collections.abc import Iterable, Mapping

from reward_service.graders.lead_in import without_lead_in
from reward_service.graders.texts import clean, normalized, plain
from reward_service.graders.typeset import in_one_spelling

_MARKED = r"[(\[【]\s*{0}\s*[)\]】]"
_UPPER = re.compile(
    _MARKED.format("(?P<bracketed>[A-Z])") + r"\s*[.:、]?|(?<![A-Za-z0-9_.$\\'({\[-])(?P<bare>[A-Z])\s?[).:、]"
)
_LOWER = re.compile(_UPPER.pattern, re.IGNORECASE)

_ONE = re.compile(r"[(\[【]?\s*([A-Za-z])\s*[)\]】]?\s*[.:、]?")
_LABELLED = re.compile(
    r"(?:[(\[【]\s*([A-Za-z])\s*[)\]】]\s*(?:[.:、]|-(?=\s))?|([A-Za-z])(?:\s*[).:、,\]]|\s+-(?=\s)))\s*(.+)"
    r"|([A-Za-z])\s+(.+)"
)
_TAIL = re.compile(
    r"\s*(?:(?:is|ist|est|es)\s+(?:the\s+)?(?:correct|right|best|answer|richtig)\w*(?:\s+(?:answer|option|choice))?"
    r"|(?:is\s+)?correct|[选選]?[项項]|是?正确(?:的|答案)?)$",
    re.IGNORECASE,
)
_ALPHABET = 26
_LONGEST = 2000  # characters of an option and its explanation
_JOINTS = re.compile(r"\s*(?:[,;、&+/]|\b(?:and|und|et|(?-i:y))\b|[和与與及])+\s*", re.IGNORECASE)
_QUOTED = re.compile(r"[\"']\s*([A-Za-z])\s*[\"']")
_BRACED = re.compile(r"(?<![A-Za-z_^}])\\?\{\s*([A-Za-z](?:\s*,\s*[A-Za-z])*)\s*\\?\}")
_BEHIND = re.compile(r"(.+?)\s*[(\[【]\s*([A-Za-z])\s*[)\]】]")
_INSTRUCTION = re.compile(
    r"(?<![\sTt])\s+(?=[A-Z])(?:Please\s+)?(?:[Aa]nswer|[Cc]hoose|[Ss]elect|[Rr]eply|[Rr]espond|[Gg]ive)\s+"
    r"(?:with|from|by|the|one|only|your|directly|just)\b(?=[^.]*\b(?:letter|option|choice)s?\b).*"
)
_WORD = re.compile(r"(?:(?<![\w.)])[-+])?(?:\d+(?:[.,/]\d+)*|(?<!\d)\.\d+)|[^\W\d_]+|[<>=≤≥≠±%°€£¥√^/]")
_HAS_IDEOGRAPHS = re.compile(r"[\u3040-\u9fff\uac00-\ud7af]")  # words without spaces between them
_SIDE_BY_SIDE = re.compile(r"([)\]])\s*(?=[(\[])")
_COMPACT = re.compile(r"[A-Z]{2,26}|[A-Z](?: [A-Z]){1,25}")
_DENIED = re.compile(
    r"\W*(?:(?:is|are|was)\s*)?(?:not|isn't|wrong|incorrect|false|nicht|falsch|pas|不|错|錯)(?![A-Za-z])", re.IGNORECASE
)
_MARK = re.compile(r"(?<![A-Za-z'\\])([A-Z](?![A-Za-z'])|[a-z](?=\s*(?:[).:、]|$)))")
_STANDS_OUT = re.compile(
    r"(?:^|[(\[,&/]|\b(?:and|or))\s*([A-Za-z])(?=\s*(?:[)\].:、,]|$))|(?<![A-Za-z'])([A-Z])(?=\s*[).:、])"
)


def choice(answer: str, reference: str, question: str) -> bool:
    """The same options, each by its letter or by its text in the question; one, where the reference is one."""
    known = options(question)
    given, wanted = chosen(answer, known), chosen(reference, known)
    if given and wanted:
        return given == wanted
    return not given and not wanted and normalized(answer, reference)


def options(question: str) -> dict[str, str]:
    """The question's options, in words, by their letters: the longest run from A on, the last of equals."""
    lines = "\n".join(map(clean, question.splitlines()))
    marks = max((_run(pattern.finditer(lines)) for pattern in (_UPPER, _LOWER)), key=len)
    if len(marks) < 2:
        return {}
    ends = [mark.start() for mark in marks[1:]] + [len(lines)]
    return {
        _letter(mark): plain(_INSTRUCTION.sub("", lines[mark.end() : end].strip().partition("\n")[0]))
        for mark, end in zip(marks, ends, strict=True)
    }


def chosen(text: str, known: Mapping[str, str]) -> frozenset[str]:
    """The letters of the options that a text means; empty where it means none, or does not say which."""
    whole = " ".join(clean(text).split())
    text = _QUOTED.sub(r"\1", _BRACED.sub(r"\1", without_lead_in(text).rstrip(".。,;!? ")))
    if len(whole) > _LONGEST:
        return frozenset()
    tail = _TAIL.search(text)
    if tail and any(normalized(tail.group(), option) for option in known.values()):
        tail = None  # an option's own text
    without_tail = text[: tail.start()] if tail else text
    # As it is first: an option may itself be `Option 3`, or `Both are correct`.
    if one := _by_letter(text, known) or _by_text(whole, known) or _single(text, known) or _either(without_tail, known):
        return frozenset(one)
    parts = [part for part in _JOINTS.split(_SIDE_BY_SIDE.sub(r"\1, ", without_tail)) if part]
    is_in_order = known or " " in without_tail or sorted(without_tail) == list(without_tail)
    if len(parts) == 1 and _COMPACT.fullmatch(without_tail) and is_in_order:
        parts = list(without_tail.replace(" ", ""))
    if not 1 < len(parts) <= _ALPHABET:
        return frozenset()
    letters = [_single(part, known) for part in parts]
    return frozenset(filter(None, letters)) if all(letters) and len(set(letters)) == len(letters) else frozenset()


def _by_letter(text: str, known: Mapping[str, str]) -> str | None:
    found = _ONE.fullmatch(text)
    return found[1].upper() if found and _is_option(found[1], known) else None


def _by_text(text: str, known: Mapping[str, str]) -> str | None:
    """The one option that has this text: in the same words, or else in mathematics that is written otherwise."""
    for is_same in (normalized, _is_same_mathematics):
        found = [letter for letter, option in known.items() if option and is_same(text, option)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _either(text: str, known: Mapping[str, str]) -> str | None:
    return _by_letter(text, known) or _by_text(text, known)


def _single(text: str, known: Mapping[str, str]) -> str | None:
    """The one option that a text means: its letter, its text, or both; nothing else may be meant beside it."""
    if one := _either(text, known):
        return one
    if (behind := _BEHIND.fullmatch(text)) and _by_text(behind[1], known) == behind[2].upper():
        return behind[2].upper()
    labelled = _LABELLED.fullmatch(text)
    if labelled is None:
        return None
    letter, rest = (labelled[1] or labelled[2] or labelled[4]).upper(), labelled[3] or labelled[5]
    if not _is_option(letter, known):
        return None
    in_brackets = rest[1:-1] if rest[0] + rest[-1] == "()" else rest
    if known.get(letter) and any(_by_text(said, {letter: known[letter]}) for said in (rest, in_brackets)):
        return letter
    is_free_text = labelled[3] is not None and not _DENIED.match(rest) and not _names_another(rest, letter, known)
    return letter if is_free_text else None


def _is_same_mathematics(text: str, option: str) -> bool:
    return in_one_spelling(text) == in_one_spelling(option)


def _names_another(text: str, letter: str, known: Mapping[str, str]) -> bool:
    """Whether a text beside an option's letter names another option, by its letter or its words."""
    if not known:
        return any((found[1] or found[2]).upper() != letter for found in _STANDS_OUT.finditer(text))
    if {found[1].upper() for found in _MARK.finditer(text)} & known.keys() - {letter}:
        return True
    words, own = _spelled(text), _spelled(known[letter])
    # The longest first: `red` is not named by `dark red`.
    for option in sorted({*map(_spelled, known.values()), own} - {"  "}, key=len, reverse=True):
        named = option.strip() if _HAS_IDEOGRAPHS.search(option) else option
        if named in words and option != own:
            return True
        words = words.replace(named, " | ")
    return False


def _spelled(text: str) -> str:
    words = (re.sub(r"(\.\d*?)0+$", r"\1", word).rstrip(".") for word in _WORD.findall(in_one_spelling(text)))
    return f" {' '.join(words)} "


def _is_option(letter: str, known: Mapping[str, str]) -> bool:
    return not known or letter.upper() in known


def _letter(mark: re.Match[str]) -> str:
    return (mark["bracketed"] or mark["bare"]).upper()


def _run(marks: Iterable[re.Match[str]]) -> list[re.Match[str]]:
    """The marks among these that follow one another in the alphabet from A on, as far as it goes."""
    runs: list[list[re.Match[str]]] = [[]]  # by their length, which is that of the alphabet up to their last letter
    for mark in marks:
        place = ord(_letter(mark)) - ord("A")
        if place < len(runs):
            runs[place + 1 :] = [[*runs[place], mark], *runs[place + 2 :]]
    return runs[-1]
