"""Routes: traces, groups, tokens and images."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response
from fastapi.concurrency import run_in_threadpool

from reward_service.api.context import ApiContext
from reward_service.api.problems import problem_responses
from reward_service.api.searches import GroupSearch, Run, TraceSearch
from reward_service.api.table import TraceTable
from reward_service.api.views import group_summary, group_view, tokens_view, trace_view
from reward_service.api.word_diff import word_diff
from reward_service.store.reader import FoundTrace
from vision_sr1.client.models import (
    GroupPage,
    GroupView,
    RowPage,
    StepPage,
    StepView,
    TokensView,
    TracePage,
    TraceView,
    WordDiff,
)
from vision_sr1.prompting.response import TokenBytes

MOST_COUNTED = 1000  # groups


async def found_trace(api: ApiContext, trace_id: str, run: str | None) -> FoundTrace:
    """A trace of a run, or 404."""
    name = await api.runs.named(run)
    found = await run_in_threadpool(api.reader.trace, name, trace_id)
    if found is None:
        raise HTTPException(404, f"no trace {trace_id!r} in run {name!r}; list them with /v1/traces")
    return found


async def tokens_of(api: ApiContext, run: str | None) -> TokenBytes:
    """The token bytes of a run's policy, or 503."""
    if (tokens := api.tokens_of(await api.runs.named(run))) is None:
        raise HTTPException(503, f"the tokenizer of {api.config.model.path} is not to be had here")
    return tokens


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

    @routes.get("/traces", responses=problem_responses(400, 404, 409, 422))
    async def list_traces(asked: Annotated[TraceSearch, Query()]) -> TracePage:
        """Traces, newest first; of a range of policy versions, those of the newest version first."""
        wanted = asked.wanted(await api.runs.named(asked.run))
        found, next_cursor = await run_in_threadpool(api.reader.traces, wanted, asked.cursor, asked.limit)
        return TracePage(traces=[trace_view(trace, wanted.run) for trace in found], next_cursor=next_cursor)

    @routes.get("/rows", responses=problem_responses(400, 404, 409, 422))
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
        tokens = await tokens_of(api, run)
        token_bytes = tokens.of(list(found.scored.rollout.sample.response_token_ids))
        return tokens_view(found.scored, token_bytes)

    @routes.get("/traces/{trace_id:path}/diff", responses=problem_responses(404, 422))
    async def trace_diff(
        trace_id: str, base: Annotated[str, Query(description="Id of the trace to compare with.")], run: Run = None
    ) -> WordDiff:
        """The words in which a response differs from another."""
        found, other = await found_trace(api, trace_id, run), await found_trace(api, base, run)
        parts = await run_in_threadpool(word_diff, other.scored.response, found.scored.response)
        return WordDiff(id=trace_id, base=base, parts=parts)

    @routes.get("/traces/{trace_id:path}", responses=problem_responses(404, 422))
    async def one_trace(trace_id: str, run: Run = None) -> TraceView:
        """One trace by its rollout's id."""
        name = await api.runs.named(run)
        return trace_view(await found_trace(api, trace_id, name), name)

    @routes.get("/groups", responses=problem_responses(400, 404, 409, 422))
    async def list_groups(asked: Annotated[GroupSearch, Query()]) -> GroupPage:
        """Groups that fit, in the order asked for."""
        name = await api.runs.named(asked.run)
        folder, settings = api.runs.folder(name), await run_in_threadpool(api.runs.learner, name)
        batch = folder.batches().get(asked.step) if asked.step is not None else None
        of_step = None if asked.step is None else list(batch.rollouts) if batch else []
        wanted = asked.wanted_groups(name, settings, of_step)
        ids, next_cursor = await run_in_threadpool(api.reader.group_ids, wanted, asked.cursor, asked.limit)
        count = None
        if asked.cursor is None:
            count = await run_in_threadpool(api.reader.count_groups, wanted, MOST_COUNTED) if next_cursor else len(ids)
        groups = await run_in_threadpool(api.reader.groups, name, ids)
        summaries = [group_summary(groups[id_], name, folder.step_of(id_), settings) for id_ in ids if id_ in groups]
        return GroupPage(groups=summaries, count=count, next_cursor=next_cursor)

    @routes.get("/groups/{group_id:path}", responses=problem_responses(404, 422))
    async def one_group(group_id: str, run: Run = None) -> GroupView:
        """All rollouts of a prompt, by the prompt's id, with their advantages."""
        name = await api.runs.named(run)
        groups = await run_in_threadpool(api.reader.groups, name, [group_id])
        if not groups:
            raise HTTPException(404, f"no group {group_id!r} in run {name!r}; a trace names its own as group_id")
        step = api.runs.folder(name).step_of(group_id)
        return group_view(groups[group_id], name, step, await run_in_threadpool(api.runs.learner, name))

    @routes.get("/images/{sha}", response_class=Response, responses=problem_responses(404, 422))
    async def one_image(sha: str) -> Response:
        """An image by its SHA-256, as the policy's processor received it."""
        found = await run_in_threadpool(api.reader.image, sha)
        if found is None:
            raise HTTPException(404, f"no image {sha!r}: traces that refer to it were recorded without, or are removed")
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return Response(found.data, media_type=found.media_type, headers=headers)

    return routes
