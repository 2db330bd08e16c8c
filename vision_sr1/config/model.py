"""The section `model`."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from vision_sr1.config.section import Positive, Section
from vision_sr1.prompting.chat import Chat

# Arguments of tokenizers that are no variables of a template; a run sets them itself.
_ARGUMENTS = {
    *("conversation", "chat_template", "add_generation_prompt", "continue_final_message"),
    *("tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs"),
}


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

    @field_validator("chat_template_kwargs")
    @classmethod
    def _are_variables(cls, variables: dict[str, Any]) -> dict[str, Any]:
        for name in variables:
            if name in _ARGUMENTS:
                raise ValueError(f"{name} is an argument of tokenizers and no variable of a template: leave it out")
        return variables

    def chat(self, tokenizer: Any) -> Chat:
        """The model's chat template as this run uses it; some models keep it with their processor."""
        return Chat(
            tokenizer,
            system_prompt=self.system_prompt,
            variables=self.chat_template_kwargs,
            template=tokenizer.chat_template or _template_of_processor(self.path),
        )


def _template_of_processor(path: str) -> str | None:
    from transformers.utils import cached_file

    file = cached_file(path, "chat_template.json", _raise_exceptions_for_missing_entries=False)
    template = json.loads(Path(file).read_text(encoding="utf-8")).get("chat_template") if file else None
    return template if isinstance(template, str) else None
