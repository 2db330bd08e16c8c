"""From a user's turn and images to what vLLM's process is sent."""

from typing import Any

from vllm.exceptions import VLLMClientError
from vllm.multimodal.cache.lru import LruKeyReplicatedSenderCache
from vllm.renderers import BaseRenderer

from vision_sr1.config import Config
from vision_sr1.prompting.chat import ImageMarkerError
from vision_sr1.prompting.images import UnusableImageError, plain_image


class BadRequestError(ValueError):
    """A prompt cannot be answered however often it is tried: its image or its length is at fault."""


class PromptRenderer:
    """The chat template, images, and vLLM's renderer, which computes features in a thread of its own.

    Attributes:
        stop_token_ids: they end a response, besides those that vLLM takes from the model's own settings.
    """

    def __init__(self, config: Config, renderer: BaseRenderer[Any]) -> None:
        self._config = config
        self._renderer = renderer
        self._chat = config.model.chat(renderer.get_tokenizer())
        self.stop_token_ids = self._chat.stop_token_ids

    def prompt(self, text: str, images: list[bytes]) -> dict[str, Any]:
        """vLLM's prompt: the user's turn in the chat template, and the images decoded. Takes a while.

        Raises:
            BadRequestError: a broken image, or markers that do not match the images.
        """
        try:
            token_ids = self._chat.token_ids(self._chat.user_turn(text, len(images)))
            prompt: dict[str, Any] = {"prompt_token_ids": token_ids}
            if images:
                prompt["multi_modal_data"] = {"image": [plain_image(data) for data in images]}
        except (ImageMarkerError, UnusableImageError) as error:
            raise BadRequestError(str(error)) from error
        return prompt

    async def render(self, prompt: dict[str, Any]) -> Any:
        """Token ids and features, for one attempt: vLLM leaves out images that its process should have in its cache.

        Raises:
            BadRequestError: vLLM refuses the prompt.
        """
        try:
            (engine_input,) = await self._renderer.render_cmpl_async([prompt])
        except (ValueError, VLLMClientError) as error:
            raise BadRequestError(str(error)) from error
        return engine_input

    def repeated(self, rendered: Any) -> Any:
        """The same, to send after `rendered`: hashes alone of images that vLLM's process then has in its cache."""
        cache = self._renderer.mm_processor_cache
        if rendered["type"] != "multimodal" or not isinstance(cache, LruKeyReplicatedSenderCache):
            return rendered
        features = {
            modality: [
                None if cache.is_cached_item(digest) else item
                for item, digest in zip(items, rendered["mm_hashes"][modality], strict=True)
            ]
            for modality, items in rendered["mm_kwargs"].items()
        }
        return {**rendered, "mm_kwargs": features}

    def room(self, tokens: int) -> int:
        """How many tokens an answer to a prompt of so many may have.

        Raises:
            BadRequestError: the prompt is too long.
        """
        model_len, longest = self._config.model.max_model_len, self._config.sampling.max_prompt_tokens
        if tokens >= model_len:
            raise BadRequestError(f"the prompt has {tokens} tokens, model.max_model_len is {model_len}")
        if tokens > longest:
            raise BadRequestError(f"the prompt has {tokens} tokens, sampling.max_prompt_tokens is {longest}")
        return model_len - tokens
