"""The objective against numbers worked out another way."""

import math

import numpy as np
import pytest
import torch

from learner.objective import ComponentTokens, component_loss, group_advantages, kl_k3
from vision_sr1.config import ComponentConfig


def component(**changes: float) -> ComponentConfig:
    return ComponentConfig(**{"name": "c", "reward": {"accuracy": 1.0}, "tokens": ["response"], **changes})


def test_advantages_are_those_of_the_formula_per_group():
    rewards = np.array([[1.0, 0.0, 0.0, 1.0], [0.9, 0.1, 0.1, 0.1]])
    expected = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-6)
    assert torch.allclose(group_advantages(torch.tensor(rewards), 1e-6), torch.tensor(expected))


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1 + 0.9])
def test_a_group_of_equal_rewards_has_no_advantage(value: float):
    advantages = group_advantages(torch.full((1, 8), value), 1e-6)
    assert torch.equal(advantages, torch.zeros(1, 8))


def by_hand(c: ComponentConfig, mask, advantages, logprobs, old, ref, normalizer) -> float:
    """Token by token, in plain Python."""
    total = 0.0
    for m, a, lp, o, r in zip(mask, advantages, logprobs, old, ref, strict=True):
        if m:
            ratio = math.exp(lp - o)
            clipped = min(max(ratio, 1 - c.clip_ratio_low), 1 + c.clip_ratio_high)
            total -= min(ratio * a, clipped * a)
            total += c.kl_coef * (math.exp(r - lp) - (r - lp) - 1)
    return c.weight * total / normalizer


def test_loss_is_the_formulas_and_its_gradient_is_the_numerical_one():
    rng = np.random.default_rng(0)
    c = component(weight=0.5, clip_ratio_low=0.2, clip_ratio_high=0.28, kl_coef=0.05)
    mask = rng.random(20) < 0.7
    advantages = rng.normal(size=20)
    logprobs, old, ref = (rng.normal(-1, 0.3, size=20) for _ in range(3))
    tokens = ComponentTokens(torch.tensor(mask), torch.tensor(advantages), normalizer=11.0)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return component_loss(c, tokens, values, torch.tensor(old), torch.tensor(ref))[0]

    values = torch.tensor(logprobs, requires_grad=True)
    assert float(loss(values)) == pytest.approx(by_hand(c, mask, advantages, logprobs, old, ref, 11.0))
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


def test_k3_estimates_the_divergence_without_bias():
    torch.manual_seed(0)
    policy = torch.distributions.Categorical(logits=torch.randn(6))
    reference = torch.distributions.Categorical(logits=torch.randn(6))
    drawn = policy.sample((200_000,))
    estimate = kl_k3(policy.log_prob(drawn), reference.log_prob(drawn)).mean()
    assert float(estimate) == pytest.approx(float(torch.distributions.kl_divergence(policy, reference)), rel=0.03)
