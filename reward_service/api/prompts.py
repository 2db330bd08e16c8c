"""Routes: a prompt as the policy received it, and the same prompt over the policy's versions."""

from itertools import groupby
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from fastapi.concurrency import run_in_threadpool

from reward_service.api.context import ApiContext
from reward_service.api.problems import problem_responses
from reward_service.api.searches import Purpose, Run
from reward_service.api.traces import found_trace, tokens_of
from reward_service.api.views import prompt_answer
from reward_service.api.word_diff import word_diff
from reward_service.store.reader import AnswersOfVersion
from vision_sr1.client.models import PromptHistory, PromptPart, PromptVersion, RenderedPrompt, TracePrompts
from vision_sr1.prompting.response import TokenBytes
from vision_sr1.v1 import pipeline_pb2 as pb


def prompt_routes(api: ApiContext) -> APIRouter:
    """What the policy was asked."""
    routes = APIRouter(prefix="/v1", tags=["prompts"])

    @routes.get("/prompts/{prompt_key}", responses=problem_responses(404, 422))
    async def one_prompt(
        prompt_key: str,
        run: Run = None,
        purpose: Purpose = None,
        cursor: Annotated[int | None, Query(ge=-1, le=2**31 - 1)] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="Policy versions.")] = 50,
    ) -> PromptHistory:
        """One prompt at all policy versions that answered it, in training and evaluation, the oldest first."""
        name = await api.runs.named(run)
        after = None if cursor is None else cursor - 1  # the last one listed is what the next differs from
        count = limit + 1 + (cursor is not None)
        found = await run_in_threadpool(api.reader.prompt_versions, name, prompt_key, purpose, after, count)
        if not found:
            raise HTTPException(404, f"no prompt {prompt_key!r} in run {name!r}; a trace names its own as prompt_key")
        return await run_in_threadpool(_history, prompt_key, name, found, cursor, limit)

    @routes.get("/traces/{trace_id:path}/prompt", responses=problem_responses(404, 422, 503))
    async def trace_prompt(trace_id: str, run: Run = None) -> TracePrompts:
        """The prompts of a trace as the policy received them, image tokens included."""
        found = await found_trace(api, trace_id, run)
        tokens = await tokens_of(api, run)
        scored = found.scored
        return TracePrompts(
            id=scored.rollout.id,
            prompt=rendered_prompt(scored.rollout.sample, tokens),
            requeries=[rendered_prompt(requery.sample, tokens) for requery in scored.requeries],
        )

    return routes


def rendered_prompt(sample: pb.Sample, tokens: TokenBytes) -> RenderedPrompt:
    """The text of a sample's prompt; the same control token in a row, as of an image, is one part."""
    ids = list(sample.prompt_token_ids)
    parts: list[PromptPart] = []
    for token, together in groupby(ids, key=lambda token: token if tokens.is_control(token) else None):
        run = list(together)
        text = b"".join(tokens.written(run[:1] if token is not None else run)).decode("utf-8", errors="replace")
        parts.append(PromptPart(text=text, count=1 if token is None else len(run), is_control=token is not None))
    return RenderedPrompt(tokens=len(ids), parts=parts)


def _history(prompt_key: str, run: str, found: list[AnswersOfVersion], cursor: int | None, limit: int) -> PromptHistory:
    """One page of what was found from the version of the cursor on."""
    prompt = found[0].traces[0].scored.rollout.prompt
    described, versions = None, list[PromptVersion]()
    if found[0].policy_version == cursor:
        described = prompt_answer(found.pop(0).traces[0]).description
    for one in found[:limit]:
        answers = [prompt_answer(trace) for trace in one.traces]
        before, described = described, answers[0].description
        versions.append(
            PromptVersion(
                policy_version=one.policy_version,
                count=one.count,
                answers=answers,
                changes=None if before is None else word_diff(before, described),
            )
        )
    return PromptHistory(
        key=prompt_key,
        run=run,
        data_source=prompt.data_source,
        question=prompt.question,
        reference_answer=prompt.answer,
        images=[ref.sha256 for ref in prompt.images],
        versions=versions,
        next_cursor=str(versions[-1].policy_version) if len(found) > limit else None,
    )
