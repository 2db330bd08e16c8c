"""The REST API: what every reward saw."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import Lifespan

from reward_service.traces import CursorError, Trace, TraceFilter, TraceStore
from vision_sr1 import __version__
from vision_sr1.tracing import trace_id
from vision_sr1.v1 import pipeline_pb2 as pb

Version = Annotated[int | None, Query(ge=-1, le=2**31 - 1)]
Reward = Annotated[float | None, Query(ge=0, le=1)]


class RewardView(BaseModel):
    """One reward and why it is what it is."""

    value: float | None = Field(description="Null where it is missing: nothing is learned from it.")
    explanation: str


class RequeryView(BaseModel):
    """The second rollout: what the policy was asked, and what it said, without the image."""

    prompt: str
    response: str
    answer: str
    policy_version: int
    same_weights: bool = Field(description="Answered by the policy version that wrote the rollout.")
    shared: bool = Field(description="Asked for another rollout of the group, whose description is the same.")
    rewards: dict[str, float]
    tokens: int


class JudgementView(BaseModel):
    """What another model answered to the re-query's prompt."""

    model: str
    response: str
    answer: str


class SpanView(BaseModel):
    """Tokens [start, end) of the response."""

    start: int
    end: int


class TraceView(BaseModel):
    """One rollout, its rewards and what they saw."""

    id: str
    run: str
    group_id: str
    purpose: str
    data_source: str
    policy_version: int
    question: str
    reference_answer: str
    images: list[str] = Field(description="SHA-256 of each; see /v1/images/{sha}.")
    response: str
    rewards: dict[str, RewardView]
    description: SpanView | None
    think: SpanView | None
    answer: SpanView | None
    requeries: list[RequeryView] = Field(description="Empty where the response had no description to ask about.")
    judgement: JudgementView | None = Field(description="Null without a judge.")
    tokens: int
    finish_reason: str
    actor_id: str
    seconds: float = Field(description="From taking the prompt to the finished rollout.")
    trace_id: str = Field(description="By which the logs of all services name this prompt's way; W3C trace context.")


class TracePage(BaseModel):
    """One page of traces, newest first."""

    traces: list[TraceView]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class GroupView(BaseModel):
    """All rollouts of one prompt."""

    id: str
    traces: list[TraceView]


class ErrorView(BaseModel):
    """What was wrong with a request."""

    detail: str


_ERROR: dict[str, Any] = {"model": ErrorView}


def create_app(
    store: TraceStore, ping: Callable[[], Awaitable[object]], lifespan: Lifespan[FastAPI] | None = None
) -> FastAPI:
    """The application over a trace store; `ping` raises RedisError where the streams are out of reach."""
    app = FastAPI(title="Vision-SR1 reward traces", version=__version__, lifespan=lifespan)

    @app.get("/v1/traces", responses={400: _ERROR})
    async def traces(
        run: str | None = None,
        purpose: Annotated[str | None, Query(pattern="^(train|evaluation)$")] = None,
        data_source: str | None = None,
        min_version: Version = None,
        max_version: Version = None,
        min_format: Reward = None,
        max_format: Reward = None,
        min_accuracy: Reward = None,
        max_accuracy: Reward = None,
        min_visual: Reward = None,
        max_visual: Reward = None,
        q: Annotated[str | None, Query(description="Text in question, answer, response or re-query.")] = None,
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> TracePage:
        """Traces, newest first. With one publication a batch, the policy version is the training batch."""
        low = {"format": min_format, "accuracy": min_accuracy, "visual": min_visual}
        high = {"format": max_format, "accuracy": max_accuracy, "visual": max_visual}
        wanted = TraceFilter(
            run=run,
            purpose=purpose,
            data_source=data_source,
            min_version=min_version,
            max_version=max_version,
            text=q,
            min_rewards={name: value for name, value in low.items() if value is not None},
            max_rewards={name: value for name, value in high.items() if value is not None},
        )
        try:
            found, next_cursor = await run_in_threadpool(store.traces, wanted, cursor, limit)
        except CursorError as error:
            raise HTTPException(400, str(error)) from error
        return TracePage(traces=[_view(trace) for trace in found], next_cursor=next_cursor)

    @app.get("/v1/traces/{trace_id:path}", responses={404: _ERROR})
    async def trace(trace_id: str, run: str | None = None) -> TraceView:
        """One trace by its rollout's id."""
        found = await run_in_threadpool(store.trace, trace_id, run)
        if found is None:
            raise HTTPException(404, f"no trace {trace_id!r}; list them with /v1/traces")
        return _view(found)

    @app.get("/v1/groups/{group_id:path}", responses={404: _ERROR})
    async def group(group_id: str, run: str | None = None) -> GroupView:
        """All rollouts of a prompt, by the prompt's id."""
        found = await run_in_threadpool(store.group, group_id, run)
        if not found:
            raise HTTPException(404, f"no group {group_id!r}; a trace names its own as group_id")
        return GroupView(id=group_id, traces=[_view(trace) for trace in found])

    @app.get("/v1/images/{sha}", response_class=Response, responses={404: _ERROR})
    async def image(sha: str) -> Response:
        """An image by its SHA-256, as the policy's processor received it."""
        found = await run_in_threadpool(store.image, sha)
        if found is None:
            raise HTTPException(404, f"no image {sha!r}")
        return Response(
            found.data, media_type=found.media_type, headers={"Cache-Control": "public, max-age=31536000, immutable"}
        )

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process runs."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: _ERROR})
    async def readyz() -> dict[str, str]:
        """Whether streams and trace store answer."""
        try:
            await ping()
            await run_in_threadpool(store.check)
        except (RedisError, SQLAlchemyError) as error:
            raise HTTPException(503, f"not ready: {error}") from error
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response)
    async def metrics_endpoint() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


def _view(trace: Trace) -> TraceView:
    scored = pb.ScoredRollout.FromString(trace.message)
    rollout = scored.rollout
    return TraceView(
        id=trace.id,
        run=trace.run,
        group_id=trace.group_id,
        purpose=trace.purpose,
        data_source=trace.data_source,
        policy_version=trace.policy_version,
        question=rollout.prompt.question,
        reference_answer=rollout.prompt.answer,
        images=[ref.sha256 for ref in rollout.prompt.images],
        response=scored.response,
        rewards={
            name: RewardView(value=scored.rewards.get(name), explanation=scored.explanations.get(name, ""))
            for name in sorted({*scored.rewards, *scored.missing})
        },
        description=_span(scored, "description"),
        think=_span(scored, "think"),
        answer=_span(scored, "answer"),
        requeries=[_requery(requery, trace.policy_version) for requery in scored.requeries],
        judgement=_judgement(scored.judgement) if scored.HasField("judgement") else None,
        tokens=len(rollout.sample.response_token_ids),
        finish_reason=rollout.sample.finish_reason,
        actor_id=rollout.actor_id,
        seconds=rollout.finished_at - rollout.started_at,
        trace_id=trace_id(rollout.prompt.traceparent),
    )


def _span(scored: pb.ScoredRollout, name: str) -> SpanView | None:
    if not scored.HasField(name):  # type: ignore[arg-type]
        return None
    span: pb.TokenSpan = getattr(scored, name)
    return SpanView(start=span.start, end=span.end)


def _requery(requery: pb.Requery, policy_version: int) -> RequeryView:
    return RequeryView(
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
