"""Advantages against numbers worked out another way."""

import math
import random
import statistics
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import booleans, floats, lists, randoms, sampled_from, tuples

from vision_sr1.config import AdvantageNormalizer, ComponentConfig
from vision_sr1.credit.advantages import component_advantages, group_advantages, has_signal

NORMALIZERS = [name for name in get_args(AdvantageNormalizer) if name != "gdpo"]


def component(**changes: object) -> ComponentConfig:
    return ComponentConfig(**{"name": "c", "reward": {"accuracy": 1.0}, "tokens": ["response"], **changes})


def advantages_by_hand(rewards: list[float], normalizer: str) -> list[float]:
    """One group in plain Python, each answer against the others."""
    mean = sum(rewards) / len(rewards)
    if normalizer == "leave_one_out":
        return [r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    return [(r - mean) / (deviation + 1e-6 if normalizer == "group" else 1.0) for r in rewards]


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_advantages_are_those_of_the_formula_per_group(normalizer: AdvantageNormalizer):
    for rewards in ([1.0, 0.0, 0.0, 1.0], [0.9, 0.1, 0.1, 0.1]):
        expected = advantages_by_hand(rewards, normalizer)
        np.testing.assert_allclose(group_advantages(np.array(rewards), normalizer, 1e-6), expected, rtol=1e-12)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("group", [[0.0] * 8, [1.0] * 8, [0.1 + 0.9] * 7, [0.3]])
def test_a_group_of_equal_rewards_has_no_advantage(group: list[float], normalizer: AdvantageNormalizer):
    assert group_advantages(np.array(group), normalizer, 1e-6).tolist() == [0.0] * len(group)


@given(
    rewards=lists(floats(-2, 2), min_size=2, max_size=12),
    shift=floats(-5, 5),
    normalizer=sampled_from(NORMALIZERS),
    random=randoms(use_true_random=False),
)
def test_advantages_sum_to_zero_follow_their_answers_and_ignore_a_constant(
    rewards: list[float], shift: float, normalizer: AdvantageNormalizer, random: random.Random
):
    rewards = [round(r, 3) for r in rewards]  # differences far below the deviation's epsilon mean nothing

    def of(values: list[float]) -> np.ndarray:
        return group_advantages(np.array(values), normalizer, 1e-6)

    advantages = of(rewards)
    assert float(advantages.sum()) == pytest.approx(0.0, abs=1e-8)
    order = random.sample(range(len(rewards)), len(rewards))
    np.testing.assert_allclose(of([rewards[i] for i in order]), advantages[order], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(of([r + round(shift, 3) for r in rewards]), advantages, rtol=1e-6, atol=1e-8)


@given(
    lists(lists(tuples(floats(-2, 2), floats(-2, 2)), min_size=2, max_size=6), min_size=1, max_size=4), floats(-5, 5)
)
def test_gdpo_advantages_sum_to_zero_and_ignore_a_constant(groups: list[list[tuple[float, float]]], shift: float):
    c = component(reward={"accuracy": 1.0, "visual": 0.5}, advantage="gdpo")

    def of(shift: float) -> list[np.ndarray]:
        rewards = [np.array(group).round(3) for group in groups]
        return component_advantages(c, [{"accuracy": r[:, 0] + shift, "visual": r[:, 1]} for r in rewards], 1e-6)

    for values, moved in zip(of(0.0), of(round(shift, 3)), strict=True):
        assert float(values.sum()) == pytest.approx(0.0, abs=1e-8)
        np.testing.assert_allclose(moved, values, rtol=1e-6, atol=1e-7)


def test_gdpo_keeps_apart_what_a_sum_of_rewards_mixes_up():
    """Each reward normalized in its group, summed by factors, over the deviation of all sums in the batch."""
    c = component(reward={"accuracy": 1.0, "visual": 0.5}, advantage="gdpo")
    groups = [
        {"accuracy": [1.0, 0.0, 0.0, 1.0], "visual": [0.0, 0.0, 1.0, 1.0]},
        {"accuracy": [1.0, 1.0, 1.0], "visual": [0.0, 1.0, 1.0]},
        {"accuracy": [0.0, 0.0], "visual": [1.0, 1.0]},
    ]

    def by_hand(group: dict[str, list[float]], name: str) -> list[float]:
        equal = len(set(group[name])) == 1
        return [0.0] * len(group[name]) if equal else advantages_by_hand(group[name], "group")

    sums = [
        [a + 0.5 * v for a, v in zip(by_hand(group, "accuracy"), by_hand(group, "visual"), strict=True)]
        for group in groups
    ]
    scale = statistics.stdev([value for group in sums for value in group]) + 1e-6
    computed = component_advantages(c, [{n: np.array(v) for n, v in group.items()} for group in groups], 1e-6)
    for ours, theirs in zip(computed, sums, strict=True):
        assert ours.tolist() == pytest.approx([value / scale for value in theirs], rel=1e-12)


@pytest.mark.parametrize("advantage", get_args(AdvantageNormalizer))
def test_degenerate_groups_give_no_nan(advantage: AdvantageNormalizer):
    c = component(reward={"accuracy": 1.0, "visual": 1.0}, advantage=advantage)
    for values in ([1.0], [1.0, 1.0], [0.0] * 8):
        group = {"accuracy": np.array(values), "visual": np.array(values)}
        assert component_advantages(c, [group], 1e-6)[0].tolist() == [0.0] * len(values)
    assert component_advantages(c, [], 1e-6) == []


@given(lists(tuples(floats(-2, 2), booleans()), min_size=1, max_size=8), sampled_from(get_args(AdvantageNormalizer)))
def test_a_missing_reward_has_no_advantage_and_changes_nobody_elses(
    answers: list[tuple[float, bool]], advantage: AdvantageNormalizer
):
    values = np.array([round(value, 3) for value, _ in answers])
    missing = np.array([gone for _, gone in answers])
    c = component(advantage=advantage)
    (computed,) = component_advantages(c, [{"accuracy": np.where(missing, np.nan, values)}], 1e-6)
    (without,) = component_advantages(c, [{"accuracy": values[~missing]}], 1e-6)
    assert np.isnan(computed[missing]).all()
    np.testing.assert_allclose(computed[~missing], without, rtol=1e-9, atol=1e-12)
    assert has_signal(computed) == bool(without.any())


def test_a_sum_with_a_missing_reward_is_missing():
    c = component(reward={"accuracy": 1.0, "visual": 1.0})
    group = {"accuracy": np.array([1.0, 0.0, 1.0]), "visual": np.array([np.nan, 1.0, 1.0])}
    (computed,) = component_advantages(c, [group], 0.0)
    assert np.isnan(computed).tolist() == [True, False, False]
    assert computed[1:].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])


@pytest.mark.parametrize("advantage", ["group", "gdpo"])
def test_a_reward_that_a_group_was_never_scored_by_is_missing(advantage: AdvantageNormalizer):
    """As after resuming with a new component."""
    group = {"accuracy": np.array([1.0, 0.0])}
    for rewards in ({"new": 1.0}, {"accuracy": 1.0, "new": 1.0}):
        (computed,) = component_advantages(component(advantage=advantage, reward=rewards), [group], 1e-6)
        assert np.isnan(computed).tolist() == [True, True]
