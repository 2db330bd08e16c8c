"""The section `model`."""

from typing import Literal

from pydantic import Field

from vision_sr1.config.section import Positive, Section


class ModelConfig(Section):
    """The policy."""

    path: str = Field(
        "Qwen/Qwen2.5-VL-3B-Instruct",
        description="Folder or hub name of the initial weights, in Hugging Face format.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="Data type of the weights in the actors and in the learner's forward pass."
    )
    max_model_len: Positive = Field(14848, description="Maximum length of a sequence, prompt and response, in tokens.")
    min_pixels: Positive = Field(262_144, description="Smaller images are enlarged to this many pixels.")
    max_pixels: Positive = Field(4_194_304, description="Larger images are reduced to this many pixels.")
