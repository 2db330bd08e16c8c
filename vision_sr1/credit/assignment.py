"""Which rewards and which tokens of a scored group the objective's components look at."""

import numpy as np
from jaxtyping import Bool

from vision_sr1.credit.advantages import Rewards
from vision_sr1.pipeline.prompt_properties import has_images
from vision_sr1.rewards.names import OF_DESCRIPTIONS
from vision_sr1.v1 import pipeline_pb2 as pb


def group_rewards(group: pb.ScoredGroup) -> Rewards:
    """The group's rewards by name, one of each per rollout; NaN where missing."""
    return named_rewards([dict(scored.rewards) for scored in group.rollouts], group)


def named_rewards(given: list[dict[str, float]], group: pb.ScoredGroup) -> Rewards:
    """Rewards by name, one of each per entry; NaN where one is missing.

    Args:
        given: of each entry.
        group: that the entries are of, by whose rollouts the names are known.
    """
    names = {name for scored in group.rollouts for name in (*scored.rewards, *scored.missing)}
    found = {name: np.array([rewards.get(name, np.nan) for rewards in given]) for name in sorted(names)}
    if group.rollouts and not has_images(group.rollouts[0].rollout.prompt):  # nothing is won or lost by a description
        found |= {name: np.zeros(len(given)) for name in OF_DESCRIPTIONS if name not in names}
    return found


def token_sets(scored: pb.ScoredRollout) -> dict[str, Bool[np.ndarray, " response"]]:
    """The answering rollout's token sets: `description` is its block with tags, `reasoning` all other tokens.

    Every response token is in exactly one of the two; a response without a description block is all reasoning.
    """
    length = len(scored.rollout.sample.response_token_ids)
    description = np.zeros(length, dtype=bool)
    if scored.HasField("description"):
        description[scored.description.start : scored.description.end] = True
    return {"response": np.ones(length, dtype=bool), "description": description, "reasoning": ~description}
