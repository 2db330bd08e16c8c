"""An optimizer step of a DeepSpeed engine, which is skipped on all ranks where a loss or gradient is not finite."""

import math
from typing import Any

import torch
from jaxtyping import Float
from prometheus_client import Counter
from torch import Tensor

SKIPPED_STEPS = Counter(
    "vision_sr1_learner_skipped_steps", "Optimizer steps skipped because of a loss or gradient that is not finite."
)


def nan_unless_finite(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The loss, with a gradient of NaN where it is not finite, so that the optimizer step sees it on every rank."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)


class OptimizerStep:
    """Takes the engine's optimizer steps.

    ZeRO's optimizers and that of bfloat16 compute the gradient's norm over all ranks, and skip where it is not finite.
    In stage 0 and float32, where all ranks have the whole gradient, DeepSpeed does not: this does it in its place.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._has_own_check = bool(engine.zero_optimization() or engine.bfloat16_enabled())
        self._norm = 0.0
        if not self._has_own_check:
            engine.clip_fp32_gradients = self._clip

    def __call__(self) -> float | None:
        """The norm of the gradient before clipping, over all ranks; None where the step was skipped.

        A skipped step changes neither weights nor the optimizer's state.
        """
        self._engine.step()
        norm, is_taken = self._norm, math.isfinite(self._norm)
        if self._has_own_check:
            norm, is_taken = float(self._engine.get_global_grad_norm()), self._engine.was_step_applied()
        if not is_taken:
            SKIPPED_STEPS.inc()
        return norm if is_taken else None

    def _clip(self) -> None:
        parameters = [parameter for parameter in self._engine.module.parameters() if parameter.grad is not None]
        self._norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._engine.gradient_clipping()))
        if not math.isfinite(self._norm):
            for parameter in parameters:
                parameter.grad = None  # which optimizers pass over
