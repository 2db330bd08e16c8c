"""The objective: any number of components, each a reward with its own tokens, advantage, clipping and KL.

Pure functions on the selected tokens of one pack. Notation of the paper's equations 4 to 9: the loss of component k is

    L_k = sum_t m_k (beta_k KL(pi || ref) - min(rho A_k, clip(rho, 1 - eps_low, 1 + eps_high) A_k)) / N_k

with N_k the number of its tokens over all ranks and micro-batches of the optimizer step, and L = sum_k lambda_k L_k.
Dual clipping (arXiv 1912.09729) bounds the gain of a token with A_k < 0 from below by c A_k.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision_sr1.config import AdvantageNormalizer, ComponentConfig, KlEstimator


@dataclass(frozen=True)
class ComponentTokens:
    """One component's view of a pack's selected tokens.

    Attributes:
        mask: tokens that the component trains.
        advantages: A_k of the rollout each token belongs to; 0 outside the mask.
        normalizer: N_k, at least 1.
    """

    mask: Bool[Tensor, " selected"]
    advantages: Float[Tensor, " selected"]
    normalizer: float


def group_advantages(
    rewards: Float[Tensor, "prompts group"], normalizer: AdvantageNormalizer, epsilon: float
) -> Float[Tensor, "prompts group"]:
    """Advantages relative to each prompt's group; exactly 0 where a group's rewards are all equal.

    Args:
        rewards: of each prompt's answers; a group of one has no advantage.
        normalizer: `group`: (r - mean) / (std + epsilon), with the unbiased deviation as in the authors' code (GRPO);
            `group_mean`: r - mean (Dr. GRPO, arXiv 2503.20783); `leave_one_out`: r - mean of the others (RLOO,
            arXiv 2402.14740).
        epsilon: keeps the quotient finite.
    """
    size = rewards.shape[1]
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    centered = (rewards - rewards.mean(dim=1, keepdim=True)).masked_fill(equal, 0.0)
    if normalizer == "group_mean" or size == 1:
        return centered
    if normalizer == "leave_one_out":
        return centered * size / (size - 1)
    return centered / (rewards.std(dim=1, keepdim=True) + epsilon)


def kl_estimate(
    estimator: KlEstimator, logprobs: Float[Tensor, " tokens"], ref_logprobs: Float[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Per-token estimates of KL(policy || reference) from tokens that the policy sampled.

    Schulman's k1, k2 and k3 (joschu.net/blog/kl-approx.html), and `low_var_kl`: k3 of a log-ratio clamped to [-20, 20],
    itself clamped to [-10, 10].
    """
    log_ratio = ref_logprobs - logprobs
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2.0
    if estimator == "k3":
        return log_ratio.expm1() - log_ratio
    log_ratio = log_ratio.clamp(-20.0, 20.0)
    return (log_ratio.expm1() - log_ratio).clamp(-10.0, 10.0)


def component_loss(
    component: ComponentConfig,
    tokens: ComponentTokens,
    logprobs: Float[Tensor, " selected"],
    old_logprobs: Float[Tensor, " selected"],
    ref_logprobs: Float[Tensor, " selected"] | None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """One component's share of the loss, lambda included, and sums over its tokens for metrics.

    Returns:
        The loss, connected to `logprobs` even where the mask is empty, and detached sums `clipped`, `kl` and `tokens`.
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped_ratio = ratio.clamp(1.0 - component.clip_ratio_low, 1.0 + component.clip_ratio_high)
    unclipped = ratio * tokens.advantages
    gain = torch.minimum(unclipped, clipped_ratio * tokens.advantages)
    if component.clip_ratio_dual is not None:
        gain = torch.where(
            tokens.advantages < 0, torch.maximum(gain, component.clip_ratio_dual * tokens.advantages), gain
        )
    zero = logprobs.new_zeros(())
    loss = -torch.where(tokens.mask, gain, zero).sum()
    sums = {
        "clipped": (tokens.mask & (gain != unclipped)).sum().float(),
        "tokens": tokens.mask.sum().float(),
        "kl": zero,
    }
    if ref_logprobs is not None and component.kl_coef > 0:
        kl = torch.where(tokens.mask, kl_estimate(component.kl_estimator, logprobs, ref_logprobs), zero).sum()
        loss = loss + component.kl_coef * kl
        sums["kl"] = kl.detach()
    return component.weight * loss / tokens.normalizer, sums
