"""The reward service's main path: take rollouts, score them, emit a group when its last member is scored."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import structlog

from reward_service import metrics
from reward_service.graders import Grader
from reward_service.judge import Judge, JudgeFailedError
from reward_service.requery import Requerier, RequeryFailedError
from reward_service.rewards import answer_reward, response_rewards
from vision_sr1.config import Config, RewardConfig
from vision_sr1.groups import empty_group, group_stream, is_evaluation, without_group
from vision_sr1.parsing import ParsedResponse, Span, TokenBytes, parse_response, token_span
from vision_sr1.streams import Consumer, Entry, Output, Stream
from vision_sr1.tracing import span
from vision_sr1.v1 import pipeline_pb2 as pb
from vision_sr1.wire import SCHEMA_VERSION, WireError, decode

log = structlog.get_logger()

GRADING_TIMEOUT_S = 30.0

OnScored = Callable[[pb.ScoredRollout], None]


class Scorer:
    """Scores one rollout: pure but for the re-query and the judge."""

    def __init__(
        self, config: RewardConfig, tokenizer: Any, grader: Grader, requerier: Requerier, judge: Judge | None
    ) -> None:
        self._config = config
        self._tokens = TokenBytes(tokenizer)
        self._grader = grader
        self._requerier = requerier
        self._judge = judge

    async def score(self, rollout: pb.Rollout) -> pb.ScoredRollout:
        """The rollout with its rewards, the spans of its parts, its re-query and its judgement."""
        pieces = self._tokens.pieces(list(rollout.sample.response_token_ids))
        parsed = parse_response(b"".join(pieces))
        scored = pb.ScoredRollout(rollout=rollout, response=b"".join(pieces).decode("utf-8", errors="replace"))
        _set_spans(scored, pieces, parsed)
        scored.rewards.update(dict.fromkeys(self._config.names, 0.0))
        async with asyncio.timeout(GRADING_TIMEOUT_S):
            rewards = await asyncio.to_thread(response_rewards, parsed, rollout, self._grader, self._config)
        scored.rewards.update(rewards)
        if parsed.description:
            await asyncio.gather(self._ask(scored, parsed.description), self._judged(scored, parsed.description))
        for name, value in scored.rewards.items():
            if not math.isfinite(value):
                raise UnusableRolloutError(f"rollout {rollout.id}: the reward {name!r} is {value}")
            metrics.REWARDS.labels(name).observe(value)
        return scored

    async def _ask(self, scored: pb.ScoredRollout, description: str) -> None:
        """The policy's own answer from the description."""
        try:
            requery = await self._requerier.ask(scored.rollout, description)
        except RequeryFailedError as error:
            log.error("visual reward given up", rollout=scored.rollout.id, error=str(error))
            return
        response = b"".join(self._tokens.pieces(list(requery.sample.response_token_ids)))
        parsed = parse_response(response)
        requery.response = response.decode("utf-8", errors="replace")
        requery.answer = parsed.answer or ""
        scored.requery.CopyFrom(requery)
        scored.rewards["visual"] = await self._grade(parsed.answer, scored)
        scored.rewards["requery_format"] = float(parsed.format == "think_answer")

    async def _judged(self, scored: pb.ScoredRollout, description: str) -> None:
        """The judge's answer from the description."""
        if self._judge is None:
            return
        turn = self._requerier.prompt(description, scored.rollout.prompt.question)
        try:
            response = await self._judge.answer(turn)
        except JudgeFailedError as error:
            log.error("judge's reward given up", rollout=scored.rollout.id, error=str(error))
            return
        answer = parse_response(response.encode()).answer
        scored.judgement.CopyFrom(pb.Judgement(model=self._judge.model, response=response, answer=answer or ""))
        scored.rewards["judge"] = await self._grade(answer, scored)

    async def _grade(self, answer: str | None, scored: pb.ScoredRollout) -> float:
        async with asyncio.timeout(GRADING_TIMEOUT_S):
            return await asyncio.to_thread(answer_reward, answer, scored.rollout.prompt.answer, self._grader)


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
    for place, value in enumerate(sample.logprobs):
        if not math.isfinite(value):
            raise UnusableRolloutError(
                f"rollout {rollout.id} of actor {rollout.actor_id}: the log-probability of token {place} is {value}"
            )
    if not sample.versions:
        raise UnusableRolloutError(f"rollout {rollout.id} of actor {rollout.actor_id} names no policy version")


class ScoringWorker:
    """Consumes the rollout stream."""

    def __init__(self, config: Config, rollouts: Stream, scorer: Scorer, on_scored: OnScored) -> None:
        self._config = config
        self._rollouts = rollouts
        self._scorer = scorer
        self._on_scored = on_scored
        self.consumer = Consumer(
            rollouts,
            config.streams,
            self._score,
            permanent=(WireError, UnusableRolloutError),
            without=self._go_on_without,
            capacity=config.reward.rollouts_in_flight,
            drain_s=config.reward.drain_s,
        )

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
        self._on_scored(scored)
        metrics.SCORE_SECONDS.observe(time.monotonic() - started)

    async def _assemble(self, entry: Entry, member: pb.ScoredGroup, index: int, group_size: int) -> None:
        output = Output(group_stream(member.id), member.id, member.SerializeToString())
        if await self._rollouts.assemble(entry, output, index, group_size):
            metrics.GROUPS.inc()

    async def _go_on_without(self, entry: Entry) -> None:
        """Completes the group of a rollout that was set aside without it, or gives the group up."""
        prompt_id, _, index = entry.item.rpartition("/")
        if self._config.streams.spent_groups == "complete" and index.isdecimal():
            group_size = 1 if is_evaluation(prompt_id) else self._config.sampling.group_size
            await self._assemble(entry, empty_group(prompt_id), int(index), group_size)
        else:
            await self._rollouts.hand_over(entry, [without_group(prompt_id)])


def _set_spans(scored: pb.ScoredRollout, pieces: list[bytes], parsed: ParsedResponse) -> None:
    def span(of: Span) -> pb.TokenSpan:
        start, end = token_span(pieces, of)
        return pb.TokenSpan(start=start, end=end)

    if parsed.description_span:
        scored.description.CopyFrom(span(parsed.description_span))
    if parsed.think_span:
        scored.think.CopyFrom(span(parsed.think_span))
    if parsed.answer_span:
        scored.answer.CopyFrom(span(parsed.answer_span))
