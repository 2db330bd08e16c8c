"""The section `model`."""

from typing import Any, Literal

from pydantic import Field

from vision_sr1.config.section import Positive, Section
from vision_sr1.prompting.chat import Chat


class ModelConfig(Section):
    """The policy."""

    path: str = Field(
        "Qwen/Qwen2.5-VL-3B-Instruct",
        description="Folder or hub name of the initial weights, in Hugging Face format.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="Data type of the weights in the actors and in the learner's forward pass."
    )
    system_prompt: str = Field(
        "", description="System turn before every prompt; empty: the chat template's own, if any."
    )
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        {"enable_thinking": False},
        description="Variables of the chat template. With enable_thinking some templates begin a reply with <think>, "
        "where this method asks for a description.",
    )
    max_model_len: Positive = Field(14848, description="Maximum length of a sequence, prompt and response, in tokens.")
    min_pixels: Positive = Field(
        262_144, description="Smaller images are enlarged to this many pixels; no effect on models with tiles."
    )
    max_pixels: Positive = Field(4_194_304, description="Larger images are reduced to this many pixels.")

    def chat(self, tokenizer: Any) -> Chat:
        """The model's chat template as this run uses it."""
        return Chat(tokenizer, system_prompt=self.system_prompt, variables=self.chat_template_kwargs)
