"""The objective against numbers worked out another way."""

import math
import random
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.strategies import floats, lists, randoms, sampled_from

from learner.objective import ComponentTokens, component_loss, group_advantages, kl_estimate
from vision_sr1.config import AdvantageNormalizer, ComponentConfig, KlEstimator


def component(**changes: object) -> ComponentConfig:
    return ComponentConfig(**{"name": "c", "reward": {"accuracy": 1.0}, "tokens": ["response"], **changes})


NORMALIZERS = get_args(AdvantageNormalizer)


def advantages_by_hand(rewards: list[float], normalizer: str) -> list[float]:
    """One group in plain Python, each answer against the others."""
    mean = sum(rewards) / len(rewards)
    if normalizer == "leave_one_out":
        return [r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    return [(r - mean) / (deviation + 1e-6 if normalizer == "group" else 1.0) for r in rewards]


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_advantages_are_those_of_the_formula_per_group(normalizer: AdvantageNormalizer):
    rewards = [[1.0, 0.0, 0.0, 1.0], [0.9, 0.1, 0.1, 0.1]]
    expected = [advantages_by_hand(group, normalizer) for group in rewards]
    computed = group_advantages(torch.tensor(rewards, dtype=torch.float64), normalizer, 1e-6)
    torch.testing.assert_close(computed, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("group", [[0.0] * 8, [1.0] * 8, [0.1 + 0.9] * 7, [0.3]])
def test_a_group_of_equal_rewards_has_no_advantage(group: list[float], normalizer: AdvantageNormalizer):
    assert group_advantages(torch.tensor([group]), normalizer, 1e-6).tolist() == [[0.0] * len(group)]


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

    def of(values: list[float]) -> torch.Tensor:
        return group_advantages(torch.tensor([values], dtype=torch.float64), normalizer, 1e-6)[0]

    advantages = of(rewards)
    assert float(advantages.sum()) == pytest.approx(0.0, abs=1e-8)
    order = random.sample(range(len(rewards)), len(rewards))
    torch.testing.assert_close(of([rewards[i] for i in order]), advantages[order])
    torch.testing.assert_close(of([r + round(shift, 3) for r in rewards]), advantages, rtol=1e-6, atol=1e-8)


KL_BY_HAND = {
    "k1": lambda lp, ref: lp - ref,
    "k2": lambda lp, ref: (lp - ref) ** 2 / 2,
    "k3": lambda lp, ref: math.exp(ref) / math.exp(lp) - 1 + lp - ref,
    "low_var_kl": lambda lp, ref: min(10.0, math.exp(ref) / math.exp(lp) - 1 + lp - ref),
}


def by_hand(c: ComponentConfig, mask, advantages, logprobs, old, ref, normalizer) -> float:
    """Token by token, in plain Python."""
    total = 0.0
    for m, a, lp, o, r in zip(mask, advantages, logprobs, old, ref, strict=True):
        if m:
            ratio = math.exp(lp - o)
            clipped = min(max(ratio, 1 - c.clip_ratio_low), 1 + c.clip_ratio_high)
            gain = min(ratio * a, clipped * a)
            if c.clip_ratio_dual is not None and a < 0:
                gain = max(gain, c.clip_ratio_dual * a)
            total -= gain
            total += c.kl_coef * KL_BY_HAND[c.kl_estimator](lp, r)
    return c.weight * total / normalizer


@pytest.mark.parametrize("kl_estimator", get_args(KlEstimator))
@pytest.mark.parametrize("dual", [None, 1.5])
def test_loss_is_the_formulas_and_its_gradient_is_the_numerical_one(kl_estimator: KlEstimator, dual: float | None):
    rng = np.random.default_rng(0)
    c = component(
        weight=0.5,
        clip_ratio_low=0.2,
        clip_ratio_high=0.28,
        clip_ratio_dual=dual,
        kl_coef=0.05,
        kl_estimator=kl_estimator,
    )
    mask = rng.random(60) < 0.7
    advantages = rng.normal(size=60)
    logprobs, old, ref = (rng.normal(-2, 0.6, size=60) for _ in range(3))
    bounded = (advantages < 0) & (np.exp(logprobs - old) > 1.5) & mask
    assert bounded.any(), "some tokens should be beyond the dual clip"
    tokens = ComponentTokens(torch.tensor(mask), torch.tensor(advantages), normalizer=11.0)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return component_loss(c, tokens, values, torch.tensor(old), torch.tensor(ref))[0]

    values = torch.tensor(logprobs, requires_grad=True)
    expected = by_hand(c, mask, advantages, logprobs, old, ref, 11.0)
    assert float(loss(values)) == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(loss, values)


def test_at_the_old_policy_the_gradient_is_the_policy_gradient():
    c = component(kl_coef=0.0)
    advantages = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    logprobs = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64, requires_grad=True)
    tokens = ComponentTokens(torch.tensor([True, True, False]), advantages, normalizer=2.0)
    loss, _ = component_loss(c, tokens, logprobs, logprobs.detach(), None)
    loss.backward()
    assert torch.allclose(logprobs.grad, torch.tensor([-0.5, 1.0, 0.0], dtype=torch.float64))


def test_no_tokens_give_a_loss_of_zero_that_is_still_connected():
    logprobs = torch.zeros(0, requires_grad=True)
    tokens = ComponentTokens(torch.zeros(0, dtype=torch.bool), torch.zeros(0), normalizer=1.0)
    loss, sums = component_loss(component(), tokens, logprobs, torch.zeros(0), torch.zeros(0))
    loss.backward()
    assert float(loss) == 0.0
    assert float(sums["tokens"]) == 0.0


def test_clip_counts_tokens_whose_gain_is_held_back():
    c = component(clip_ratio_low=0.2, clip_ratio_high=0.3, kl_coef=0.0)
    ratios = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    tokens = ComponentTokens(torch.ones(5, dtype=torch.bool), advantages, normalizer=5.0)
    _, sums = component_loss(c, tokens, ratios.log(), torch.zeros(5), None)
    assert float(sums["clipped"]) == 2.0


def test_dual_clip_bounds_what_a_negative_advantage_can_do():
    c = component(kl_coef=0.0, clip_ratio_dual=3.0)
    logprobs = torch.tensor([0.0, 0.0], requires_grad=True)
    old = torch.tensor([-5.0, -0.5])
    tokens = ComponentTokens(torch.ones(2, dtype=torch.bool), torch.tensor([-2.0, -2.0]), normalizer=1.0)
    loss, sums = component_loss(c, tokens, logprobs, old, None)
    loss.backward()
    assert float(loss) == pytest.approx(6.0 + 2.0 * math.exp(0.5))
    assert logprobs.grad.tolist() == [0.0, pytest.approx(2.0 * math.exp(0.5))]
    assert float(sums["clipped"]) == 1.0


def test_low_var_kl_stays_finite_where_k3_does_not():
    logprobs, reference = torch.tensor([-200.0]), torch.tensor([-1.0])
    assert kl_estimate("k3", logprobs, reference).isinf().all()
    assert kl_estimate("low_var_kl", logprobs, reference).tolist() == [10.0]


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_estimate_the_divergence_without_bias(estimator: KlEstimator):
    torch.manual_seed(0)
    policy = torch.distributions.Categorical(logits=torch.randn(6))
    reference = torch.distributions.Categorical(logits=torch.randn(6))
    drawn = policy.sample((200_000,))
    estimate = kl_estimate(estimator, policy.log_prob(drawn), reference.log_prob(drawn)).mean()
    assert float(estimate) == pytest.approx(float(torch.distributions.kl_divergence(policy, reference)), rel=0.03)
