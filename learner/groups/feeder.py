"""Feeding: prompts are drawn from the data set in an order that the seed decides, each once an epoch."""

from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import structlog
from jaxtyping import Int64
from prometheus_client import Counter

from vision_sr1.data import DataError, Mixture, QuestionRow
from vision_sr1.data.errors import Reason
from vision_sr1.pipeline.ids import training_id, training_place

log = structlog.get_logger()

FED = Counter("vision_sr1_learner_prompts_fed", "Prompts issued.")
REFUSED = Counter("vision_sr1_learner_rows_refused", "Rows of the data that could not be used, by reason.", ["reason"])
for _reason in get_args(Reason):
    REFUSED.labels(_reason)


@dataclass
class FeederState:
    """Where the feeder stands: part of every checkpoint.

    Attributes:
        epoch, position: the next prompt is the `position`-th of the epoch's order.
        outstanding: ids of prompts issued whose groups were not learned from yet.
    """

    epoch: int = 0
    position: int = 0
    outstanding: list[str] = field(default_factory=list)


class Feeder:
    """Draws prompts.

    Attributes:
        state: which come next; part of every checkpoint.

    Raises:
        DataError: the state is of more rows than there are.
    """

    def __init__(self, questions: Mixture[QuestionRow], seed: int, state: FeederState) -> None:
        self._questions = questions
        self._seed = seed
        self.state = state
        self._order = self._order_of(state.epoch)
        drawn = max([state.position, *(training_place(prompt_id)[1] + 1 for prompt_id in state.outstanding)])
        if drawn > len(questions):
            raise DataError(
                f"data.train: an epoch has {len(questions)} rows, and the checkpoint has drawn {drawn} of its own: "
                "restore the old data, or start a new run from its weights with run.name and model.path"
            )

    @property
    def outstanding(self) -> list[str]:
        """Prompts issued whose groups were not learned from yet, in the order they were drawn."""
        return self.state.outstanding

    @property
    def in_flight(self) -> int:
        """How many are outstanding."""
        return len(self.state.outstanding)

    def draw(self, count: int) -> list[tuple[str, QuestionRow]]:
        """The next `count` prompts with their ids; rows that cannot be read are skipped and counted.

        Raises:
            DataError: a whole epoch has no row that can be used.
        """
        drawn: list[tuple[str, QuestionRow]] = []
        refused = 0
        while len(drawn) < count:
            if self.state.position == len(self._order):
                self.state.epoch += 1
                self.state.position = 0
                self._order = self._order_of(self.state.epoch)
            index = int(self._order[self.state.position])
            self.state.position += 1
            try:
                row = self._questions.at(self.state.epoch, index)
            except DataError as error:
                REFUSED.labels(error.reason).inc()
                log.error("row_refused", message="The row cannot be used and is skipped", error=str(error))
                refused += 1
                if refused >= len(self._questions):
                    raise DataError(f"no row of {len(self._questions)} can be used; the last: {error}") from error
                continue
            prompt_id = training_id(self.state.epoch, index)
            self.state.outstanding.append(prompt_id)
            drawn.append((prompt_id, row))
        FED.inc(len(drawn))
        return drawn

    def again(self) -> list[tuple[str, QuestionRow]]:
        """The outstanding prompts once more, as after a restart; the streams refuse those they still hold."""
        return [(prompt_id, self.row(prompt_id)) for prompt_id in self.state.outstanding]

    def row(self, prompt_id: str) -> QuestionRow:
        """The row that a prompt was made of.

        Raises:
            DataError: it cannot be read any more.
        """
        return self._questions.at(*training_place(prompt_id))

    def is_to_come(self, prompt_id: str) -> bool:
        """Whether the prompt has yet to be drawn: after a crash, groups of such prompts may be there already."""
        try:
            epoch, index = training_place(prompt_id)
        except ValueError:  # written into the streams by another program
            return False
        if epoch != self.state.epoch:
            return epoch > self.state.epoch
        return index in self._order[self.state.position :]

    def learned(self, prompt_ids: list[str]) -> None:
        """Takes prompts off the outstanding ones."""
        gone = set(prompt_ids)
        self.state.outstanding = [i for i in self.state.outstanding if i not in gone]

    def _order_of(self, epoch: int) -> Int64[np.ndarray, " rows"]:
        return np.random.default_rng((self._seed, epoch)).permutation(len(self._questions))
