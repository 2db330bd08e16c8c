"""Visual dependency: how far the policy's distribution moves at a token when it sees masked images. Pure functions.

With l_t the log-probability of a sampled token, and m_t that of the same token where squares of the prompt's images are
masked,

    d_t = min(exp(m_t - l_t) - (m_t - l_t) - 1, 10)

estimates KL(pi(. | image) || pi(. | masked image)) by k3. Answers to prompts without images have none.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learner.objective.loss import kl_estimate
from vision_sr1.config import DependencyConfig


def visual_dependency(
    logprobs: Float[Tensor, " tokens"], masked_logprobs: Float[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """d_t of each token."""
    return kl_estimate("low_var_kl", logprobs, masked_logprobs)


def share_weights(
    dependency: Float[Tensor, " tokens"], sequences: Int[Tensor, " tokens"], share: float
) -> Float[Tensor, " tokens"]:
    """Weights of the surrogate: T / n for the n tokens of highest d_t of a response of T tokens, 0 for the others.

    n is share x T, rounded, and at least 1; of equal tokens the first count. The mean over a response is 1.

    Args:
        sequences: which response each token belongs to, from 0.
    """
    lengths = torch.bincount(sequences)
    kept = (share * lengths).round().long().clamp(min=1)
    order = dependency.argsort(descending=True, stable=True)
    order = order[sequences[order].argsort(stable=True)]  # by response, then by dependency
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - (lengths.cumsum(0) - lengths)[sequences[order]]
    return torch.where(rank < kept[sequences], (lengths / kept)[sequences], 0.0).to(dependency.dtype)


def bonus_loss(
    settings: DependencyConfig,
    dependency: Float[Tensor, " tokens"],
    trained: Bool[Tensor, " tokens"],
    normalizer: float,
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """The loss -gamma sum_t min(d_t, c) / N over trained tokens, and how many of them are beyond c.

    gamma is `kl_bonus`, c `kl_bonus_cap`. A token beyond c has no gradient: the bonus is bounded.

    Args:
        normalizer: N, the trained tokens of prompts with images over all ranks and micro-batches of the step.
    """
    bounded = torch.where(trained, dependency.clamp(max=settings.kl_bonus_cap), 0.0)
    capped = (trained & (dependency.detach() > settings.kl_bonus_cap)).sum()
    return -settings.kl_bonus * bounded.sum() / normalizer, capped
