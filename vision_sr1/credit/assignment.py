"""Which rewards and which tokens of a scored group the objective's components look at."""

import numpy as np
from jaxtyping import Bool

from vision_sr1.credit.advantages import Rewards
from vision_sr1.pipeline.prompt_properties import has_images
from vision_sr1.rewards.names import OF_DESCRIPTIONS
from vision_sr1.v1 import pipeline_pb2 as pb


def group_rewards(group: pb.ScoredGroup) -> Rewards:
    """The group's rewards by name, one of each per rollout; NaN where missing."""
    return _rewards([dict(scored.rewards) for scored in group.rollouts], group)


def requery_rewards(group: pb.ScoredGroup) -> Rewards:
    """The group's rewards by name, one of each per re-query: what it was given itself, and its rollout's others.

    A rollout that was not asked, for it has no description, counts as much as one that was: see `requery_entries`.
    """
    given: list[dict[str, float]] = []
    for scored in group.rollouts:
        rewards = dict(scored.rewards)
        asked = [
            {**rewards, "visual": np.nan, **requery.rewards} if requery.rewards else rewards  # schema 1 has none there
            for requery in scored.requeries
        ]
        given += asked or [rewards] * requery_entries(scored, group)
    return _rewards(given, group)


def requery_entries(scored: pb.ScoredRollout, group: pb.ScoredGroup) -> int:
    """How many of the group's `requery_rewards` are of this rollout."""
    return len(scored.requeries) or max(1, *(len(other.requeries) for other in group.rollouts))


def token_sets(scored: pb.ScoredRollout) -> dict[str, Bool[np.ndarray, " response"]]:
    """The answering rollout's token sets: `description` is its block with tags, `reasoning` all other tokens.

    Every response token is in exactly one of the two; a response without a description block is all reasoning.
    """
    length = len(scored.rollout.sample.response_token_ids)
    description = np.zeros(length, dtype=bool)
    if scored.HasField("description"):
        description[scored.description.start : scored.description.end] = True
    return {"response": np.ones(length, dtype=bool), "description": description, "reasoning": ~description}


def _rewards(given: list[dict[str, float]], group: pb.ScoredGroup) -> Rewards:
    names = {name for scored in group.rollouts for name in (*scored.rewards, *scored.missing)}
    found = {name: np.array([rewards.get(name, np.nan) for rewards in given]) for name in sorted(names)}
    if group.rollouts and not has_images(group.rollouts[0].rollout.prompt):  # nothing is won or lost by a description
        found |= {name: np.zeros(len(given)) for name in OF_DESCRIPTIONS if name not in names}
    return found
