"""The learning rate of every optimizer step of an RL run."""

from typing import Any

import torch
from transformers import get_scheduler

from vision_sr1.config import LearnerConfig


class LearningRate:
    """A function of the step alone, so that a run which is resumed goes on with the same values."""

    def __init__(self, settings: LearnerConfig) -> None:
        self._peak = settings.learning_rate
        self._steps_per_batch = settings.steps_per_batch
        name = settings.schedule.name
        scheduler: Any = get_scheduler(
            "constant_with_warmup" if name == "constant" else name,
            torch.optim.SGD([torch.zeros(1)]),  # the scheduler's factors are all that is used
            num_warmup_steps=settings.schedule.warmup_steps,
            num_training_steps=settings.batches * settings.steps_per_batch,
        )
        (self._factor,) = scheduler.lr_lambdas

    def at(self, batch: int, step: int) -> float:
        """Of a batch's step, both counted from 0, skipped steps included: as transformers' Trainer has it there."""
        return self._peak * float(self._factor(batch * self._steps_per_batch + step))
