"""Issuing prompts: a row and its images become a message on the stream that the actors read."""

from collections.abc import Iterable

from vision_sr1.config import Config
from vision_sr1.data import QuestionRow
from vision_sr1.pipeline.prompt_message import prompt_message
from vision_sr1.streams import Keys, Output, PromptImages, RetryingRedis, Stream
from vision_sr1.v1 import pipeline_pb2 as pb


class PromptIssuer:
    """Issues prompts, each once: the stream refuses those that it holds or held."""

    def __init__(self, config: Config, redis: RetryingRedis, images: PromptImages) -> None:
        self._config = config
        self._images = images
        self._prompts = Stream(redis, Keys(config.streams_name), "prompts", config.streams)

    async def issue(
        self, prompts: Iterable[tuple[str, QuestionRow]], purpose: "pb.Purpose", policy_version: int
    ) -> None:
        """Issues prompts, by their ids, to be answered under `policy_version` or a later one."""
        outputs = []
        for prompt_id, row in prompts:
            images = await self._images.put(prompt_id, row.images)
            prompt = prompt_message(self._config, prompt_id, row, images, purpose, policy_version)
            outputs.append(Output("prompts", prompt_id, prompt.SerializeToString()))
        await self._prompts.append(outputs)
