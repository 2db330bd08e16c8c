"""Advantages: what a reward is worth beside the other answers to its prompt. Pure functions.

A reward that is missing is NaN, and so is its advantage: its tokens are not trained, and the others of its group are
compared among themselves.
"""

import numpy as np
from jaxtyping import Float

from vision_sr1.config import AdvantageNormalizer, ComponentConfig

Rewards = dict[str, Float[np.ndarray, " group"]]  # of one prompt's answers, by name
BatchRewards = list[dict[str, Float[np.ndarray, " _group"]]]  # of several prompts, whose groups may differ in size
BatchAdvantages = list[Float[np.ndarray, " _group"]]


def component_advantages(component: ComponentConfig, groups: BatchRewards, epsilon: float) -> BatchAdvantages:
    """A component's advantages in every group of a batch.

    `gdpo` (arXiv 2601.05242) normalizes each named reward in its group, sums them by their factors, and divides the
    sums, whose mean is 0, by their deviation over the batch; all others normalize the sum of the rewards in its group.
    A reward that a group was never scored by is missing from all its answers: the run was resumed with a new component.
    """
    if component.advantage != "gdpo":
        return [group_advantages(_weighted_sum(component, group), component.advantage, epsilon) for group in groups]
    sums = [
        _weighted_sum(
            component, {name: group_advantages(_reward(group, name), "group", epsilon) for name in component.reward}
        )
        for group in groups
    ]
    every = np.concatenate([*sums, np.zeros(0)])
    every = every[~np.isnan(every)]
    scale = every.std(ddof=1) + epsilon if len(every) > 1 else 1.0
    return [values / scale for values in sums]


def group_advantages(
    rewards: Float[np.ndarray, " group"], normalizer: AdvantageNormalizer, epsilon: float
) -> Float[np.ndarray, " group"]:
    """Advantages relative to one prompt's group; exactly 0 where its rewards are all equal.

    Args:
        rewards: of the prompt's answers; a group of one has no advantage.
        normalizer: `group`: (r - mean) / (std + epsilon), with the unbiased deviation as in the authors' code (GRPO);
            `group_mean`: r - mean (Dr. GRPO, arXiv 2503.20783); `leave_one_out`: r - mean of the others (RLOO,
            arXiv 2402.14740).
        epsilon: keeps the quotient finite.
    """
    given = rewards[~np.isnan(rewards)]
    if not (given != given[:1]).any():
        return np.where(np.isnan(rewards), np.nan, 0.0)
    centered = rewards - given.mean()
    if normalizer == "group_mean":
        return centered
    if normalizer == "leave_one_out":
        return centered * len(given) / (len(given) - 1)
    return centered / (given.std(ddof=1) + epsilon)


def has_signal(advantages: Float[np.ndarray, " group"]) -> bool:
    """Whether there is something to learn from a group: an answer that is better than another."""
    return bool(np.nan_to_num(advantages).any())


def _weighted_sum(component: ComponentConfig, rewards: Rewards) -> Float[np.ndarray, " group"]:
    return sum((factor * _reward(rewards, name) for name, factor in component.reward.items()), start=np.zeros(1))


def _reward(rewards: Rewards, name: str) -> Float[np.ndarray, " group"]:
    return rewards[name] if name in rewards else np.full(len(next(iter(rewards.values()))), np.nan)
