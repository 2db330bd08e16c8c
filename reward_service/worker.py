"""The reward service's main path: take rollouts, score them, emit a group when its last member is scored."""

import asyncio
import math
import time
from collections.abc import Callable

from reward_service import metrics
from reward_service.scoring import Scorer
from vision_sr1.config import Config
from vision_sr1.pipeline.ids import is_evaluation
from vision_sr1.pipeline.scored_groups import ASSEMBLED, empty_group, group_stream, without_group
from vision_sr1.pipeline.wire import SCHEMA_VERSION, WireError, decode
from vision_sr1.runtime.tracing import span
from vision_sr1.streams import Consumer, Entry, Output, Stream
from vision_sr1.v1 import pipeline_pb2 as pb

OnScored = Callable[[pb.ScoredRollout], None]


class UnusableRolloutError(ValueError):
    """A rollout that must not be learned from: one of its numbers is not finite, or it contradicts itself."""


def check_usable(rollout: pb.Rollout) -> None:
    """Refuses what would poison a batch.

    Raises:
        UnusableRolloutError: with the value at fault.
    """
    sample = rollout.sample
    if len(sample.logprobs) != len(sample.response_token_ids):
        raise UnusableRolloutError(
            f"rollout {rollout.id} of actor {rollout.actor_id} has {len(sample.logprobs)} log-probabilities for "
            f"{len(sample.response_token_ids)} tokens"
        )
    if not math.isfinite(sum(sample.logprobs)):
        place, value = next((p, v) for p, v in enumerate(sample.logprobs) if not math.isfinite(v))
        raise UnusableRolloutError(
            f"rollout {rollout.id} of actor {rollout.actor_id}: the log-probability of token {place} is {value}"
        )
    if not sample.versions:
        raise UnusableRolloutError(f"rollout {rollout.id} of actor {rollout.actor_id} names no policy version")


class ScoringWorker:
    """Consumes the stream of rollouts and, where some rewards are given per group, that of assembled groups."""

    def __init__(
        self, config: Config, rollouts: Stream, assembled: Stream, scorer: Scorer, on_scored: OnScored
    ) -> None:
        self._config = config
        self._rollouts = rollouts
        self._assembled = assembled
        self._scorer = scorer
        self._on_scored = on_scored
        reward = config.reward
        self._consumers = [
            Consumer(
                rollouts,
                config.streams,
                self._score,
                permanent=(WireError, UnusableRolloutError),
                without=self._go_on_without,
                capacity=reward.rollouts_in_flight,
                drain_s=reward.drain_s,
            )
        ]
        self._per_group = reward.has_group_functions
        if self._per_group:
            self._consumers.append(
                Consumer(
                    assembled,
                    config.streams,
                    self._score_group,
                    permanent=(WireError,),
                    without=self._give_up_group,
                    capacity=max(1, reward.rollouts_in_flight // config.sampling.group_size),
                    drain_s=reward.drain_s,
                )
            )

    async def run(self, stop: asyncio.Event) -> None:
        """Scores until `stop` is set.

        Raises:
            RedisError: the streams were out of reach for too long.
        """
        await self._rollouts.open()
        if self._per_group:
            await self._assembled.open()
        consuming = [asyncio.create_task(consumer.run(stop)) for consumer in self._consumers]
        try:
            await asyncio.gather(*consuming)
        finally:
            stop.set()
            await asyncio.gather(*consuming, return_exceptions=True)

    async def _score(self, entry: Entry) -> None:
        """One rollout: score it and put it into its group; whoever completes the group emits it."""
        started = time.monotonic()
        rollout = decode(pb.Rollout, entry.message)
        metrics.AGE_SECONDS.observe(max(0.0, time.time() - rollout.finished_at))
        prompt = rollout.prompt
        with span("score", prompt.traceparent, prompt=prompt.id, rollout=rollout.id):
            check_usable(rollout)
            scored = await self._scorer.score(rollout)
        member = pb.ScoredGroup(schema_version=SCHEMA_VERSION, id=prompt.id, purpose=prompt.purpose, rollouts=[scored])
        await self._assemble(entry, member, rollout.sample_index, prompt.group_size)
        if not self._per_group:
            self._on_scored(scored)
        metrics.SCORE_SECONDS.observe(time.monotonic() - started)

    async def _score_group(self, entry: Entry) -> None:
        """One group that lacks the rewards that are given per group."""
        group = decode(pb.ScoredGroup, entry.message)
        await self._scorer.score_group(group)
        await self._assembled.commit(entry, [Output(group_stream(group.id), group.id, group.SerializeToString())])
        for scored in group.rollouts:
            self._on_scored(scored)

    async def _assemble(self, entry: Entry, member: pb.ScoredGroup, index: int, group_size: int) -> None:
        stream = ASSEMBLED if self._per_group else group_stream(member.id)
        if await self._rollouts.assemble(
            entry, Output(stream, member.id, member.SerializeToString()), index, group_size
        ):
            metrics.GROUPS.inc()

    async def _go_on_without(self, entry: Entry) -> None:
        """Completes the group of a rollout that went to the dead letters without it, or gives the group up."""
        prompt_id, _, index = entry.item.rpartition("/")
        if self._config.streams.incomplete_groups == "complete" and index.isdecimal():
            group_size = 1 if is_evaluation(prompt_id) else self._config.sampling.group_size
            await self._assemble(entry, empty_group(prompt_id), int(index), group_size)
        else:
            await self._rollouts.commit(entry, [without_group(prompt_id)])

    async def _give_up_group(self, entry: Entry) -> None:
        await self._assembled.commit(entry, [without_group(entry.item)])
