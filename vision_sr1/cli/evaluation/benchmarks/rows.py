"""From a published row to questions: its texts, images, options, and where each belongs."""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_sr1.config import GraderName
from vision_sr1.data import DataError
from vision_sr1.data.pictures import Pictures
from vision_sr1.data.tables import value_of
from vision_sr1.data.texts import plain_text
from vision_sr1.prompting.prompt_template import IMAGE_MARKER

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTERED = re.compile(r"[(\[]?([A-Za-z])[)\].:]\s*(.*)", re.DOTALL)
_IN_A_ROW = re.compile(r"\(\s*[A-Za-z]\s*\)\s*(.*?)(?=\(\s*[A-Za-z]\s*\)|$)", re.DOTALL)


@dataclass(frozen=True)
class Item:
    """One question of a benchmark.

    Attributes:
        question: with its options, and an image marker for each image.
        answer: the reference; of a choice its letter.
        images: encoded.
        grader: by which an answer is compared with the reference; None: the one that the configuration names.
        tags: what it is of, by which accuracies are broken down, and which scores go by; `set` is the place of its set
            among those of the benchmark.
        scene: the true description, for its fidelity; None where nobody knows it.
    """

    question: str
    answer: str
    images: list[bytes]
    grader: GraderName | None
    tags: dict[str, str]
    scene: str | None = None


class Row:
    """One published row."""

    def __init__(self, values: dict[str, Any], where: str, pictures: Pictures, folder: Path) -> None:
        self._values = values
        self._pictures = pictures
        self._folder = folder
        self.where = where

    def get(self, column: str) -> Any:
        """A column's value as it is, or that of a field `column.field`; None where there is none."""
        return value_of(self._values, column)

    def text(self, *columns: str) -> str:
        """The text in the first of these columns that has one.

        Raises:
            DataError: none has.
        """
        for column in columns:
            value = self.get(column)
            if value is not None and str(value).strip():
                return plain_text(value, f"{self.where}: {column}")
        raise DataError(f"{self.where}: no {' or '.join(columns)}", "text")

    def tags(self, **columns: str) -> dict[str, str]:
        """Tags from columns; those without a value are left out."""
        found = {tag: self.get(column) for tag, column in columns.items()}
        return {tag: str(value) for tag, value in found.items() if value not in (None, "")}

    def images(self, *columns: str) -> list[bytes]:
        """The images in these columns, in their order.

        Raises:
            DataError: one of them cannot be used.
        """
        found: list[bytes] = []
        for column in columns:
            value = self.get(column)
            given = value if isinstance(value, list) else [] if value is None else [value]
            found += [self._pictures.read(image, f"{self.where}, {column}", self._folder) for image in given]
        return found

    def options(self, *columns: str) -> list[str]:
        """Options in the first of these columns that has some: a list, a list written as text, or lettered text."""
        value: Any = next(filter(None, map(self.get, columns)), [])
        if isinstance(value, str):
            value = _options_in(value)
        if isinstance(value, dict):
            value = [text for _, text in sorted(value.items())]
        return [_without_letter(str(option).strip(), place) for place, option in enumerate(value)]


def choice(
    question: str, options: Sequence[str], answer: Any, images: list[bytes], tags: dict[str, str], where: str
) -> Item:
    """A question with lettered options; the answer is given as letter, index, or one of the options.

    Raises:
        DataError: the answer is none of the options.
    """
    if not options:
        raise DataError(f"{where}: no options", "row")
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return Item(
        f"{question.strip()}\n{listed}", _letter(answer, options, where), images, "choice", tags | {"form": "choice"}
    )


def opened(question: str, answer: str, images: list[bytes], grader: GraderName, tags: dict[str, str]) -> Item:
    """A question without options."""
    return Item(question.strip(), answer, images, grader, tags | {"form": "open"})


def placed(text: str, marker: str, images: dict[str, bytes]) -> tuple[str, list[bytes]]:
    """Puts image markers where a text first names an image; later it is named in words; those not named are in front.

    Args:
        marker: regular expression of how the text names one, its name as the first group.
        images: by name.
    """
    named = list(dict.fromkeys(name for name in re.findall(marker, text) if name in images))
    order = [*(name for name in images if name not in named), *named]
    shown: set[str] = set()

    def replace(found: re.Match[str]) -> str:
        name = found.group(1)
        if name not in images:
            return found.group()
        if name in shown:
            return f"image {order.index(name) + 1}"
        shown.add(name)
        return IMAGE_MARKER

    return IMAGE_MARKER * (len(order) - len(named)) + re.sub(marker, replace, text), [images[name] for name in order]


def behind(images: Sequence[bytes], question: str) -> str:
    """A question with its images in front of it."""
    return IMAGE_MARKER * len(images) + question.replace(IMAGE_MARKER, "").strip()


def _letter(answer: Any, options: Sequence[str], where: str) -> str:
    if isinstance(answer, int) and 0 <= answer < len(options):
        return LETTERS[answer]
    text = str(answer).strip()
    if (letter := re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]?", text)) and _is_one_of(letter.group(1), options):
        return letter.group(1).upper()
    if text in options:
        return LETTERS[list(options).index(text)]
    if (letter := _LETTERED.fullmatch(text)) and _is_one_of(letter.group(1), options):
        return letter.group(1).upper()
    raise DataError(f"{where}: the answer {text[:40]!r} is none of {len(options)} options", "row")


def _is_one_of(letter: str, options: Sequence[str]) -> bool:
    return LETTERS.index(letter.upper()) < len(options)


def _options_in(text: str) -> list[Any] | dict[Any, Any]:
    """Options written as a list of Python's or JSON's, as `(a) … (b) …`, or line by line."""
    for reading in (json.loads, ast.literal_eval):
        try:
            value = reading(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, (list, tuple, dict)):
            return value if isinstance(value, dict) else list(value)
    if found := _IN_A_ROW.findall(text):
        return [str(option) for option in found]
    return [line for line in text.splitlines() if line.strip()]


def _without_letter(option: str, place: int) -> str:
    """An option's text; its letter is in front of some."""
    found = _LETTERED.fullmatch(option)
    return found.group(2).strip() if found and found.group(1).upper() == LETTERS[place % 26] else option
