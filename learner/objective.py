"""The objective: any number of components, each a reward with its own tokens, advantage, clipping and KL.

Pure functions on the selected tokens of one pack. Notation of the paper's equations 4 to 9: the loss of component k is

    L_k = sum_t m_k (beta_k KL(pi || ref) - min(rho A_k, clip(rho, 1 - eps_low, 1 + eps_high) A_k)) / N_k

with N_k the number of its tokens over all ranks and micro-batches of the optimizer step, and L = sum_k lambda_k L_k.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision_sr1.config import ComponentConfig


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


def group_advantages(rewards: Float[Tensor, "prompts group"], epsilon: float) -> Float[Tensor, "prompts group"]:
    """Group-relative advantages (r - mean) / (std + epsilon); 0 where a group's rewards are all equal.

    The standard deviation is the unbiased one, as in the authors' code.
    """
    centered = rewards - rewards.mean(dim=1, keepdim=True)
    deviation = rewards.std(dim=1, keepdim=True)
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return torch.where(equal, torch.zeros_like(centered), centered / (deviation + epsilon))


def kl_k3(logprobs: Float[Tensor, " tokens"], ref_logprobs: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Schulman's k3 estimate of KL(policy || reference) per token, clamped to [-10, 10] (`low_var_kl`)."""
    log_ratio = (ref_logprobs - logprobs).clamp(-20.0, 20.0)
    return (log_ratio.exp() - log_ratio - 1.0).clamp(-10.0, 10.0)


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
    gain = torch.minimum(ratio * tokens.advantages, clipped_ratio * tokens.advantages)
    zero = logprobs.new_zeros(())
    loss = -torch.where(tokens.mask, gain, zero).sum()
    sums = {
        "clipped": (tokens.mask & (clipped_ratio * tokens.advantages < ratio * tokens.advantages)).sum().float(),
        "tokens": tokens.mask.sum().float(),
        "kl": zero,
    }
    if ref_logprobs is not None and component.kl_coef > 0:
        kl = torch.where(tokens.mask, kl_k3(logprobs, ref_logprobs), zero).sum()
        loss = loss + component.kl_coef * kl
        sums["kl"] = kl.detach()
    return component.weight * loss / tokens.normalizer, sums
