"""The objective: any number of components, each a reward with its own tokens, advantage, clipping and KL.

Pure functions. Notation of the paper's equations 4 to 9: the loss of component k on the tokens t of its mask m_k is

    L_k = sum_t m_k (beta_k KL(pi || ref) - eta_k H(pi) - w_t s_t) / N_k
    s_t = min(rho A_k, clip(rho, 1 - eps_low, 1 + eps_high) A_k)

with rho = pi / pi_old, H the entropy of the distribution that the token was drawn from, N_k the number of its tokens
over all ranks and micro-batches of the optimizer step, and L = sum_k lambda_k L_k. Dual clipping (arXiv 1912.09729)
bounds the surrogate of a token with A_k < 0 from below: c A_k. The weights w_t are 1 on-policy; off-policy they are
`importance_weights` (decoupled PPO, arXiv 2110.00641). Advantages A_k are those of `vision_sr1.credit.advantages`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vision_sr1.config import ComponentConfig, KlEstimator, OffPolicyConfig


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


@dataclass(frozen=True)
class ImportanceWeights:
    """What makes up for another policy having sampled.

    Attributes:
        weights: w_t.
        is_truncated: tokens whose weight was lowered to the upper bound.
        is_masked: tokens whose weight is 0 because it was out of bounds.
    """

    weights: Float[Tensor, " tokens"]
    is_truncated: Bool[Tensor, " tokens"]
    is_masked: Bool[Tensor, " tokens"]


def importance_weights(
    settings: OffPolicyConfig,
    proximal_logprobs: Float[Tensor, " tokens"],
    behaviour_logprobs: Float[Tensor, " tokens"],
    sequences: Int[Tensor, " tokens"],
) -> ImportanceWeights:
    """Bounded importance weights, from rho_t = pi_proximal / pi_behaviour of each token.

    `truncated`: min(rho_t, C), with C = `max_importance_weight` (TIS, fengyao.notion.site/off-policy-rl).
    `masked_token`: rho_t, or 0 where it exceeds C. `masked_sequence`: the product of rho over all tokens of the
    sequence, for each of them, or 0 where it exceeds C (both: MIS of "When Speed Kills Stability",
    richardli.xyz/rl-collapse; TRL's `token_mask` and `sequence_mask`). `icepop`: rho_t, or 0 outside
    [`icepop_low`, `icepop_high`] (IcePop, "Every Step Evolves", arXiv 2510.18855).

    Args:
        sequences: which sequence each token belongs to, from 0.
    """
    log_ratios = proximal_logprobs - behaviour_logprobs
    if settings.correction == "masked_sequence":
        log_ratios = _sequence_sums(log_ratios, sequences)[sequences]
    weights = log_ratios.exp()
    low, high = 0.0, settings.max_importance_weight
    if settings.correction == "icepop":
        low, high = settings.icepop_low, settings.icepop_high
    none = torch.zeros_like(weights, dtype=torch.bool)
    if settings.correction == "truncated":
        return ImportanceWeights(weights.clamp(max=high), weights > high, none)
    is_masked = (weights < low) | (weights > high)
    return ImportanceWeights(weights.masked_fill(is_masked, 0.0), none, is_masked)


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
    pack: PackTokens,
    entropies: Float[Tensor, " selected"] | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """One component's share of the loss, lambda included, and sums over its tokens for metrics.

    Args:
        entropies: of the policy at each token, in nats; with a graph where the component has an entropy bonus.

    Returns:
        The loss, connected to `logprobs` even where the mask is empty, and detached sums: `clipped`, `tokens`, `kl` (to
        the reference), `approx_kl` (KL(pi_old || pi) by k3, at most 10 a token) and `entropy`.

    Raises:
        ValueError: the component has an entropy bonus, and there are no entropies.
    """
    if component.entropy_coef and entropies is None:
        raise ValueError(f"component {component.name!r} has an entropy bonus, which needs entropies")
    zero = logprobs.new_zeros(())
    log_ratio = torch.where(tokens.mask, logprobs - pack.old_logprobs, zero)
    approx_kl = kl_estimate("low_var_kl", torch.zeros_like(log_ratio), log_ratio.detach()).sum()
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
        "approx_kl": approx_kl,
    }
    if pack.ref_logprobs is not None and component.kl_coef > 0:
        kl = torch.where(tokens.mask, kl_estimate(component.kl_estimator, logprobs, pack.ref_logprobs), zero).sum()
        loss = loss + component.kl_coef * kl
        sums["kl"] = kl.detach()
    if entropies is not None:
        entropy = torch.where(tokens.mask, entropies, zero).sum()
        sums["entropy"] = entropy.detach()
        if component.entropy_coef:
            loss = loss - component.entropy_coef * entropy
    return component.weight * loss / tokens.normalizer, sums


def _sequence_means(
    log_ratio: Float[Tensor, " selected"], mask: Bool[Tensor, " selected"], sequences: Int[Tensor, " selected"]
) -> Float[Tensor, " selected"]:
    """GSPO (arXiv 2507.18071): every token of a sequence gets the mean log-ratio of the sequence's masked tokens.

    Log-ratios outside the mask must be 0.
    """
    total, size = (_sequence_sums(values, sequences) for values in (log_ratio, mask.to(log_ratio.dtype)))
    return (total / size.clamp(min=1.0))[sequences]


def _sequence_sums(values: Float[Tensor, " tokens"], sequences: Int[Tensor, " tokens"]) -> Float[Tensor, " count"]:
    count = int(sequences.max()) + 1 if len(sequences) else 0
    return values.new_zeros(count).index_add(0, sequences, values)
