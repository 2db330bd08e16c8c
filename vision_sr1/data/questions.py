"""Questions for RL and evaluation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from vision_sr1.config import DataConfig, RewardConfig
from vision_sr1.data.errors import DataError
from vision_sr1.data.pictures import Pictures
from vision_sr1.data.sources import title_of
from vision_sr1.data.tables import load_table, value_of
from vision_sr1.data.texts import Message, accepted_answers, messages, plain_text
from vision_sr1.prompting.chat import ImageMarkerError, content_parts

log = structlog.get_logger()


@dataclass(frozen=True)
class QuestionRow:
    """One row of an RL or evaluation set; images are encoded bytes (PNG, JPEG, ...)."""

    question: str
    answer: str
    images: list[bytes]
    data_source: str
    scene: str | None


class Questions:
    """An RL or evaluation set, indexable; each row is checked when it is read.

    Args:
        source: as `load_table` takes it.
        check: raises `DataError` for a row that is not to be used, with a message that its place is put before.
        reward: says which data sources have the grader `any_of`: only for these an answer may be a list.

    Raises:
        DataError: the set cannot be read, or lacks a column.
    """

    def __init__(
        self,
        source: str,
        config: DataConfig,
        check: Callable[[QuestionRow], object] | None = None,
        reward: RewardConfig | None = None,
    ) -> None:
        self._rows = load_table(source)
        self.source = source
        self._config = config
        self._pictures = Pictures(source, config)
        self._check = check
        self._reward = reward or RewardConfig()
        self._told_of_system_prompts = False
        there = self._rows.column_names
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
        if asked.images:
            images = [self._pictures.read(item, f"{where}, image {n}", folder) for n, item in enumerate(asked.images)]
        else:
            images = self._pictures.of(row, where, folder)
        source, scene = value_of(row, self._config.source_key), value_of(row, self._config.scene_key)
        data_source = title_of(self.source) if source in (None, "") else plain_text(source, f"{where}: the data source")
        found = QuestionRow(
            question=asked.text,
            answer=self._answer(value_of(row, self._config.answer_key), data_source, f"{where}: the answer"),
            images=images,
            data_source=data_source,
            scene=None if scene in (None, "") else plain_text(scene, f"{where}: the scene"),
        )
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
