"""Advantages of re-queries: each is rewarded by its own answer and compared with others that were asked the same."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vision_sr1.config import ComponentConfig
from vision_sr1.credit.advantages import Rewards, component_advantages
from vision_sr1.credit.assignment import named_rewards
from vision_sr1.v1 import pipeline_pb2 as pb

Place = tuple[int, int]  # of a re-query: its rollout's in the group, its own in the rollout


@dataclass(frozen=True)
class RequeryGroup:
    """Re-queries that are compared with one another.

    Attributes:
        places: of the entries of `rewards`; None for one that stands for a re-query that was not made.
        rewards: by name, one of each per entry.
    """

    places: list[Place | None]
    rewards: Rewards


def requery_advantages(
    component: ComponentConfig, groups: list[pb.ScoredGroup], epsilon: float
) -> list[dict[Place, float]]:
    """A component's advantages of each group's re-queries; NaN where the reward is missing.

    Args:
        groups: a whole batch: advantages may depend on all of it.

    Raises:
        KeyError: a group lacks a reward that the component names.
    """
    compared = [list(requery_groups(group, component)) for group in groups]
    values = iter(component_advantages(component, [one.rewards for each in compared for one in each], epsilon))
    found: list[dict[Place, float]] = []
    for each in compared:
        found.append({})
        for one in each:
            places = zip(one.places, map(float, next(values)), strict=True)
            found[-1] |= {place: value for place, value in places if place is not None}
    return found


def requery_groups(group: pb.ScoredGroup, component: ComponentConfig) -> Iterator[RequeryGroup]:
    """The re-queries of a prompt's group that ask one question or, with `group: description`, one description of it.

    Each has the rewards that it was given itself, and its rollout's others. A rollout that was not asked, for it has no
    description, counts among those of a question as much as one that was.
    """
    for question in sorted({requery.question for scored in group.rollouts for requery in scored.requeries}) or [0]:
        entries = [_entries(number, scored, question) for number, scored in enumerate(group.rollouts)]
        if component.group == "description":
            for each in filter(None, entries):
                yield _compared(each, group)
            continue
        most = max([1, *map(len, entries)])
        for scored, each in zip(group.rollouts, entries, strict=True):
            if not scored.requeries:
                each += [(None, dict(scored.rewards))] * most
        yield _compared([entry for each in entries for entry in each], group)


_Entry = tuple[Place | None, dict[str, float]]


def _entries(number: int, scored: pb.ScoredRollout, question: int) -> list[_Entry]:
    """A rollout's re-queries on one question."""
    rewards = dict(scored.rewards)
    return [
        ((number, place), {**rewards, "visual": np.nan, **requery.rewards})
        if requery.rewards  # schema 1 has none there
        else ((number, place), rewards)
        for place, requery in enumerate(scored.requeries)
        if requery.question == question
    ]


def _compared(entries: list[_Entry], group: pb.ScoredGroup) -> RequeryGroup:
    return RequeryGroup([place for place, _ in entries], named_rewards([rewards for _, rewards in entries], group))
