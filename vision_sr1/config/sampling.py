"""The section `sampling`."""

from typing import Annotated

from pydantic import Field

from vision_sr1.config.section import Positive, Section


class SamplingConfig(Section):
    """How answers are sampled while training; evaluation is greedy."""

    group_size: Annotated[int, Field(ge=2)] = Field(8, description="Responses per prompt (G in GRPO).")
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="Softmax temperature.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        0.99, description="Nucleus sampling: probability mass that is sampled from."
    )
    max_prompt_tokens: Positive = Field(12_800, description="Longer prompts, image tokens included, are rejected.")
    max_tokens: Positive = Field(2048, description="Maximum number of response tokens.")
    deterministic_sampling: bool = Field(
        True,
        description="Seed every sample from run.seed and its prompt id, so that runs are reproducible. Off: slightly "
        "faster, not reproducible.",
    )
