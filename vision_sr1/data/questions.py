"""Questions for RL and evaluation."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import structlog

from vision_sr1.config import DataConfig, RewardConfig
from vision_sr1.data.errors import DataError
from vision_sr1.data.pictures import Pictures
from vision_sr1.data.sources import title_of
from vision_sr1.data.tables import load_table, value_of
from vision_sr1.data.texts import Message, accepted_answers, messages, plain_text
from vision_sr1.prompting.chat import ImageMarkerError, content_parts
from vision_sr1.prompting.prompt_template import IMAGE_MARKER

log = structlog.get_logger()

Further = Literal["none", "column", "any"]


@dataclass(frozen=True)
class FurtherQuestion:
    """Another question about a row's images."""

    question: str
    answer: str
    data_source: str


@dataclass(frozen=True)
class QuestionRow:
    """One row of an RL or evaluation set; images are encoded bytes (PNG, JPEG, ...).

    Attributes:
        further_questions: about the same images, each once and none of them the row's own.
    """

    question: str
    answer: str
    images: list[bytes]
    data_source: str
    scene: str | None
    further_questions: tuple[FurtherQuestion, ...] = ()


class Questions:
    """An RL or evaluation set, indexable; each row is checked when it is read.

    Args:
        source: as `load_table` takes it.
        check: raises `DataError` for a row that is not to be used, with a message that its place is put before.
        reward: says which data sources have the grader `any_of`: only for these an answer may be a list.
        further: which further questions rows have: `column`: those of `data.further_questions_key`; `any`: these or, in
            a set without the column, those of other rows with the same images.

    Raises:
        DataError: the set cannot be read, or lacks a column.
    """

    def __init__(
        self,
        source: str,
        config: DataConfig,
        check: Callable[[QuestionRow], object] | None = None,
        reward: RewardConfig | None = None,
        *,
        further: Further = "none",
    ) -> None:
        self._rows = load_table(source)
        self.source = source
        self._config = config
        self._pictures = Pictures(source, config)
        self._check = check
        self._reward = reward or RewardConfig()
        self._told_of_system_prompts = False
        there = self._rows.column_names
        self.has_further_column = config.further_questions_key in there
        self.further: Further = "column" if further == "any" and self.has_further_column else further
        for setting, column in (("prompt_key", config.prompt_key), ("answer_key", config.answer_key)):
            if column not in there:
                raise DataError(f"{source} has no column {column!r} (data.{setting}); its columns: {', '.join(there)}")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> QuestionRow:
        """The row.

        Raises:
            DataError: question or answer is missing or no text, an image cannot be used, or the check refuses it.
        """
        where = f"{self.source}, row {index}"
        row = self._rows[index]
        folder = self._rows.folder(index)
        asked = self._asked(value_of(row, self._config.prompt_key), where)
        items = asked.images or self._pictures.items(row, where)
        images = [self._pictures.read(item, f"{where}, image {n}", folder) for n, item in enumerate(items)]
        own, scene = self._question(asked, row, where), value_of(row, self._config.scene_key)
        found = QuestionRow(
            question=own.question,
            answer=own.answer,
            images=images,
            data_source=own.data_source,
            scene=None if scene in (None, "") else plain_text(scene, f"{where}: the scene"),
        )
        if images and self.further != "none":
            further = self._of_column(row, own, where) if self.further == "column" else self._of_same_images(index)
            found = replace(found, further_questions=_others(own, further))
        try:
            content_parts(found.question, len(images))
        except ImageMarkerError as error:
            raise DataError(f"{where}: {error}", "row") from error
        if self._check is not None:
            try:
                self._check(found)
            except DataError as error:
                raise DataError(f"{where}: {error}", error.reason) from error
        return found

    def has_further_questions(self) -> bool:
        """Whether any row has some; reads rows until one has.

        Raises:
            DataError: none has, and in a row's column is something else.
        """
        if self.further == "any":
            return bool(self._same_images)
        broken: DataError | None = None
        for index in range(len(self)):
            where = f"{self.source}, row {index}"
            try:
                row = self._rows[index]
                own = self._question(self._asked(value_of(row, self._config.prompt_key), where), row, where)
                if _others(own, self._of_column(row, own, where)):
                    return True
            except DataError as error:
                broken = error
        if broken is not None:
            raise broken
        return False

    def _question(self, asked: Message, row: dict[str, Any], where: str) -> FurtherQuestion:
        source = value_of(row, self._config.source_key)
        data_source = title_of(self.source) if source in (None, "") else plain_text(source, f"{where}: the data source")
        answer = self._answer(value_of(row, self._config.answer_key), data_source, f"{where}: the answer")
        return FurtherQuestion(asked.text, answer, data_source)

    def _of_column(self, row: dict[str, Any], own: FurtherQuestion, where: str) -> Iterator[FurtherQuestion]:
        """The questions of the row's column, in its order."""
        value = value_of(row, self._config.further_questions_key)
        column = f"{where}: column {self._config.further_questions_key!r}"
        if not isinstance(value, list | None):
            raise DataError(f"{column} is no list of {{question, answer}} but {str(value)[:40]!r}", "row")
        for number, item in enumerate(value or []):
            what = f"{column}, number {number}"
            if not isinstance(item, dict) or not {"question", "answer"} <= item.keys():
                raise DataError(f"{what} is not {{question, answer}} but {str(item)[:40]!r}", "row")
            source = item.get("data_source")
            data_source = own.data_source if source in (None, "") else plain_text(source, f"{what}: the data source")
            question = plain_text(item["question"], f"{what}: the question")
            yield FurtherQuestion(
                question, self._answer(item["answer"], data_source, f"{what}: the answer"), data_source
            )

    def _of_same_images(self, index: int) -> Iterator[FurtherQuestion]:
        """The questions of other rows with the same images, in their order; those that cannot be used are left out."""
        for other in self._same_images.get(index, ()):
            where, row = f"{self.source}, row {other}", self._rows[other]
            try:
                yield self._question(self._asked(value_of(row, self._config.prompt_key), where), row, where)
            except DataError:
                continue

    @cached_property
    def _same_images(self) -> dict[int, list[int]]:
        """Rows with the same images as another, in the same order, by the number of each: one pass over the set."""
        by_images: dict[tuple[bytes, ...], list[int]] = {}
        for index in range(len(self)):
            try:
                images = tuple(hashlib.sha256(image).digest() for image in self._encoded(index))
            except DataError:
                continue
            if images:
                by_images.setdefault(images, []).append(index)
        return {index: rows for rows in by_images.values() if len(rows) > 1 for index in rows}

    def _encoded(self, index: int) -> Iterator[bytes]:
        """A row's images, not decoded."""
        where, row, folder = f"{self.source}, row {index}", self._rows[index], self._rows.folder(index)
        asked = self._asked(value_of(row, self._config.prompt_key), where)
        for number, item in enumerate(asked.images or self._pictures.items(row, where)):
            yield self._pictures.encoded(item, f"{where}, image {number}", folder)

    def _answer(self, value: Any, data_source: str, what: str) -> str:
        if not isinstance(value, list):
            return plain_text(value, what)
        if self._reward.grader_of(data_source) != "any_of":
            raise DataError(
                f"{what} is not text but a list; where each of its {len(value)} answers is right, set "
                f"reward.graders={{{data_source}: any_of}}",
                "text",
            )
        return accepted_answers(value, what)

    def _asked(self, value: Any, where: str) -> Message:
        """The question as one user's turn."""
        if not isinstance(value, list):
            return Message("user", plain_text(value, f"{where}: the question"))
        turns = messages(value, where)
        if any(turn.role == "system" for turn in turns) and not self._told_of_system_prompts:
            self._told_of_system_prompts = True
            log.warning(
                "system_prompts_ignored",
                message="System prompts of the data set are ignored; data.prompt_template replaces them",
                source=self.source,
            )
        asked = [turn for turn in turns if turn.role != "system"]
        if [turn.role for turn in asked] != ["user"]:
            said = ", ".join(turn.role for turn in asked) or "none"
            raise DataError(f"{where}: a question is one turn of the user; here are: {said}", "row")
        return asked[0]


def _others(own: FurtherQuestion, further: Iterable[FurtherQuestion]) -> tuple[FurtherQuestion, ...]:
    """Those that are not the own question, each once, whatever their case, white space and image markers."""
    found: dict[str, FurtherQuestion] = {}
    for question in further:
        found.setdefault(_words(question), question)
    found.pop(_words(own), None)
    return tuple(found.values())


def _words(asked: FurtherQuestion) -> str:
    return " ".join(asked.question.replace(IMAGE_MARKER, " ").casefold().split())
