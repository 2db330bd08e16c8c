"""How many tokens a prompt has, before anybody generates."""

import io
from typing import Any

from PIL import Image

from vision_sr1.chat import render_user_turn
from vision_sr1.config import Config, ModelConfig
from vision_sr1.data.errors import DataError
from vision_sr1.data.questions import QuestionRow
from vision_sr1.prompts import PromptTemplate


class PromptLengths:
    """Counts the tokens of prompts exactly as actors will have them, without decoding an image.

    Args:
        config: names the model, its `min_pixels` and `max_pixels`, the prompt's template, and the most tokens.
    """

    def __init__(self, config: Config) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(config.model.path)
        self._processor = AutoImageProcessor.from_pretrained(config.model.path)
        self._template = PromptTemplate(config.data.prompt_template)
        self._model = config.model
        self._longest = min(config.sampling.max_prompt_tokens, config.model.max_model_len - 1)

    def tokens(self, row: QuestionRow) -> int:
        """Tokens of a row's prompt: chat template, text, and all its images' placeholders."""
        text = render_user_turn(self._tokenizer, self._template.answer(row.question), len(row.images))
        return len(self._tokenizer(text).input_ids) + sum(self.image_tokens(image) - 1 for image in row.images)

    def image_tokens(self, encoded: bytes) -> int:
        """Tokens of an image, scaled to between `model.min_pixels` and `model.max_pixels`."""
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
        return image_tokens(self._processor, self._model, width, height)

    def check(self, row: QuestionRow) -> None:
        """Refuses a row whose prompt is too long to be answered.

        Raises:
            DataError: with the numbers and the settings that bound them.
        """
        tokens = self.tokens(row)
        if tokens > self._longest:
            raise DataError(
                f"its prompt has {tokens} tokens, {sum(map(self.image_tokens, row.images))} of them for images; "
                f"{self._longest} are allowed (sampling.max_prompt_tokens, model.max_model_len); images take fewer "
                "with a lower model.max_pixels",
                "length",
            )


def image_tokens(processor: Any, model: ModelConfig, width: int, height: int) -> int:
    """Tokens of an image of so many pixels.

    Args:
        processor: the model's image processor.
    """
    bounds = {"min_pixels": model.min_pixels, "max_pixels": model.max_pixels}
    patches: int = processor.get_number_of_image_patches(height, width, bounds)
    return patches // processor.merge_size**2
