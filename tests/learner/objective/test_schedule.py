"""Learning rates of the steps of a run equal those that transformers' scheduler has there."""

import pytest
import torch
from transformers import get_scheduler

from learner.objective.schedule import LearningRate
from vision_sr1.config import ConfigError, LearnerConfig, load_config

SIZES = ["learner.batches=5", "learner.prompts_per_batch=8", "learner.prompts_per_step=4", "learner.learning_rate=2e-6"]


def settings(*overrides: str) -> LearnerConfig:
    return load_config(None, [*SIZES, *overrides], environment={}).config.learner


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_every_step_has_the_rate_of_transformers(name: str, warmup: int):
    rates = LearningRate(settings(f"learner.schedule.name={name}", f"learner.schedule.warmup_steps={warmup}"))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2e-6)
    known_as = "constant_with_warmup" if name == "constant" else name
    scheduler = get_scheduler(known_as, optimizer, num_warmup_steps=warmup, num_training_steps=10)
    for number in range(10):
        assert rates.at(*divmod(number, 2)) == scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
    assert rates.at(0, 0) == (0.0 if warmup else 2e-6)
    assert name == "constant" or rates.at(4, 1) < 1e-6


def test_by_default_it_is_constant():
    assert {LearningRate(settings()).at(batch, step) for batch in range(5) for step in range(2)} == {2e-6}


def test_a_warm_up_that_does_not_end_is_refused():
    with pytest.raises(
        ConfigError, match=r"warmup_steps: 11 exceeds the run's 10 optimizer steps: 5 batches \(learner.batches\) of 2"
    ):
        settings("learner.schedule.warmup_steps=11")
