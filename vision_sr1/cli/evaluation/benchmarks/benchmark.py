"""What a benchmark is: where its rows are published, what reads them, and how answers become its score."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from vision_sr1.cli.evaluation.benchmarks.rows import Item, Row
from vision_sr1.cli.evaluation.benchmarks.scores import Score, Weights
from vision_sr1.config import DataConfig, GraderName
from vision_sr1.data import DataError
from vision_sr1.data.pictures import Pictures
from vision_sr1.data.tables import Table, load_table
from vision_sr1.data.texts import accepted_answers
from vision_sr1.prompting.chat import ImageMarkerError, content_parts


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

    @property
    def sets(self) -> list[list[str | int]]:
        """What is read: each set and how many rows it has."""
        return [[opened.source, len(opened.table)] for opened in self._sets]

    @property
    def numbers(self) -> list[int]:
        """Of the questions, unless rows are refused; a limit of rows changes none of them."""
        return [number for _, _, numbers in self._places() for number in numbers]

    def items(self, known: Callable[[int], bool]) -> Iterator[tuple[int, Item | DataError]]:
        """Questions by number, or why there is none of this number.

        Args:
            known: whether the question of a number need not be read.
        """
        for place, index, numbers in self._places():
            if all(map(known, numbers)):
                continue
            opened = self._sets[place]
            where = f"{opened.source}, row {index}"
            try:
                read = list(opened.read(Row(opened.table[index], where, opened.pictures, opened.table.folder(index))))
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

    def _places(self) -> Iterator[tuple[int, int, range]]:
        """Every row's set, place in it, and its questions' numbers."""
        first = 0
        for place, opened in enumerate(self._sets):
            rows = len(opened.table)
            for index in range(rows if self._limit is None else min(rows, self._limit)):
                start = first + index * opened.per_row
                yield place, index, range(start, start + opened.per_row)
            first += rows * opened.per_row

    def _open(self, source: str) -> "_Set":
        benchmark, config, table = self._benchmark, self._config, load_table(source)
        pictures, there = Pictures(source, config), set(table.column_names)
        if benchmark.read is not None and there.issuperset(benchmark.columns):
            return _Set(source, table, pictures, benchmark.read, benchmark.per_row)
        if there.issuperset((config.prompt_key, config.answer_key)):
            return _Set(source, table, pictures, lambda row: [_as_trained_on(row, config, benchmark)], 1)
        own = f"{', '.join(benchmark.columns)}, or " if benchmark.columns else ""
        raise DataError(
            f"{source} is no {benchmark.title}: its columns are {', '.join(sorted(there))}, and not {own}"
            f"{config.prompt_key} and {config.answer_key} (data.prompt_key, data.answer_key)"
        )


@dataclass(frozen=True)
class _Set:
    source: str
    table: Table
    pictures: Pictures
    read: Callable[[Row], Iterable[Item]]
    per_row: int


def _as_trained_on(row: Row, config: DataConfig, benchmark: Benchmark) -> Item:
    """A row in the form of Vision-SR1-47K: the question is complete, its options within."""
    given, grader = row.get(config.answer_key), benchmark.open_grader
    if isinstance(given, list):
        answer, grader = accepted_answers(given, f"{row.where}: the answer"), "any_of"
    else:
        answer = row.text(config.answer_key)
    if benchmark.read is not None and re.fullmatch(r"[(\[]?[A-Z][)\].:]?", answer.strip()):
        grader = "choice"
    images = row.images(config.image_key) or row.images("image")
    scene = None if row.get(config.scene_key) in (None, "") else row.text(config.scene_key)
    tags = row.tags(source=config.source_key)
    return Item(row.text(config.prompt_key), answer, images, grader, tags, scene)
