"""The objective: any number of components, each a reward with its own tokens, advantage, clipping and KL.

Pure functions. Notation of the paper's equations 4 to 9: the loss of component k on the tokens t of its mask m_k is

    L_k = sum_t m_k (beta_k KL(pi || ref) - w_t min(rho A_k, clip(rho, 1 - eps_low, 1 + eps_high) A_k)) / N_k

with rho = pi / pi_old, N_k the number of its tokens over all ranks and micro-batches of the optimizer step, and
L = sum_k lambda_k L_k. Dual clipping (arXiv 1912.09729) bounds the surrogate of a token with A_k < 0 from below: c A_k.
The weights w_t are 1 on-policy; off-policy they are `importance_weights` (decoupled PPO, arXiv 2110.00641). Advantages
A_k are those of `vision_sr1.credit.advantages`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vision_sr1.config import ComponentConfig, KlEstimator


@dataclass(frozen=True)
class PackTokens:
    """The selected tokens of one pack, as every policy but the trained one sees them.

    Attributes:
        sequences: which sequence of the pack each token belongs to, from 0.
        old_logprobs: under the policy that ratios are clipped against.
        ref_logprobs: under the reference policy; None where no component has a KL term.
        weights: w_t.
    """

    sequences: Int[Tensor, " selected"]
    old_logprobs: Float[Tensor, " selected"]
    ref_logprobs: Float[Tensor, " selected"] | None
    weights: Float[Tensor, " selected"]


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


def importance_weights(
    proximal_logprobs: Float[Tensor, " tokens"], behaviour_logprobs: Float[Tensor, " tokens"], limit: float
) -> tuple[Float[Tensor, " tokens"], Bool[Tensor, " tokens"]]:
    """Truncated importance sampling: pi_proximal / pi_behaviour of each token, at most `limit`; and which were cut."""
    weights = (proximal_logprobs - behaviour_logprobs).exp()
    return weights.clamp(max=limit), weights > limit


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
    component: ComponentConfig, tokens: ComponentTokens, logprobs: Float[Tensor, " selected"], pack: PackTokens
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """One component's share of the loss, lambda included, and sums over its tokens for metrics.

    Returns:
        The loss, connected to `logprobs` even where the mask is empty, and detached sums `clipped`, `kl` and `tokens`.
    """
    zero = logprobs.new_zeros(())
    log_ratio = torch.where(tokens.mask, logprobs - pack.old_logprobs, zero)
    if component.ratio == "sequence":
        log_ratio = _sequence_means(log_ratio, tokens.mask, pack.sequences)
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1.0 - component.clip_ratio_low, 1.0 + component.clip_ratio_high)
    unclipped = ratio * tokens.advantages
    surrogate = torch.minimum(unclipped, clipped_ratio * tokens.advantages)
    if component.clip_ratio_dual is not None:
        surrogate = torch.where(
            tokens.advantages < 0, torch.maximum(surrogate, component.clip_ratio_dual * tokens.advantages), surrogate
        )
    loss = -torch.where(tokens.mask, pack.weights * surrogate, zero).sum()
    sums = {
        "clipped": (tokens.mask & (surrogate != unclipped)).sum().float(),
        "tokens": tokens.mask.sum().float(),
        "kl": zero,
    }
    if pack.ref_logprobs is not None and component.kl_coef > 0:
        kl = torch.where(tokens.mask, kl_estimate(component.kl_estimator, logprobs, pack.ref_logprobs), zero).sum()
        loss = loss + component.kl_coef * kl
        sums["kl"] = kl.detach()
    return component.weight * loss / tokens.normalizer, sums


def _sequence_means(
    log_ratio: Float[Tensor, " selected"], mask: Bool[Tensor, " selected"], sequences: Int[Tensor, " selected"]
) -> Float[Tensor, " selected"]:
    """GSPO (arXiv 2507.18071): every token of a sequence gets the mean log-ratio of the sequence's masked tokens.

    Log-ratios outside the mask must be 0.
    """
    count = int(sequences.max()) + 1 if len(sequences) else 0
    total = log_ratio.new_zeros(count).index_add(0, sequences, log_ratio)
    size = log_ratio.new_zeros(count).index_add(0, sequences, mask.to(log_ratio.dtype))
    return (total / size.clamp(min=1.0))[sequences]
