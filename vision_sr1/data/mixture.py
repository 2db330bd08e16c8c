"""Several sets as one, each with its weight."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from vision_sr1.config import Config, DataConfig, SourceConfig
from vision_sr1.data.conversations import ConversationRow, Conversations
from vision_sr1.data.errors import DataError
from vision_sr1.data.questions import Further, QuestionRow, Questions

MOST_ROWS = 10**8  # of an epoch
Row = TypeVar("Row", covariant=True)


class Rows(Protocol[Row]):
    """A set of rows by their number; one that cannot be used raises `DataError`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


class Mixture(Generic[Row]):
    """Sets of which an epoch takes a share each: all rows once with weight 1, twice with 2, half of them with 0.5.

    Over the epochs every row of a set comes equally often: where an epoch takes a part, the next goes on behind it.

    Args:
        sets: at least one.
        weights: of the sets.
        seed: decides the order in which a set is gone through whose weight is no whole number.

    Raises:
        DataError: the weights leave an epoch without rows, or with more than `MOST_ROWS`.
    """

    def __init__(self, sets: Sequence[Rows[Row]], weights: Sequence[float], seed: int) -> None:
        self._sets = sets
        self._counts = [round(weight * len(rows)) for rows, weight in zip(sets, weights, strict=True)]
        self._ends = list(accumulate(self._counts))
        if not self._ends[-1]:
            raise DataError(f"with weights {', '.join(map(str, weights))} no row of the data is left")
        if self._ends[-1] > MOST_ROWS:
            given = ", ".join(map(str, weights))
            raise DataError(f"with weights {given} an epoch has {self._ends[-1]:.3g} rows, more than {MOST_ROWS:.0e}")
        self._orders: list[Any] = [
            None if float(weight).is_integer() else np.random.default_rng((seed, number)).permutation(len(rows))
            for number, (rows, weight) in enumerate(zip(sets, weights, strict=True))
        ]

    def __len__(self) -> int:
        """Rows of an epoch."""
        return self._ends[-1]

    def at(self, epoch: int, index: int) -> Row:
        """A row of an epoch.

        Raises:
            DataError: it cannot be used.
        """
        number = bisect_right(self._ends, index)
        rows, count, order = self._sets[number], self._counts[number], self._orders[number]
        place = (epoch * count + index - (self._ends[number] - count)) % len(rows)
        return rows[place if order is None else int(order[place])]


def questions(config: Config, check: Callable[[QuestionRow], object] | None = None) -> Mixture[QuestionRow]:
    """What `data.train` names, with further questions where a re-query asks some.

    Raises:
        DataError: one of the sets cannot be read, or lacks a column.
    """
    further: Further = "any" if config.reward.requery.questions > 1 else "none"
    return _mixed(
        config.data.train,
        lambda path: Questions(path, config.data, check, config.reward, further=further),
        config.run.seed,
    )


def conversations(sources: Sequence[SourceConfig], config: DataConfig, seed: int) -> Mixture[ConversationRow]:
    """What `data.sft` or `data.sft_evaluation` names.

    Raises:
        DataError: one of the sets cannot be read, or has no conversations.
    """
    return _mixed(sources, lambda path: Conversations(path, config), seed)


def _mixed(sources: Sequence[SourceConfig], read: Callable[[str], Rows[Row]], seed: int) -> Mixture[Row]:
    return Mixture([read(source.path) for source in sources], [source.weight for source in sources], seed)
