"""The section `evaluation`."""

from pydantic import Field

from vision_sr1.config.section import Positive, Section


class EvaluationConfig(Section):
    """`vision-sr1 eval` (docs/evaluation.md)."""

    benchmarks: dict[str, list[str]] = Field(
        {}, description="Data set per benchmark, in place of the published one; other names are benchmarks of your own."
    )
    rows: int | None = Field(None, gt=0, description="Maximum number of rows per set, from its start; null: all.")
    prompts_in_flight: Positive = Field(
        512, description="Maximum number of questions that are issued and not answered yet."
    )
    judge_open_answers: bool = Field(
        False, description="Grade answers to questions without options with the model at reward.judge.url."
    )
    resamples: Positive = Field(1000, description="Number of bootstrap resamples for confidence intervals.")
