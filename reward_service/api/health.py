"""Routes: probes, metrics, and how the pipeline is doing."""

from fastapi import APIRouter, HTTPException, Response
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from reward_service.api.context import ApiContext
from reward_service.api.problems import problem_responses
from vision_sr1.client.models import (
    ActorView,
    LetterView,
    Pipeline,
    StreamView,
)
from vision_sr1.pipeline.dead_letters import DeadLetters
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.streams import Keys
from vision_sr1.streams.status import stream_statuses

LETTERS = 50  # shown


def health_routes(api: ApiContext) -> APIRouter:
    """For people, probes and Prometheus."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process runs."""
        return {"status": "ok"}

    @routes.get("/readyz", responses=problem_responses(503))
    async def readyz() -> dict[str, str]:
        """Whether streams and trace store answer."""
        try:
            if api.ping is not None:
                await api.ping()
            await run_in_threadpool(api.reader.check)
        except (RedisError, SQLAlchemyError) as error:
            raise HTTPException(503, f"not ready: {error}") from error
        return {"status": "ready"}

    @routes.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @routes.get("/v1/pipeline", responses=problem_responses(503))
    async def pipeline() -> Pipeline:
        """Queues, actors with their versions, and dead letters, while the run goes on."""
        if api.redis is None:
            raise HTTPException(503, "the run is over: its traces are served, and nothing else runs")
        keys = Keys(api.config.streams_name)
        try:
            fleet = Fleet(api.redis, keys)
            published = await fleet.published()
            return Pipeline(
                streams=[
                    StreamView(name=s.name, depth=s.depth, age_s=s.age_s, pending=s.pending, dead=s.dead)
                    for s in await stream_statuses(api.redis, keys)
                ],
                actors=[
                    ActorView(id=a.id, address=a.address, device=a.device, policy_version=a.policy_version)
                    for a in sorted(await fleet.alive(), key=lambda actor: actor.id)
                ],
                published_version=published.policy_version if published else None,
                dead_letters=[
                    LetterView(name=x.name, error=x.error, deliveries=x.deliveries, age_s=x.age_s)
                    for x in (await DeadLetters(api.redis, keys).all())[: -LETTERS - 1 : -1]
                ],
            )
        except RedisError as error:
            raise HTTPException(503, f"the streams do not answer: {error}") from error

    return routes
