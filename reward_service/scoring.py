"""The reward service's main path: take rollouts, score them, emit a group when its last member is scored."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from reward_service import metrics
from reward_service.graders import Grader
from reward_service.requery import Requerier, RequeryFailedError
from reward_service.rewards import answer_reward, response_rewards
from vision_sr1.config import Config
from vision_sr1.groups import group_stream, without_group
from vision_sr1.parsing import ParsedResponse, Span, TokenBytes, parse_response, token_span
from vision_sr1.streams import Consumer, Entry, Output, Stream
from vision_sr1.v1 import pipeline_pb2 as pb
from vision_sr1.wire import SCHEMA_VERSION, WireError, decode

log = structlog.get_logger()

OnScored = Callable[[pb.ScoredRollout], None]


class Scorer:
    """Scores one rollout: pure but for the re-query."""

    def __init__(self, tokenizer: Any, grader: Grader, requerier: Requerier) -> None:
        self._tokens = TokenBytes(tokenizer)
        self._grader = grader
        self._requerier = requerier

    async def score(self, rollout: pb.Rollout) -> pb.ScoredRollout:
        """The rollout with its rewards, the spans of its parts and its re-query."""
        pieces = self._tokens.pieces(list(rollout.sample.response_token_ids))
        parsed = parse_response(b"".join(pieces))
        reference = rollout.prompt.answer
        rewards = await asyncio.to_thread(response_rewards, parsed, reference, self._grader)
        scored = pb.ScoredRollout(
            rollout=rollout,
            response=b"".join(pieces).decode("utf-8", errors="replace"),
            rewards={"format": rewards.format, "accuracy": rewards.accuracy, "visual": 0.0},
        )
        _set_spans(scored, pieces, parsed)
        if parsed.description:
            try:
                requery = await self._requerier.ask(rollout, parsed.description)
            except RequeryFailedError as error:
                log.error("visual reward given up", rollout=rollout.id, error=str(error))
            else:
                await self._score_requery(scored, requery, reference)
        for name, value in scored.rewards.items():
            metrics.REWARDS.labels(name).observe(value)
        return scored

    async def _score_requery(self, scored: pb.ScoredRollout, requery: pb.Requery, reference: str) -> None:
        response = b"".join(self._tokens.pieces(list(requery.sample.response_token_ids)))
        answer = parse_response(response).answer
        requery.response = response.decode("utf-8", errors="replace")
        requery.answer = answer or ""
        scored.requery.CopyFrom(requery)
        scored.rewards["visual"] = await asyncio.to_thread(answer_reward, answer, reference, self._grader)


class ScoringWorker:
    """Consumes the rollout stream."""

    def __init__(self, config: Config, rollouts: Stream, scorer: Scorer, on_scored: OnScored) -> None:
        self._rollouts = rollouts
        self._scorer = scorer
        self._on_scored = on_scored
        self.consumer = Consumer(
            rollouts,
            config.streams,
            self._score,
            permanent=(WireError,),
            without=lambda entry: [without_group(entry.item.rpartition("/")[0])],
            capacity=config.reward.rollouts_in_flight,
            drain_s=config.reward.drain_s,
        )

    async def _score(self, entry: Entry) -> None:
        """One rollout: score it and put it into its group; whoever completes the group emits it."""
        started = time.monotonic()
        rollout = decode(pb.Rollout, entry.message)
        metrics.AGE_SECONDS.observe(max(0.0, time.time() - rollout.finished_at))
        scored = await self._scorer.score(rollout)
        prompt = rollout.prompt
        member = pb.ScoredGroup(schema_version=SCHEMA_VERSION, id=prompt.id, purpose=prompt.purpose, rollouts=[scored])
        emitted = await self._rollouts.assemble(
            entry,
            Output(group_stream(prompt.id), prompt.id, member.SerializeToString()),
            rollout.sample_index,
            prompt.group_size,
        )
        self._on_scored(scored)
        metrics.SCORE_SECONDS.observe(time.monotonic() - started)
        if emitted:
            metrics.GROUPS.inc()


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
