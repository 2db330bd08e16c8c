"""Routes: traces, groups, tokens and images."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from reward_service.api.context import ApiContext
from reward_service.api.problems import problem_responses
from reward_service.api.table import TraceTable
from reward_service.api.views import group_summary, group_view, tokens_view, trace_view
from reward_service.store import SEARCHED, TraceFilter
from reward_service.store.reader import FoundTrace
from vision_sr1.client.models import GroupPage, GroupView, RowPage, StepPage, StepView, TokensView, TracePage, TraceView
from vision_sr1.client.models import Pattern as PatternName
from vision_sr1.client.models import Purpose as PurposeName

Run = Annotated[str | None, Query(description="Default: the run that this service serves.")]
Purpose = Annotated[PurposeName | None, Query()]
Version = Annotated[int | None, Query(ge=-1, le=2**31 - 1)]
Bound = Annotated[float | None, Query(ge=-1e9, le=1e9)]
Pattern = Annotated[
    PatternName | None,
    Query(description="Answer and description: `shortcut` is a right answer whose description does not suffice."),
]


class TraceFilters(BaseModel):
    """What traces and groups are searched for by."""

    run: Run = None
    purpose: Purpose = None
    data_source: str | None = None
    min_version: Version = None
    max_version: Version = None
    pattern: Pattern = None
    q: str | None = Field(
        None, max_length=1000, description="Parts of words, all of which occur in question, answer or responses."
    )

    def wanted(self, run: str) -> TraceFilter:
        """For the store, in the run that is meant."""
        return TraceFilter(
            run=run,
            purpose=self.purpose,
            data_source=self.data_source,
            min_version=self.min_version,
            max_version=self.max_version,
            outcome=self.pattern,
            words=self.q,
        )


class TraceSearch(TraceFilters):
    """A page of single answers, by their rewards too."""

    cursor: str | None = None
    min_format: Bound = None
    max_format: Bound = None
    min_accuracy: Bound = None
    max_accuracy: Bound = None
    min_visual: Bound = None
    max_visual: Bound = None
    limit: int = Field(50, ge=1, le=200)

    def wanted(self, run: str) -> TraceFilter:
        """For the store, in the run that is meant."""
        bounds = {
            end: {name: value for name in SEARCHED if (value := getattr(self, f"{end}_{name}")) is not None}
            for end in ("min", "max")
        }
        return replace(super().wanted(run), min_rewards=bounds["min"], max_rewards=bounds["max"])


class GroupSearch(TraceFilters):
    """A page of prompts with all their answers."""

    cursor: str | None = None
    step: int | None = Field(None, ge=1, le=2**31 - 1, description="Batch that learned from the prompt.")
    limit: int = Field(20, ge=1, le=100)


async def found_trace(api: ApiContext, trace_id: str, run: str | None) -> FoundTrace:
    """A trace of a run, or 404."""
    name = await api.runs.named(run)
    found = await run_in_threadpool(api.reader.trace, name, trace_id)
    if found is None:
        raise HTTPException(404, f"no trace {trace_id!r} in run {name!r}; list them with /v1/traces")
    return found


def trace_routes(api: ApiContext) -> APIRouter:
    """Reading what was recorded."""
    routes = APIRouter(prefix="/v1", tags=["traces"])

    @routes.get("/steps", responses=problem_responses(404, 422))
    async def list_steps(
        cursor: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        run: Run = None,
    ) -> StepPage:
        """Batches of a run, the last first."""
        batches = await run_in_threadpool(api.runs.folder(await api.runs.named(run)).batches)
        left = sorted((step for step in batches if cursor is None or step < cursor), reverse=True)
        steps = [
            StepView(
                step=step,
                policy_version=batches[step].policy_version,
                groups=list(batches[step].rollouts),
                rollouts=sum(batches[step].rollouts.values()),
            )
            for step in left[:limit]
        ]
        return StepPage(steps=steps, next_cursor=str(steps[-1].step) if len(left) > limit else None)

    @routes.get("/traces", responses=problem_responses(400, 404, 422))
    async def list_traces(asked: Annotated[TraceSearch, Query()]) -> TracePage:
        """Traces, newest first; of a range of policy versions, those of the newest version first."""
        wanted = asked.wanted(await api.runs.named(asked.run))
        found, next_cursor = await run_in_threadpool(api.reader.traces, wanted, asked.cursor, asked.limit)
        return TracePage(traces=[trace_view(trace) for trace in found], next_cursor=next_cursor)

    @routes.get("/rows", responses=problem_responses(400, 404, 422))
    async def list_rows(asked: Annotated[TraceSearch, Query()]) -> RowPage:
        """Traces as rows of a table, in the same order."""
        wanted = asked.wanted(await api.runs.named(asked.run))
        learner = await run_in_threadpool(api.runs.learner, wanted.run)
        folder = api.runs.folder(wanted.run)

        def read() -> RowPage:
            found, next_cursor = api.reader.traces(wanted, asked.cursor, asked.limit)
            table = TraceTable.of(api.reader, wanted.run, folder, learner)
            return RowPage(rows=table.rows(found), next_cursor=next_cursor)

        return await run_in_threadpool(read)

    @routes.get("/traces/{trace_id:path}/tokens", responses=problem_responses(404, 422, 503))
    async def trace_tokens(trace_id: str, run: Run = None) -> TokensView:
        """A response token by token, with log-probabilities and policy versions."""
        found = await found_trace(api, trace_id, run)
        if (tokens := api.tokens_of(await api.runs.named(run))) is None:
            raise HTTPException(503, f"the tokenizer of {api.config.model.path} is not to be had here")
        token_bytes = tokens.of(list(found.scored.rollout.sample.response_token_ids))
        return tokens_view(found.scored, token_bytes)

    @routes.get("/traces/{trace_id:path}", responses=problem_responses(404, 422))
    async def one_trace(trace_id: str, run: Run = None) -> TraceView:
        """One trace by its rollout's id."""
        return trace_view(await found_trace(api, trace_id, run))

    @routes.get("/groups", responses=problem_responses(400, 404, 422))
    async def list_groups(asked: Annotated[GroupSearch, Query()]) -> GroupPage:
        """Groups of which some trace fits, those with the newest traces first."""
        wanted = asked.wanted(await api.runs.named(asked.run))
        folder = api.runs.folder(wanted.run)
        if asked.step is not None:
            batch = folder.batches().get(asked.step)
            wanted = replace(wanted, group_ids=list(batch.rollouts) if batch else [])
        ids, next_cursor = await run_in_threadpool(api.reader.group_ids, wanted, asked.cursor, asked.limit)
        groups = await run_in_threadpool(api.reader.groups, wanted.run, ids)
        summaries = [group_summary(groups[id_], folder.step_of(id_)) for id_ in ids if id_ in groups]
        return GroupPage(groups=summaries, next_cursor=next_cursor)

    @routes.get("/groups/{group_id:path}", responses=problem_responses(404, 422))
    async def one_group(group_id: str, run: Run = None) -> GroupView:
        """All rollouts of a prompt, by the prompt's id, with their advantages."""
        name = await api.runs.named(run)
        groups = await run_in_threadpool(api.reader.groups, name, [group_id])
        if not groups:
            raise HTTPException(404, f"no group {group_id!r} in run {name!r}; a trace names its own as group_id")
        step = api.runs.folder(name).step_of(group_id)
        return group_view(groups[group_id], step, await run_in_threadpool(api.runs.learner, name))

    @routes.get("/images/{sha}", response_class=Response, responses=problem_responses(404, 422))
    async def one_image(sha: str) -> Response:
        """An image by its SHA-256, as the policy's processor received it."""
        found = await run_in_threadpool(api.reader.image, sha)
        if found is None:
            raise HTTPException(404, f"no image {sha!r}: traces that refer to it were recorded without, or are removed")
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return Response(found.data, media_type=found.media_type, headers=headers)

    return routes
