"""Held-out questions on the streams: issued, and collected once they are answered and scored.

For the evaluations of a run and for those of `vision-sr1 eval` alike.
"""

from collections.abc import Iterable, Set

from vision_sr1.config import Config
from vision_sr1.data import QuestionRow
from vision_sr1.pipeline.arrivals import GroupArrivals
from vision_sr1.pipeline.lost_prompts import LostPrompts
from vision_sr1.pipeline.prompt_issuer import PromptIssuer
from vision_sr1.streams import Keys, PromptImages, RetryingRedis, Stream
from vision_sr1.v1 import pipeline_pb2 as pb

STREAM = "evaluated"


class EvaluationPrompts:
    """Prompts that are answered once, greedily.

    Args:
        consumer: who collects the answers; one at a time in a run.
    """

    def __init__(self, config: Config, redis: RetryingRedis, images: PromptImages, consumer: str) -> None:
        keys = Keys(config.streams_name)
        self._images = images
        self._issuer = PromptIssuer(config, redis, images)
        self._arrivals = GroupArrivals(
            Stream(redis, keys, STREAM, config.streams, group=consumer, consumer=consumer, claims=False)
        )
        self._lost_prompts = LostPrompts(redis, keys)

    async def open(self) -> None:
        """Makes the consumer group."""
        await self._arrivals.open()

    async def issue(self, prompts: Iterable[tuple[str, QuestionRow]], policy_version: int) -> None:
        """Issues questions, by their prompts' ids."""
        await self._issuer.issue(prompts, pb.PURPOSE_EVALUATION, policy_version)

    async def collect(self, wanted: Set[str], count: int, wait_s: float) -> list[pb.ScoredGroup]:
        """Up to `count` answers to prompts that are wanted and there, or that come within `wait_s`; removes them."""
        groups: dict[str, pb.ScoredGroup] = {}
        for entry, group in await self._arrivals.next(count, wait_s):
            if entry.item not in wanted or entry.item in groups:
                await self._arrivals.discard_stray(entry)
                continue
            await self._arrivals.acknowledge([entry])
            groups[entry.item] = group
        await self._images.release(groups)
        return list(groups.values())

    async def lost(self, wanted: Iterable[str]) -> list[str]:
        """Prompts that the streams have lost: they are to be issued again."""
        return await self._lost_prompts.find(wanted, STREAM, 1)

    async def recover(self) -> None:
        """After an interruption: finds answers that arrived while replies were lost."""
        await self._arrivals.recover(())

    async def discard_all(self) -> None:
        """Removes all answers that have arrived: whoever asked for them is gone."""
        await self._arrivals.acknowledge_all()
