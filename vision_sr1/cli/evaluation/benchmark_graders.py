"""By which grader of the reward service the answers to a benchmark are compared."""

from collections.abc import Iterable
from typing import get_args

from vision_sr1.cli.evaluation.benchmarks import BENCHMARKS, Item
from vision_sr1.config import ConfigError, EvaluationConfig, GraderName, RewardConfig


def data_source(name: str, item: Item, config: EvaluationConfig) -> str:
    """What the reward service chooses an item's grader by: one of `with_graders`, or a source of the user's own."""
    if item.grader is None:
        return item.tags.get("source", name)
    return f"{name}/{'judge' if config.judge_open_answers and item.grader != 'choice' else item.grader}"


def with_graders(config: RewardConfig, evaluation: EvaluationConfig) -> RewardConfig:
    """The configuration with graders for all that is asked; those that the user names stay.

    Raises:
        ConfigError: a judge is needed, and none is configured.
    """
    names: Iterable[str] = evaluation.benchmarks
    if config.judge.url is None:
        needy = [name for name in names if name in BENCHMARKS and BENCHMARKS[name].open_grader == "judge"]
        if needy or evaluation.judge_open_answers:
            raise ConfigError(
                f"{', '.join(needy) or 'evaluation.judge_open_answers'} needs a judge: set reward.judge.url to an "
                "OpenAI-compatible endpoint, reward.judge.model to the model's name there, and "
                "VISION_SR1_JUDGE_API_KEY where it asks for a key"
            )
    graders: list[GraderName] = [g for g in get_args(GraderName) if g != "judge" or config.judge.url is not None]
    ours = {f"{name}/{grader}": grader for name in names for grader in graders}
    return config.model_copy(update={"graders": ours | config.graders})
