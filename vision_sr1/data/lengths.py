"""How many tokens a prompt has, before anybody generates."""

import io
from typing import Any

from PIL import Image

from vision_sr1.config import Config, ConfigError
from vision_sr1.data.conversations import ConversationRow
from vision_sr1.data.errors import DataError
from vision_sr1.data.questions import QuestionRow
from vision_sr1.families import family_of_model
from vision_sr1.prompting.chat import conversation_turns
from vision_sr1.prompting.prompt_template import PromptTemplate


class PromptLengths:
    """Counts tokens without decoding an image: of prompts exactly as actors will have them, of conversations as the
    chat template renders them.

    Args:
        config: names the model, its `min_pixels` and `max_pixels`, the prompt's template, and the most tokens.

        processor: the model's own, where it is loaded already.

    Raises:
        ConfigError: the model's tokenizer or image processor cannot be read.
    """

    def __init__(self, config: Config, processor: Any = None) -> None:
        if processor is None:
            from transformers import AutoProcessor

            try:
                processor = AutoProcessor.from_pretrained(config.model.path)
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"model.path {config.model.path!r}: no tokenizer or image processor: {error}"
                ) from error
        self._processor = processor
        self._chat = config.model.chat(processor.tokenizer)
        self._family = family_of_model(config.model.path)
        self._template = PromptTemplate(config.data.prompt_template)
        self._model = config.model
        self._longest_prompt = min(config.sampling.max_prompt_tokens, config.model.max_model_len - 1)
        self._longest = config.model.max_model_len

    def tokens(self, row: QuestionRow | ConversationRow) -> int:
        """Tokens of a prompt or conversation: chat template, text, and all its images' placeholders."""
        if isinstance(row, QuestionRow):
            text = self._chat.user_turn(self._template.answer(row.question, len(row.images)), len(row.images))
        else:
            turns = conversation_turns(row.messages, len(row.images), self._chat.control_tokens)
            text = self._chat.render(turns, generate=False).rstrip()
        return len(self._chat.token_ids(text)) + sum(self.image_tokens(image) - 1 for image in row.images)

    def image_tokens(self, encoded: bytes) -> int:
        """Tokens of an image, scaled to between `model.min_pixels` and `model.max_pixels`."""
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
        return self._family.image_tokens(self._processor, self._model, height=height, width=width)

    def check(self, row: QuestionRow | ConversationRow) -> int:
        """Refuses a prompt that is too long to be answered, a conversation too long to be learned from.

        Returns:
            its tokens.

        Raises:
            DataError: with the numbers and the settings that bound them.
        """
        tokens = self.tokens(row)
        if isinstance(row, QuestionRow):
            longest, bounds = self._longest_prompt, "sampling.max_prompt_tokens, model.max_model_len"
        else:
            longest, bounds = self._longest, "model.max_model_len"
        if tokens > longest:
            raise DataError(
                f"{tokens} tokens, {sum(map(self.image_tokens, row.images))} of them for images; {longest} are allowed "
                f"({bounds}); images take fewer with a lower model.max_pixels",
                "length",
            )
        return tokens
