"""What a benchmark is: where its rows are published, how a row becomes questions, and how answers become its score."""

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from vision_sr1.chat import ImageMarkerError, content_parts
from vision_sr1.config import DataConfig, GraderName
from vision_sr1.data import DataError
from vision_sr1.data.pictures import Pictures
from vision_sr1.data.tables import Table, load_table
from vision_sr1.data.texts import plain_text
from vision_sr1.prompts import IMAGE_MARKER

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
    """

    question: str
    answer: str
    images: list[bytes]
    grader: GraderName | None
    tags: dict[str, str]


class Row:
    """One published row."""

    def __init__(self, values: dict[str, Any], where: str, pictures: Pictures) -> None:
        self._values = values
        self._pictures = pictures
        self.where = where

    def get(self, column: str) -> Any:
        """A column's value as it is; None where there is none."""
        return self._values.get(column)

    def text(self, *columns: str) -> str:
        """The text in the first of these columns that has one.

        Raises:
            DataError: none has.
        """
        for column in columns:
            value = self._values.get(column)
            if value is not None and str(value).strip():
                return plain_text(value, f"{self.where}: {column}")
        raise DataError(f"{self.where}: no {' or '.join(columns)}", "text")

    def tags(self, **columns: str) -> dict[str, str]:
        """Tags from columns; those without a value are left out."""
        found = {tag: self._values.get(column) for tag, column in columns.items()}
        return {tag: str(value) for tag, value in found.items() if value not in (None, "")}

    def images(self, *columns: str) -> list[bytes]:
        """The images in these columns, in their order.

        Raises:
            DataError: one of them cannot be used.
        """
        found: list[bytes] = []
        for column in columns:
            value = self._values.get(column)
            given = value if isinstance(value, list) else [] if value is None else [value]
            found += [self._pictures.read(image, f"{self.where}, {column}") for image in given]
        return found

    def options(self, *columns: str) -> list[str]:
        """Options in the first of these columns that has some: a list, a list written as text, or lettered text."""
        value: Any = next((self._values[column] for column in columns if self._values.get(column)), [])
        if isinstance(value, str):
            value = _options_in(value)
        if isinstance(value, dict):
            value = [text for _, text in sorted(value.items())]
        return [_without_letter(str(option).strip(), place) for place, option in enumerate(value)]


@dataclass(frozen=True)
class Tagged:
    """An answer as scores see it: what the question was of, and how right it is."""

    tags: dict[str, str]
    accuracy: float


Weights = Callable[[Sequence[Tagged]], Float[np.ndarray, " answers"]]
Score = Callable[[Sequence[Tagged]], float | None]  # None where none of the answers is of its kind


@dataclass(frozen=True)
class Benchmark:
    """A benchmark in its published form, or in that of the training data: as the paper's authors have published
    theirs again, and as a user has their own.

    Attributes:
        title: as papers write it.
        sources: its published sets, as `load_table` takes them.
        columns: that its published rows have.
        read: a published row's questions; as many for each row. None: it is published in no form of its own.
        per_row: how many these are.
        open_grader: for questions without options in the form of the training data; None: as configured.
        weights: of each answer in the score; default: all count the same.
        also: other scores by name.
    """

    name: str
    title: str
    sources: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    read: Callable[[Row], Iterable[Item]] | None = None
    per_row: int = 1
    open_grader: GraderName | None = None
    weights: Weights | None = None
    also: dict[str, Score] = field(default_factory=dict)


class Questionnaire:
    """A benchmark's questions, read from its sets one after the other.

    Args:
        sources: in place of the published ones.
        limit: rows of each set, at most.

    Raises:
        DataError: a set cannot be read, or is in no form that is known here.
    """

    def __init__(self, benchmark: Benchmark, sources: Sequence[str], config: DataConfig, limit: int | None) -> None:
        self._benchmark = benchmark
        self._config = config
        self._limit = limit
        self._sets = [self._open(source) for source in sources or benchmark.sources]

    def __len__(self) -> int:
        """Questions, unless rows are refused."""
        return sum(self._rows(opened) * opened.per_row for opened in self._sets)

    def items(self, known: Callable[[int], bool]) -> Iterator[tuple[int, Item | DataError]]:
        """Questions by number, which a limit of rows does not change, or why there is none of this number.

        Args:
            known: whether the question of a number need not be read.
        """
        first = 0
        for place, opened in enumerate(self._sets):
            pictures = Pictures(opened.source, self._config)
            for index in range(self._rows(opened)):
                numbers = [first + index * opened.per_row + nth for nth in range(opened.per_row)]
                if all(map(known, numbers)):
                    continue
                where = f"{opened.source}, row {index}"
                try:
                    read = list(opened.read(Row(opened.table[index], where, pictures)))
                    for item in read:
                        content_parts(item.question, len(item.images))
                except DataError as error:
                    yield from ((number, error) for number in numbers)
                except ImageMarkerError as error:
                    yield from ((number, DataError(f"{where}: {error}", "row")) for number in numbers)
                else:
                    for number, item in zip(numbers, read, strict=True):
                        if not known(number):
                            yield number, replace(item, tags=item.tags | {"set": str(place)})
            first += len(opened.table) * opened.per_row

    def _rows(self, opened: "_Set") -> int:
        return len(opened.table) if self._limit is None else min(len(opened.table), self._limit)

    def _open(self, source: str) -> "_Set":
        benchmark, config, table = self._benchmark, self._config, load_table(source)
        there = set(table.column_names)
        if benchmark.read is not None and there.issuperset(benchmark.columns):
            return _Set(source, table, benchmark.read, benchmark.per_row)
        if there.issuperset((config.prompt_key, config.answer_key)):
            return _Set(source, table, lambda row: [_as_trained_on(row, config, benchmark)], 1)
        own = f"{', '.join(benchmark.columns)}, or " if benchmark.columns else ""
        raise DataError(
            f"{source} is no {benchmark.title}: its columns are {', '.join(sorted(there))}, and not {own}"
            f"{config.prompt_key} and {config.answer_key} (data.prompt_key, data.answer_key)"
        )


@dataclass(frozen=True)
class _Set:
    source: str
    table: Table
    read: Callable[[Row], Iterable[Item]]
    per_row: int


def _as_trained_on(row: Row, config: DataConfig, benchmark: Benchmark) -> Item:
    """A row in the form of Vision-SR1-47K: the question is complete, its options within."""
    answer = row.text(config.answer_key)
    grader = benchmark.open_grader
    if benchmark.read is not None and re.fullmatch(r"[(\[]?[A-Z][)\].:]?", answer.strip()):
        grader = "choice"
    images = row.images(config.image_key) or row.images("image")
    return Item(row.text(config.prompt_key), answer, images, grader, row.tags(source=config.source_key))


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
    used: list[str] = []

    def replace(found: re.Match[str]) -> str:
        name = found.group(1)
        if name not in images:
            return found.group()
        if name in used:
            return f"image {used.index(name) + 1}"
        used.append(name)
        return IMAGE_MARKER

    text = re.sub(marker, replace, text)
    unnamed = [name for name in images if name not in used]
    return IMAGE_MARKER * len(unnamed) + text, [images[name] for name in (*unnamed, *used)]


def mean_over(tag: str) -> Weights:
    """Weights under which each value of a tag counts the same, however many questions it has."""

    def weights(answers: Sequence[Tagged]) -> Float[np.ndarray, " answers"]:
        values = [answer.tags.get(tag, "") for answer in answers]
        counts = Counter(values)
        return np.array([1.0 / counts[value] for value in values])

    return weights


def only(tag: str, *values: str) -> Weights:
    """Weights under which only answers with one of these values count; all do where none has the tag."""

    def weights(answers: Sequence[Tagged]) -> Float[np.ndarray, " answers"]:
        if not any(tag in answer.tags for answer in answers):
            return np.ones(len(answers))
        return np.array([float(answer.tags.get(tag) in values) for answer in answers])

    return weights


def all_right(*tags: str, needs: str = "") -> Score:
    """The share of groups, of answers that agree in these tags, in which every answer is right.

    Args:
        needs: a tag without which an answer is of no group.
    """

    def share(answers: Sequence[Tagged]) -> float | None:
        groups: dict[tuple[str, ...], bool] = {}
        for answer in answers:
            if tags[0] in answer.tags and (not needs or needs in answer.tags):
                key = tuple(answer.tags.get(tag, "") for tag in tags)
                groups[key] = groups.get(key, True) and answer.accuracy == 1
        return sum(groups.values()) / len(groups) if groups else None

    return share


def accuracy_where(setting: str, image: str) -> Score:
    """The accuracy of answers with these tags, of which `image` names several."""

    def mean(answers: Sequence[Tagged]) -> float | None:
        found = [a.accuracy for a in answers if a.tags.get("setting") == setting and a.tags.get("image", "-") in image]
        return sum(found) / len(found) if found else None

    return mean


def _letter(answer: Any, options: Sequence[str], where: str) -> str:
    if isinstance(answer, int) and 0 <= answer < len(options):
        return LETTERS[answer]
    text = str(answer).strip()
    if text in options:
        return LETTERS[list(options).index(text)]
    said = re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]?(\s.*)?", text, re.DOTALL)
    if said and LETTERS.index(said.group(1).upper()) < len(options):
        return said.group(1).upper()
    raise DataError(f"{where}: the answer {text[:40]!r} is none of {len(options)} options", "row")


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
