"""Counts of rewards by version, source and value: of all rollouts, those whose traces are not kept included."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Connection

from reward_service.store.database import upsert
from reward_service.store.rows import outcome_of
from reward_service.store.tables import OUTCOMES, RewardCount
from vision_sr1.pipeline.prompt_properties import purpose_name
from vision_sr1.pipeline.scored_groups import sample_version
from vision_sr1.v1 import pipeline_pb2 as pb

BINS = 20
MISSING_BIN = -1
ROUNDED = 9  # digits of a range that is computed from its bins

Ranges = dict[str, tuple[float, float]]


class _Bin(NamedTuple):
    """The key of a RewardCount."""

    run: str
    purpose: str
    data_source: str
    policy_version: int
    name: str
    bin: int


class RewardCounter:
    """Adds to the store's counts.

    Args:
        ranges: least and greatest value of each reward, and of `response_tokens`.
    """

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = {**ranges, "outcome": (0.0, float(len(OUTCOMES)))}

    def add(self, connection: Connection, batch: Iterable[pb.ScoredRollout]) -> None:
        """Counts the rewards of rollouts."""
        values: dict[_Bin, list[float]] = defaultdict(list)
        for scored in batch:
            prompt = scored.rollout.prompt
            of = (prompt.run, purpose_name(prompt), prompt.data_source, sample_version(scored.rollout.sample))
            for name, value in _values(scored).items():
                values[_Bin(*of, name, self._place(name, value))].append(value or 0.0)
        rows = [
            {**key._asdict(), **self._edges(key), "count": len(found), "total": sum(found)}
            for key, found in sorted(values.items())  # in one order, so that replicas do not block each other
        ]
        if rows:
            statement = upsert(connection, RewardCount)
            added = {name: getattr(RewardCount, name) + statement.excluded[name] for name in ("count", "total")}
            connection.execute(statement.on_conflict_do_update(index_elements=list(_Bin._fields), set_=added), rows)

    def _place(self, name: str, value: float | None) -> int:
        if value is None:
            return MISSING_BIN
        low, high = self._ranges.get(name, (0.0, 1.0))
        return max(0, min(_bins(name) - 1, int(_bins(name) * (value - low) / (high - low))))

    def _edges(self, key: _Bin) -> dict[str, float]:
        low, high = self._ranges.get(key.name, (0.0, 1.0))
        width = (high - low) / _bins(key.name)
        return {"low": low + key.bin * width, "high": low + (key.bin + 1) * width}


def bin_range(row: RewardCount) -> tuple[float, float]:
    """The least and the greatest value that the row's reward can have."""
    width = row.high - row.low
    low = row.low - row.bin * width
    return round(low, ROUNDED), round(low + _bins(row.name) * width, ROUNDED)


def _bins(name: str) -> int:
    return len(OUTCOMES) if name == "outcome" else BINS


def _values(scored: pb.ScoredRollout) -> dict[str, float | None]:
    """What is counted of a rollout."""
    given: dict[str, float | None] = dict.fromkeys(scored.missing)
    given |= dict(scored.rewards)
    given["response_tokens"] = float(len(scored.rollout.sample.response_token_ids))
    given["outcome"] = outcome_of(scored.rewards)
    return given
