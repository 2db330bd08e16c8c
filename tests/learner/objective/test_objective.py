"""The objective against numbers worked out another way."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from learner.objective.loss import (
    ComponentTokens,
    PackTokens,
    component_loss,
    importance_weights,
    kl_estimate,
)
from vision_sr1.config import ComponentConfig, Correction, KlEstimator, OffPolicyConfig, load_config
from vision_sr1.credit.advantages import component_advantages


def component(**changes: object) -> ComponentConfig:
    return ComponentConfig(**{"name": "c", "reward": {"accuracy": 1.0}, "tokens": ["response"], **changes})


def pack_tokens(old, ref=None, *, weights=None, sequences=None) -> PackTokens:
    old = torch.as_tensor(old)
    return PackTokens(
        sequences=torch.zeros(len(old), dtype=torch.int64) if sequences is None else torch.as_tensor(sequences),
        old_logprobs=old,
        ref_logprobs=None if ref is None else torch.as_tensor(ref),
        weights=torch.ones_like(old) if weights is None else torch.as_tensor(weights),
    )


def test_the_summed_reward_is_blind_where_segments_see():
    """{right, insufficient description} and {wrong, sufficient}: equal sums have no gradient, segments have one."""
    group = {"accuracy": np.array([1.0, 0.0]), "visual": np.array([0.0, 1.0])}
    description = torch.tensor([True, True, False, False, True, True, False, False])

    def gradient(components: list[tuple[ComponentConfig, torch.Tensor]]) -> torch.Tensor:
        logprobs = torch.full((8,), -1.0, requires_grad=True)
        for c, mask in components:
            advantages = torch.tensor(component_advantages(c, [group], 1e-6)[0].repeat(4), dtype=torch.float32)
            tokens = ComponentTokens(mask, advantages, normalizer=float(mask.sum()))
            component_loss(c, tokens, logprobs, pack_tokens(logprobs.detach()))[0].backward()
        assert logprobs.grad is not None
        return logprobs.grad

    summed = component(reward={"accuracy": 1.0, "visual": 1.0}, kl_coef=0.0)
    assert gradient([(summed, torch.ones(8, dtype=torch.bool))]).tolist() == [0.0] * 8
    answer = component(reward={"accuracy": 1.0}, kl_coef=0.0)
    visual = component(reward={"visual": 1.0}, kl_coef=0.0)
    segmented = gradient([(answer, ~description), (visual, description)])
    assert (segmented[description].sign().tolist(), segmented[~description].sign().tolist()) == (
        [1.0, 1.0, -1.0, -1.0],
        [-1.0, -1.0, 1.0, 1.0],
    )


def test_at_ratio_one_channels_over_the_same_tokens_are_grpo_with_the_summed_advantage():
    rng = np.random.default_rng(1)
    group = {name: rng.integers(0, 2, 8).astype(float) for name in ("accuracy", "visual")}
    mask = torch.ones(80, dtype=torch.bool)
    logprobs = torch.tensor(rng.normal(-2, 1, 80), requires_grad=True)

    def loss(advantages: np.ndarray) -> torch.Tensor:
        tokens = ComponentTokens(mask, torch.tensor(advantages.repeat(10)), normalizer=80.0)
        return component_loss(component(kl_coef=0.0), tokens, logprobs, pack_tokens(logprobs.detach()))[0]

    channels = [component_advantages(component(reward={name: 1.0}), [group], 1e-6)[0] for name in group]
    (together,) = torch.autograd.grad(loss(channels[0]) + loss(channels[1]), logprobs)
    (summed,) = torch.autograd.grad(loss(channels[0] + channels[1]), logprobs)
    assert together.abs().max() > 0
    torch.testing.assert_close(together, summed, rtol=1e-12, atol=1e-15)


KL_BY_HAND = {
    "k1": lambda lp, ref: lp - ref,
    "k2": lambda lp, ref: (lp - ref) ** 2 / 2,
    "k3": lambda lp, ref: math.exp(ref) / math.exp(lp) - 1 + lp - ref,
    "low_var_kl": lambda lp, ref: min(10.0, math.exp(ref) / math.exp(lp) - 1 + lp - ref),
}


def by_hand(c: ComponentConfig, mask, advantages, logprobs, old, ref, weights, sequences, normalizer) -> float:
    """Token by token, in plain Python."""

    def ratio_of(index: int) -> float:
        same = [i for i in range(len(mask)) if mask[i] and sequences[i] == sequences[index]]
        members = same if c.ratio == "sequence" else [index]
        return math.exp(sum(logprobs[i] - old[i] for i in members) / len(members))

    total = 0.0
    for i, (m, a, lp, r, w) in enumerate(zip(mask, advantages, logprobs, ref, weights, strict=True)):
        if m:
            ratio = ratio_of(i)
            clipped = min(max(ratio, 1 - c.clip_ratio_low), 1 + c.clip_ratio_high)
            surrogate = min(ratio * a, clipped * a)
            if c.clip_ratio_dual is not None and a < 0:
                surrogate = max(surrogate, c.clip_ratio_dual * a)
            total -= w * surrogate
            total += c.kl_coef * KL_BY_HAND[c.kl_estimator](lp, r)
    return c.weight * total / normalizer


@pytest.mark.parametrize("kl_estimator", get_args(KlEstimator))
@pytest.mark.parametrize("dual", [None, 1.5])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_loss_is_the_formulas_and_its_gradient_is_the_numerical_one(
    kl_estimator: KlEstimator, dual: float | None, ratio: str
):
    rng = np.random.default_rng(0)
    c = component(
        weight=0.5,
        ratio=ratio,
        clip_ratio_low=0.2,
        clip_ratio_high=0.28,
        clip_ratio_dual=dual,
        kl_coef=0.05,
        kl_estimator=kl_estimator,
    )
    mask = rng.random(60) < 0.7
    sequences = np.repeat(np.arange(20), 3)
    advantages = rng.normal(size=60)
    logprobs, old, ref = (rng.normal(-2, 0.6, size=60) for _ in range(3))
    weights = rng.uniform(0, 2, size=60)
    bounded = (advantages < 0) & (np.exp(logprobs - old) > 1.5) & mask
    assert bounded.any(), "some tokens should be beyond the dual clip"
    tokens = ComponentTokens(torch.tensor(mask), torch.tensor(advantages), normalizer=11.0)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return component_loss(c, tokens, values, pack_tokens(old, ref, weights=weights, sequences=sequences))[0]

    values = torch.tensor(logprobs, requires_grad=True)
    expected = by_hand(c, mask, advantages, logprobs, old, ref, weights, sequences, 11.0)
    assert loss(values).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(loss, values)


def test_the_whole_objectives_gradient_is_the_numerical_one_on_a_tiny_network():
    """Three components over the tokens of two sequences, through a network in float64."""
    torch.manual_seed(0)
    vocabulary, width, tokens = 7, 5, 24
    network = torch.nn.Sequential(
        torch.nn.Embedding(vocabulary, width), torch.nn.Tanh(), torch.nn.Linear(width, vocabulary)
    ).double()
    inputs, targets = torch.randint(0, vocabulary, (2, tokens))
    sequences = torch.arange(tokens) // 12
    old, ref = (torch.randn(tokens, dtype=torch.float64) * 0.3 - 2.0 for _ in range(2))
    others = pack_tokens(old, ref, weights=torch.rand(tokens, dtype=torch.float64) * 2, sequences=sequences)
    components = load_config(None, environment={}).config.learner.components
    components[1] = components[1].model_copy(update={"ratio": "sequence", "kl_estimator": "k2"})
    masks = [torch.rand(tokens) < 0.6 for _ in components]
    advantages = [torch.randn(2, dtype=torch.float64)[sequences] for _ in components]
    names, values = zip(*network.named_parameters(), strict=True)

    def loss(*parameters: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), inputs)
        logprobs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
        parts = [
            component_loss(c, ComponentTokens(mask, a, normalizer=float(mask.sum())), logprobs, others)[0]
            for c, mask, a in zip(components, masks, advantages, strict=True)
        ]
        return torch.stack(parts).sum()

    assert torch.autograd.gradcheck(loss, tuple(value.detach().requires_grad_() for value in values))


def test_at_the_old_policy_the_gradient_is_the_policy_gradient():
    c = component(kl_coef=0.0)
    advantages = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    logprobs = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64, requires_grad=True)
    tokens = ComponentTokens(torch.tensor([True, True, False]), advantages, normalizer=2.0)
    loss, _ = component_loss(c, tokens, logprobs, pack_tokens(logprobs.detach()))
    loss.backward()
    assert logprobs.grad is not None
    assert torch.allclose(logprobs.grad, torch.tensor([-0.5, 1.0, 0.0], dtype=torch.float64))


def test_no_tokens_give_a_loss_of_zero_that_is_still_connected():
    logprobs = torch.zeros(0, requires_grad=True)
    tokens = ComponentTokens(torch.zeros(0, dtype=torch.bool), torch.zeros(0), normalizer=1.0)
    loss, sums = component_loss(component(), tokens, logprobs, pack_tokens(torch.zeros(0), torch.zeros(0)))
    loss.backward()
    assert loss.item() == 0.0
    assert float(sums["tokens"]) == 0.0


def test_clip_counts_tokens_whose_gain_is_held_back():
    c = component(clip_ratio_low=0.2, clip_ratio_high=0.3, kl_coef=0.0)
    ratios = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    tokens = ComponentTokens(torch.ones(5, dtype=torch.bool), advantages, normalizer=5.0)
    _, sums = component_loss(c, tokens, ratios.log(), pack_tokens(torch.zeros(5)))
    assert float(sums["clipped"]) == 2.0


def test_dual_clip_bounds_what_a_negative_advantage_can_do():
    c = component(kl_coef=0.0, clip_ratio_dual=3.0)
    logprobs = torch.tensor([0.0, 0.0], requires_grad=True)
    old = torch.tensor([-5.0, -0.5])
    tokens = ComponentTokens(torch.ones(2, dtype=torch.bool), torch.tensor([-2.0, -2.0]), normalizer=1.0)
    loss, sums = component_loss(c, tokens, logprobs, pack_tokens(old))
    loss.backward()
    assert loss.item() == pytest.approx(6.0 + 2.0 * math.exp(0.5))
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.0, pytest.approx(2.0 * math.exp(0.5))]
    assert float(sums["clipped"]) == 1.0


def by_hand_weights(correction: str, ratios: list[float], sequences: list[int]) -> list[float]:
    """With the bounds of the test below, in plain Python."""
    products = {s: math.prod(r for r, of in zip(ratios, sequences, strict=True) if of == s) for s in sequences}
    match correction:
        case "truncated":
            return [min(ratio, 2.0) for ratio in ratios]
        case "masked_token":
            return [ratio if ratio <= 2.0 else 0.0 for ratio in ratios]
        case "masked_sequence":
            return [products[s] if products[s] <= 2.0 else 0.0 for s in sequences]
        case _:
            return [ratio if 0.4 <= ratio <= 3.0 else 0.0 for ratio in ratios]


@pytest.mark.parametrize("correction", get_args(Correction))
def test_importance_weights_are_those_of_the_correction(correction: Correction):
    settings = OffPolicyConfig(
        recompute_proximal=True, correction=correction, max_importance_weight=2.0, icepop_low=0.4, icepop_high=3.0
    )
    ratios, sequences = [1.0, 2.5, 0.3, 0.9, 4.0, 0.45, 1.5, 1.5], [0, 0, 0, 1, 2, 2, 3, 3]
    behaviour = torch.linspace(-3, -1, 8)
    proximal = behaviour + torch.tensor(ratios).log()
    found = importance_weights(settings, proximal, behaviour, torch.tensor(sequences))
    expected = by_hand_weights(correction, ratios, sequences)
    assert found.weights.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.is_masked.tolist() == [weight == 0.0 for weight in expected]
    truncated = [ratio > 2.0 for ratio in ratios] if correction == "truncated" else [False] * 8
    assert found.is_truncated.tolist() == truncated
    assert correction == "truncated" or 0 < int(found.is_masked.sum()) < 8


def test_an_entropy_bonus_is_the_entropy_over_the_tokens_of_the_component():
    torch.manual_seed(0)
    c = component(kl_coef=0.0, entropy_coef=0.1, weight=0.5)
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, False, True, True, False])
    tokens = ComponentTokens(mask, torch.zeros(5, dtype=torch.float64), normalizer=3.0)

    def loss(values: torch.Tensor) -> torch.Tensor:
        every = values.log_softmax(-1)
        return component_loss(
            c, tokens, every[:, 0], pack_tokens(every[:, 0].detach()), -(every.exp() * every).sum(-1)
        )[0]

    probabilities = logits.detach().softmax(-1).tolist()
    by_hand = [-sum(p * math.log(p) for p in row) for row in probabilities]
    kept = [entropy for entropy, inside in zip(by_hand, mask.tolist(), strict=True) if inside]
    assert loss(logits).item() == pytest.approx(-0.5 * 0.1 * sum(kept) / 3.0, rel=1e-12)
    assert torch.autograd.gradcheck(loss, logits)
    with pytest.raises(ValueError, match="'c' has an entropy bonus, which needs entropies"):
        component_loss(c, tokens, torch.zeros(5), pack_tokens(torch.zeros(5)))


def test_the_approximate_kl_is_to_the_policy_that_ratios_are_clipped_against():
    old, logprobs = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.5, -1.8, -9.0])
    tokens = ComponentTokens(torch.tensor([True, True, False]), torch.zeros(3), normalizer=2.0)
    _, sums = component_loss(component(kl_coef=0.0), tokens, logprobs, pack_tokens(old))
    expected = sum(math.exp(r) - 1 - r for r in (-0.5, 0.2))
    assert float(sums["approx_kl"]) == pytest.approx(expected, rel=1e-5)


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
