"""Visual dependency, its weights and its bonus against plain arithmetic in float64."""

import math

import numpy as np
import pytest
import torch

from learner.objective.dependency import bonus_loss, share_weights, visual_dependency
from vision_sr1.config import DependencyConfig


def by_hand(logprobs: list[float], masked: list[float]) -> list[float]:
    return [min(math.exp(m) / math.exp(lp) - 1 + lp - m, 10.0) for lp, m in zip(logprobs, masked, strict=True)]


def test_dependency_is_the_estimate_of_the_divergence_by_k3():
    rng = np.random.default_rng(0)
    logprobs, masked = rng.normal(-2, 1.5, size=(2, 200))
    found = visual_dependency(torch.tensor(logprobs), torch.tensor(masked))
    expected = by_hand(logprobs.tolist(), masked.tolist())
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert max(expected) == 10.0


def test_its_mean_over_what_the_policy_samples_is_the_divergence():
    torch.manual_seed(0)
    logits = torch.randn(8, dtype=torch.float64)
    seeing = torch.distributions.Categorical(logits=logits)
    masked = torch.distributions.Categorical(logits=logits + 0.5 * torch.randn(8, dtype=torch.float64))
    drawn = seeing.sample((200_000,))
    mean = visual_dependency(seeing.log_prob(drawn), masked.log_prob(drawn)).mean()
    assert float(mean) == pytest.approx(float(torch.distributions.kl_divergence(seeing, masked)), rel=0.03)


@pytest.mark.parametrize("share", [0.01, 0.4, 0.5, 0.99])
def test_weights_keep_the_tokens_of_highest_dependency_of_each_response(share: float):
    rng = np.random.default_rng(1)
    lengths = [1, 7, 30, 2, 12]
    sequences = np.repeat(np.arange(len(lengths)), lengths)
    dependency = rng.choice([0.0, 0.1, 0.2, 0.7], size=sum(lengths)) + rng.choice([0.0, 0.01], size=sum(lengths))
    found = share_weights(torch.tensor(dependency), torch.tensor(sequences), share).tolist()
    expected: list[float] = []
    for index, length in enumerate(lengths):
        own = dependency[sequences == index].tolist()
        count = max(1, round(share * length))
        kept = [place for _, place in sorted((-value, place) for place, value in enumerate(own))][:count]
        expected += [length / count if place in kept else 0.0 for place in range(length)]
    assert found == pytest.approx(expected, rel=1e-6)  # lengths are divided in float32
    assert sum(found) == pytest.approx(sum(lengths), rel=1e-6)


def test_weights_of_no_tokens_are_none():
    assert len(share_weights(torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.4)) == 0


def test_the_bonus_is_its_formula_and_its_gradient_is_the_numerical_one():
    rng = np.random.default_rng(2)
    settings = DependencyConfig(kl_bonus=0.3, kl_bonus_cap=0.5)
    logprobs, masked = rng.normal(-2, 0.7, size=(2, 80))
    trained = rng.random(80) < 0.6

    def loss(values: torch.Tensor) -> torch.Tensor:
        return bonus_loss(settings, visual_dependency(values, torch.tensor(masked)), torch.tensor(trained), 29.0)[0]

    inside = [d for d, t in zip(by_hand(logprobs.tolist(), masked.tolist()), trained, strict=True) if t]
    assert any(d > 0.5 for d in inside), "some tokens should be beyond the cap"
    values = torch.tensor(logprobs, requires_grad=True)
    assert loss(values).item() == pytest.approx(-0.3 * sum(min(d, 0.5) for d in inside) / 29.0, rel=1e-12)
    assert torch.autograd.gradcheck(loss, values)
    capped = bonus_loss(settings, visual_dependency(values, torch.tensor(masked)), torch.tensor(trained), 29.0)[1]
    assert int(capped) == sum(d > 0.5 for d in inside)


def test_beyond_the_cap_nothing_pulls_a_token_further():
    settings = DependencyConfig(kl_bonus=1.0, kl_bonus_cap=1.0)
    logprobs = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    masked = torch.tensor([-1.5, -4.0, 1.0])  # less likely, far less, and far likelier without the image
    bonus_loss(settings, visual_dependency(logprobs, masked), torch.ones(3, dtype=torch.bool), 1.0)[0].backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [pytest.approx(-(1 - math.exp(-0.5)), rel=1e-5), 0.0, 0.0]
