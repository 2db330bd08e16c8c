"""What the API answers with."""

import math
from collections.abc import Sequence

import numpy as np

from reward_service.store.reader import FoundTrace
from reward_service.store.rows import prompt_key
from vision_sr1.client.models import (
    GroupSummary,
    GroupView,
    JudgementView,
    MemberView,
    PromptAnswer,
    RequeryView,
    RewardView,
    Said,
    SpanView,
    TokensView,
    TokenView,
    TraceView,
)
from vision_sr1.config import LearnerConfig
from vision_sr1.credit.advantages import component_advantages
from vision_sr1.credit.assignment import group_rewards
from vision_sr1.credit.requeries import requery_advantages
from vision_sr1.pipeline.prompt_properties import purpose_name, questions_of
from vision_sr1.pipeline.response_parts import answer_of, description_of
from vision_sr1.pipeline.scored_groups import is_truncated, sample_version
from vision_sr1.runtime.tracing import trace_id
from vision_sr1.v1 import pipeline_pb2 as pb


def trace_view(found: FoundTrace, run: str) -> TraceView:
    """A stored trace as the API shows it, in a run as it is asked for."""
    return scored_view(found.scored, run, found.recorded_at)


def scored_view(scored: pb.ScoredRollout, run: str, recorded_at: float) -> TraceView:
    """A scored rollout as the API shows it."""
    rollout = scored.rollout
    prompt = rollout.prompt
    version = sample_version(rollout.sample)
    return TraceView(
        id=rollout.id,
        run=run,
        group_id=prompt.id,
        prompt_key=prompt_key(prompt),
        purpose=purpose_name(prompt),
        data_source=prompt.data_source,
        policy_version=version,
        recorded_at=recorded_at,
        question=prompt.question,
        reference_answer=prompt.answer,
        images=[ref.sha256 for ref in prompt.images],
        response=scored.response,
        answer_text=answer_of(scored),
        rewards=reward_views(scored),
        description=_span(scored, "description"),
        think=_span(scored, "think"),
        answer=_span(scored, "answer"),
        requeries=[_requery(requery, prompt, version) for requery in scored.requeries],
        judgement=_judgement(scored.judgement) if scored.HasField("judgement") else None,
        tokens=len(rollout.sample.response_token_ids),
        finish_reason=rollout.sample.finish_reason,
        actor_id=rollout.actor_id,
        seconds=rollout.finished_at - rollout.started_at,
        trace_id=trace_id(prompt.traceparent),
    )


def reward_views(scored: pb.ScoredRollout) -> dict[str, RewardView]:
    """Every reward by name, missing ones included."""
    given, said = dict(scored.rewards), dict(scored.explanations)
    return {
        name: RewardView(value=given.get(name), explanation=said.get(name, ""))
        for name in sorted({*given, *scored.missing})
    }


def group_summary(found: Sequence[FoundTrace], run: str, step: int | None, settings: LearnerConfig) -> GroupSummary:
    """A group as a list shows it."""
    prompt = found[0].scored.rollout.prompt
    right = [trace.scored.rewards.get("accuracy", 0.0) > 0 for trace in found]
    return GroupSummary(
        id=prompt.id,
        run=run,
        purpose=purpose_name(prompt),
        data_source=prompt.data_source,
        step=step,
        recorded_at=max(trace.recorded_at for trace in found),
        question=prompt.question,
        reference_answer=prompt.answer,
        images=[ref.sha256 for ref in prompt.images],
        prompt_key=prompt_key(prompt),
        right=sum(right),
        has_signal=_has_signal(found, settings),
        members=[_member(trace.scored) for trace in found],
    )


def group_view(found: Sequence[FoundTrace], run: str, step: int | None, settings: LearnerConfig) -> GroupView:
    """A group with all of its traces and the advantages that its rewards give them."""
    prompt = found[0].scored.rollout.prompt
    return GroupView(
        id=prompt.id,
        run=run,
        prompt_key=prompt_key(prompt),
        step=step,
        has_signal=_has_signal(found, settings),
        traces=[trace_view(trace, run) for trace in found],
        advantages=advantages_of(found, settings),
        requery_advantages=_requery_advantages_of(found, settings),
        tokens={component.name: list(component.tokens) for component in settings.components},
    )


def advantages_of(found: Sequence[FoundTrace], settings: LearnerConfig) -> dict[str, list[float | None]]:
    """Advantages by component of the objective, one for each trace of a whole group; None where a reward is missing."""
    group = pb.ScoredGroup(rollouts=[trace.scored for trace in found])
    rewards = group_rewards(group)
    return {
        component.name: [
            _or_none(value) for value in component_advantages(component, [rewards], settings.advantage_epsilon)[0]
        ]
        for component in settings.components
        if component.reward.keys() <= rewards.keys()
    }


def _requery_advantages_of(found: Sequence[FoundTrace], settings: LearnerConfig) -> dict[str, list[list[float | None]]]:
    """Advantages by component that trains re-queries: those of each trace of a whole group."""
    group = pb.ScoredGroup(rollouts=[trace.scored for trace in found])
    given = group_rewards(group).keys()
    components = [c for c in settings.components if c.trains_requery and c.reward.keys() <= given]
    advantages = {c.name: requery_advantages(c, [group], settings.advantage_epsilon)[0] for c in components}
    return {
        name: [
            [_or_none(values[number, place]) for place in range(len(scored.requeries))]
            for number, scored in enumerate(group.rollouts)
        ]
        for name, values in advantages.items()
    }


def _has_signal(found: Sequence[FoundTrace], settings: LearnerConfig) -> bool | None:
    """Whether some component learns something from a training group; None of evaluation."""
    if found[0].scored.rollout.prompt.purpose == pb.PURPOSE_EVALUATION:
        return None
    of_answers, of_requeries = advantages_of(found, settings), _requery_advantages_of(found, settings)
    return any(
        (component.tokens != ["requery"] and any(of_answers.get(component.name, [])))
        or any(any(values) for values in of_requeries.get(component.name, []))
        for component in settings.components
        if component.weight
    )


def prompt_answer(found: FoundTrace) -> PromptAnswer:
    """An answer as a prompt's history shows it."""
    scored = found.scored
    return PromptAnswer(
        purpose=purpose_name(scored.rollout.prompt),
        group_id=scored.rollout.prompt.id,
        description=description_of(scored),
        requery_answer=scored.requeries[0].answer if scored.requeries else "",
        **_member(scored).model_dump(exclude={"policy_version"}),
    )


def said_view(scored: pb.ScoredRollout) -> Said:
    """What a policy said, in short."""
    return Said(
        group_id=scored.rollout.prompt.id,
        policy_version=sample_version(scored.rollout.sample),
        description=description_of(scored),
        answer=answer_of(scored),
        requery_answer=scored.requeries[0].answer if scored.requeries else "",
    )


def tokens_view(scored: pb.ScoredRollout, token_bytes: Sequence[bytes]) -> TokensView:
    """A response token by token.

    Args:
        token_bytes: the bytes of each token.
    """
    sample = scored.rollout.sample
    segments = [""] * len(token_bytes)
    for name in ("description", "think", "answer"):
        if (span := _span(scored, name)) is not None:
            segments[span.start : span.end] = [name] * (span.end - span.start)
    versions = [span.policy_version for span in sample.versions for _ in range(span.start, span.end)]
    tokens = [
        TokenView(
            text=token.decode("utf-8", errors="replace"), logprob=logprob, policy_version=version, segment=segment
        )
        for token, logprob, version, segment in zip(token_bytes, sample.logprobs, versions, segments, strict=False)
    ]
    return TokensView(id=scored.rollout.id, tokens=tokens)


def _member(scored: pb.ScoredRollout) -> MemberView:
    return MemberView(
        id=scored.rollout.id,
        policy_version=sample_version(scored.rollout.sample),
        answer=answer_of(scored),
        rewards={name: view.value for name, view in reward_views(scored).items()},
        truncated=is_truncated(scored.rollout.sample),
    )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(np.float64(value))


def _span(scored: pb.ScoredRollout, name: str) -> SpanView | None:
    if not scored.HasField(name):
        return None
    span: pb.TokenSpan = getattr(scored, name)
    return SpanView(start=span.start, end=span.end)


def _requery(requery: pb.Requery, prompt: pb.Prompt, policy_version: int) -> RequeryView:
    asked = questions_of(prompt)[requery.question] if requery.question else None
    return RequeryView(
        question=asked.question if asked else None,
        reference_answer=asked.answer if asked else None,
        prompt=requery.prompt,
        response=requery.response,
        answer=requery.answer,
        policy_version=requery.policy_version,
        same_weights=requery.policy_version == policy_version,
        shared=requery.shared,
        rewards=dict(sorted(requery.rewards.items())),
        tokens=len(requery.sample.response_token_ids),
    )


def _judgement(judgement: pb.Judgement) -> JudgementView:
    return JudgementView(model=judgement.model, response=judgement.response, answer=judgement.answer)
