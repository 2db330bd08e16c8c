"""What a data set is worth before it is trained on: every row read as training will read it."""

import hashlib
import io
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from PIL import Image

from vision_sr1.config import DataConfig, RewardConfig
from vision_sr1.data.conversations import FORMS, ConversationRow, Conversations
from vision_sr1.data.errors import DataError, Reason
from vision_sr1.data.lengths import PromptLengths
from vision_sr1.data.questions import Further, QuestionRow, Questions
from vision_sr1.data.tables import load_table

AnyRow = QuestionRow | ConversationRow
Finding = tuple[Literal["unmatched", "unread"], str]
Verdict = Callable[[QuestionRow], Finding | None]


@dataclass(frozen=True)
class Range:
    """Least, middle and greatest of some numbers."""

    least: float
    median: float
    greatest: float

    @classmethod
    def of(cls, numbers: list[float]) -> "Range | None":
        """None where there are no numbers."""
        return cls(min(numbers), statistics.median(numbers), max(numbers)) if numbers else None


@dataclass
class Report:
    """What was found.

    Attributes:
        kind: what the set is for, by its columns.
        rows: all there are.
        refused: by reason, what is said of each row that cannot be used.
        duplicates: rows that ask the same of the same images as the row beside them.
        unmatched: rows whose reference no answer can match under their grader, and why.
        unreadable: rows whose reference their grader compares as text, and why.
        images: number of images by rows that have so many.
        pixels, kilobytes: of the images.
        tokens: of the prompts, or of whole conversations; None without the model's tokenizer.
        sources: rows by data source.
        further: number of further questions by rows that have so many; empty where none are asked.
    """

    kind: Literal["questions", "conversations"]
    rows: int
    refused: dict[Reason, list[str]] = field(default_factory=dict)
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    images: Counter[int] = field(default_factory=Counter)
    pixels: Range | None = None
    kilobytes: Range | None = None
    tokens: Range | None = None
    sources: Counter[str] = field(default_factory=Counter)
    further: Counter[int] = field(default_factory=Counter)

    @property
    def usable(self) -> int:
        """Rows that will be trained on."""
        return self.rows - sum(map(len, self.refused.values()))


def open_rows(
    source: str, config: DataConfig, reward: RewardConfig | None = None, further: Further = "none"
) -> Questions | Conversations:
    """A set by its columns: of conversations where it has some, and no answers.

    Args:
        reward, further: as `Questions` takes them.

    Raises:
        DataError: it cannot be read, or is neither.
    """
    columns = set(load_table(source).column_names)
    if config.answer_key not in columns and any(set(form) <= columns for form in FORMS):
        return Conversations(source, config)
    return Questions(source, config, reward=reward, further=further)


def readable_rows(rows: Questions | Conversations) -> Iterator[tuple[int, AnyRow | DataError]]:
    """Every row by its number, or what is wrong with it."""
    for index in range(len(rows)):
        try:
            yield index, rows[index]
        except DataError as error:
            yield index, error


def check(
    rows: Questions | Conversations,
    lengths: PromptLengths | None,
    verdict: Verdict,
    seen: Callable[[int, AnyRow | DataError], None],
) -> Report:
    """Reads all rows.

    Args:
        lengths: of prompts; None: they are not counted.
        verdict: of a row's grader on its reference: why no answer can match it, or why it is compared as text.
        seen: is told of every row.
    """
    report = Report("questions" if isinstance(rows, Questions) else "conversations", len(rows))
    first: dict[bytes, int] = {}
    tokens: list[float] = []
    pixels: list[float] = []
    kilobytes: list[float] = []
    for index, row in readable_rows(rows):
        if not isinstance(row, DataError) and lengths is not None:
            try:
                tokens.append(lengths.check(row))
            except DataError as error:
                row = DataError(f"{rows.source}, row {index}: {error}", error.reason)
        seen(index, row)
        if isinstance(row, DataError):
            report.refused.setdefault(row.reason, []).append(str(row))
            continue
        report.images[len(row.images)] += 1
        for image in row.images:
            with Image.open(io.BytesIO(image)) as picture:
                pixels.append(picture.width * picture.height)
            kilobytes.append(len(image) / 1000)
        digest = content_hash(row)
        if (earlier := first.setdefault(digest, index)) != index:
            report.duplicates.append((index, earlier))
        if isinstance(row, QuestionRow):
            report.sources[row.data_source] += 1
            if isinstance(rows, Questions) and rows.further != "none":
                report.further[len(row.further_questions)] += 1
            for where, asked in _references(rows, index, row):
                if (finding := verdict(asked)) is not None:
                    kind, why = finding
                    (report.unmatched if kind == "unmatched" else report.unreadable).append(f"{where}: {why}")
    report.tokens, report.pixels, report.kilobytes = Range.of(tokens), Range.of(pixels), Range.of(kilobytes)
    return report


def _references(rows: Questions | Conversations, index: int, row: QuestionRow) -> Iterator[tuple[str, QuestionRow]]:
    """What a row asks: its own question, and the further ones of its column; those of other rows are theirs."""
    yield f"row {index}", row
    if isinstance(rows, Questions) and rows.further == "column":
        for further in row.further_questions:
            yield (
                f"row {index}, further question {further.question[:40]!r}",
                replace(row, question=further.question, answer=further.answer, data_source=further.data_source),
            )


def said(row: AnyRow) -> str:
    """A row's text: what is asked, or the whole conversation."""
    return row.question if isinstance(row, QuestionRow) else repr(row.messages)


def content_hash(row: AnyRow) -> bytes:
    """The same for rows that ask the same of the same images."""
    return hashlib.sha256(
        said(row).encode() + b"".join(hashlib.sha256(image).digest() for image in row.images)
    ).digest()
