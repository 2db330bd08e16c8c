"""Route: traces as they are recorded, as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import structlog
from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.exc import SQLAlchemyError

from reward_service.api.context import ApiContext
from reward_service.api.problems import problem_responses
from reward_service.api.searches import TraceFilters
from reward_service.api.views import trace_view
from reward_service.store.reader import FoundTrace

log = structlog.get_logger()

POLL_S = 0.5
AT_ONCE = 100
LATE = 512  # replicas commit side by side: a trace may become visible after one that has a higher number


def live_routes(api: ApiContext) -> APIRouter:
    """What comes, from whichever replica: the store is asked, not this process."""
    routes = APIRouter(prefix="/v1", tags=["traces"])

    @routes.get("/live", response_class=EventSourceResponse, responses=problem_responses(404, 422))
    async def live(
        asked: Annotated[TraceFilters, Query()],
        last_event_id: Annotated[int | None, Header(ge=0, le=2**63 - 1)] = None,
    ) -> AsyncIterator[ServerSentEvent]:
        """Traces that fit, each as an event `trace`; `Last-Event-ID` goes on after an interruption."""
        wanted = asked.wanted(await api.runs.named(asked.run))
        start = last_event_id
        if start is None:
            start = await run_in_threadpool(api.reader.last_sequence, wanted.run)
        last, seen = start, set[int]()

        def found_since() -> tuple[list[FoundTrace], int]:
            newest = api.reader.last_sequence(wanted.run)
            found = api.reader.after(wanted, max(start, last - LATE), AT_ONCE + LATE)
            looked_through = len(found) < AT_ONCE + LATE
            return found, newest if looked_through else found[-1].sequence

        while not api.ending.is_set():
            try:
                found, last = await run_in_threadpool(found_since)
            except SQLAlchemyError as error:
                log.warning("live_traces_waiting", message="The live view waits for the trace store", error=str(error))
            else:
                for trace in found:
                    if trace.sequence not in seen:
                        yield ServerSentEvent(data=trace_view(trace, wanted.run), event="trace", id=str(trace.sequence))
                seen = {trace.sequence for trace in found}
            await asyncio.sleep(POLL_S)

    return routes
