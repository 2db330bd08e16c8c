"""What a batch's optimizer steps did, as scalars: sums over tokens that all ranks add up at the end."""

from collections import defaultdict

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from learner.objective.loss import kl_estimate
from learner.objective.samples import Part, TrainingSample
from vision_sr1.config import LearnerConfig

_RATIO_RANGE, _RATIO_BINS = 2.0, 4001  # of log-ratios: quantiles are exact to a thousandth
_QUANTILES = {"p01": 0.01, "p50": 0.5, "p99": 0.99}


class BatchStatistics:
    """Collects on every rank; `scalars` adds the ranks up."""

    def __init__(self, settings: LearnerConfig, device: torch.device) -> None:
        self._settings = settings
        self._sums: dict[str, Shaped[Tensor, ""]] = defaultdict(lambda: torch.zeros((), device=device))
        self._log_ratios = torch.zeros(_RATIO_BINS, dtype=torch.float64, device=device)

    def component(self, name: str, loss: Float[Tensor, ""], sums: dict[str, Float[Tensor, ""]]) -> None:
        """One component's loss in one micro-batch, and its sums over tokens."""
        self._sums[f"loss/{name}"] += loss.detach()
        for key, value in sums.items():
            self._sums[f"{key}/{name}"] += value

    def mismatch(
        self,
        trainer: Float[Tensor, " tokens"],
        behaviour: Float[Tensor, " tokens"],
        staleness: Int[Tensor, " tokens"],
    ) -> None:
        """Log-probabilities by the policy before the batch, and by the engine that sampled.

        Only tokens of the same policy version tell how trainer and engine differ; on others both effects add up.
        """
        kl = kl_estimate("k3", trainer, behaviour)
        fresh = staleness == 0
        for key, tokens in (("fresh", fresh), ("stale", ~fresh)):
            self._sums[f"mismatch/{key}"] += kl[tokens].sum()
            self._sums[f"mismatch_tokens/{key}"] += tokens.sum()

    def dependency(self, values: Float[Tensor, " tokens"], parts: dict[Part, Bool[Tensor, " tokens"]]) -> None:
        """Visual dependency of a micro-batch's tokens, those of answers to prompts with images; and their parts."""
        whole = torch.ones_like(values, dtype=torch.bool)
        for part, tokens in (("response", whole), *parts.items()):
            self._sums[f"dependency/{part}"] += values[tokens].sum()
            self._sums[f"dependency_tokens/{part}"] += tokens.sum()

    def bonus(self, loss: Float[Tensor, ""], capped: Int[Tensor, ""], trained: Bool[Tensor, " tokens"]) -> None:
        """The dependency bonus of one micro-batch, and how many of the tokens that it trains are beyond its cap."""
        self._sums["bonus"] += loss.detach()
        self._sums["capped"] += capped
        self._sums["bonus_tokens"] += trained.sum()

    def ratios(self, log_ratios: Float[Tensor, " tokens"]) -> None:
        """Of the policy to the one that ratios are clipped against, on tokens that are trained."""
        inside = log_ratios.detach().clamp(-_RATIO_RANGE, _RATIO_RANGE)
        self._log_ratios += torch.histc(inside, bins=_RATIO_BINS, min=-_RATIO_RANGE, max=_RATIO_RANGE)

    def corrected(self, truncated: Bool[Tensor, " tokens"], masked: Bool[Tensor, " tokens"]) -> None:
        """Whether the correction truncated or masked the response tokens of a micro-batch."""
        self._sums["truncated"] += truncated.sum()
        self._sums["masked"] += masked.sum()
        self._sums["tokens"] += len(truncated)

    def scalars(self, steps: int) -> dict[str, float]:
        """Means over the tokens of all ranks, by `family/member`. A collective."""
        names = sorted(self._sums)
        every = torch.cat([torch.stack([self._sums[name].double() for name in names]), self._log_ratios])
        dist.all_reduce(every)
        total = defaultdict(float, zip(names, every[: len(names)].tolist(), strict=True))
        tokens = max(1.0, total["tokens"])
        result = {
            **{
                scalar: total[f"mismatch/{age}"] / total[f"mismatch_tokens/{age}"]
                for age, scalar in (("fresh", "mismatch_kl/engine_trainer"), ("stale", "off_policy/stale_kl"))
                if total[f"mismatch_tokens/{age}"]  # without such tokens nothing is known
            },
            "off_policy/truncated": total["truncated"] / tokens,
            "off_policy/masked": total["masked"] / tokens,
            **_quantiles(every[len(names) :]),
            **{
                name: value / total[name.replace("dependency", "dependency_tokens")]
                for name, value in total.items()
                if name.startswith("dependency/") and total[name.replace("dependency", "dependency_tokens")]
            },
        }
        if "bonus" in names:
            result["dependency/loss"] = total["bonus"] / steps
            result["dependency/capped"] = total["capped"] / max(1.0, total["bonus_tokens"])
        for component in self._settings.components:
            trained = max(1.0, total[f"tokens/{component.name}"])
            result[f"tokens/{component.name}"] = total[f"tokens/{component.name}"]
            for scalar in ("kl", "approx_kl", "entropy"):
                result[f"{scalar}/{component.name}"] = total[f"{scalar}/{component.name}"] / trained
            result[f"clip_fraction/{component.name}"] = total[f"clipped/{component.name}"] / trained
            result[f"loss/{component.name}"] = total[f"loss/{component.name}"] / steps
        return result


def staleness_shares(samples: list[TrainingSample], bound: int) -> dict[str, float]:
    """Mean staleness of the response tokens, and the share of them that has each up to the bound, or is beyond it."""
    ages = np.concatenate([sample.staleness for sample in samples])
    if not len(ages):
        return {}
    shares = {str(age): ages == age for age in range(bound + 1)} | {"beyond": ages > bound}
    return {"staleness/mean": float(ages.mean())} | {
        f"token_staleness/{name}": float(tokens.mean()) for name, tokens in shares.items()
    }


def advantage_spread(samples: list[TrainingSample], components: list[str]) -> dict[str, float]:
    """Deviation, least and greatest of each component's advantages, over the sequences of which it trains tokens."""
    found = {}
    for name in components:
        advantages = [sample.advantages[name] for sample in samples if sample.masks[name].any()]
        if advantages:
            found[f"advantage_std/{name}"] = float(np.std(advantages))
            found[f"advantage_min/{name}"] = min(advantages)
            found[f"advantage_max/{name}"] = max(advantages)
    return found


def _quantiles(histogram: Float[Tensor, " bins"]) -> dict[str, float]:
    cumulative = histogram.cumsum(0)
    if not cumulative[-1]:
        return {}
    centres = torch.linspace(-_RATIO_RANGE, _RATIO_RANGE, _RATIO_BINS + 1)
    centres = (centres[1:] + centres[:-1]) / 2
    return {
        f"ratio/{name}": float(centres[int((cumulative < share * cumulative[-1]).sum())].exp())
        for name, share in _QUANTILES.items()
    }
