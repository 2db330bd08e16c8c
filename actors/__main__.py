"""`python -m actors CONFIG`: one actor server."""

import argparse
import asyncio
import contextlib
import os
import socket
import sys
import uuid

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from redis.exceptions import RedisError

from actors import metrics
from actors.policy_engine import NO_VERSION, EngineStuckError, PolicyEngine
from actors.prompt_worker import PromptWorker
from actors.server import SERVICE, ActorService
from actors.vllm.engine_arguments import resolve_device
from vision_sr1.config import Config
from vision_sr1.models.check import check_cpu_actors, check_model
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.pipeline.wire import SCHEMA_VERSION
from vision_sr1.runtime import rpc
from vision_sr1.runtime.cancellation import end_tasks, stop_event
from vision_sr1.runtime.ports import host_and_port
from vision_sr1.runtime.probes import Probes
from vision_sr1.runtime.service import run_service
from vision_sr1.streams import Blobs, Keys, Stream, connect
from vision_sr1.v1 import actor_pb2_grpc
from vision_sr1.v1.pipeline_pb2 import ActorInfo

log = structlog.get_logger()

END_TIMEOUT_S = 2.0


async def serve(config: Config, actor_id: str, probes: Probes, policy_version: int | None) -> None:
    """Runs the actor until SIGTERM or SIGINT, or until its engine dies.

    Args:
        policy_version: that the weights at `model.path` are; None: weights are waited for.
    """
    stop = stop_event()
    redis = await connect(config.streams, is_stopping=stop.is_set)
    keys = Keys(config.streams_name)
    blobs = Blobs(redis, keys, config.streams.image_ttl_s)
    device = resolve_device(config.actors.device)
    engine = PolicyEngine(config, device)
    if engine.shares_device and policy_version is None:
        await engine.sleep()  # until the learner sends weights
    metrics.POLICY_VERSION.set(NO_VERSION)

    server = grpc.aio.server(options=rpc.SERVER)
    health_service = health.aio.HealthServicer()
    port = rpc.listen(server, host_and_port(config.actors.host, config.actors.port), config.tls)
    info = ActorInfo(
        schema_version=SCHEMA_VERSION,
        id=actor_id,
        address=host_and_port(_announced_host(config.actors.host), port),
        device=device,
        weight_transfer=engine.weight_transfer,
        world_size=config.actors.world_size,
        capacity=config.actors.prompts_in_flight,
        policy_version=NO_VERSION,
        dtype=config.model.dtype,
    )
    service = ActorService(engine, blobs, info, health_service, probes)
    actor_pb2_grpc.add_ActorServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    for name in ("", SERVICE):
        await health_service.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    await server.start()
    log.info("actor_started", message="The actor listens for requests", address=info.address, device=device)

    prompts = Stream(redis, keys, "prompts", config.streams, group="actors", consumer=actor_id)
    await prompts.open()
    fleet = Fleet(redis, keys)
    service.announce = lambda: fleet.announce(info, config.actors.heartbeat_s)
    if policy_version is not None:
        await service.updates.hold(policy_version)
    background = [
        asyncio.create_task(task)
        for task in (_heartbeat(config, service, engine, stop), _catch_up(config, service, fleet))
    ]
    try:
        worker = PromptWorker(config, engine, service, prompts, blobs)
        await worker.consumer.run(stop)
    finally:
        await end_tasks(background, END_TIMEOUT_S)
        with contextlib.suppress(RedisError):  # forgotten then when it has missed its heartbeats
            await fleet.leave(actor_id)
        await server.stop(grace=1.0)
        engine.shutdown()
        await redis.aclose()


async def _heartbeat(config: Config, service: ActorService, engine: PolicyEngine, stop: asyncio.Event) -> None:
    """Keeps the announcement fresh; an engine that died stops the actor, so that it is restarted."""
    while True:
        try:
            await engine.check_health()
        except Exception as error:
            log.error("engine_unhealthy", message="vLLM reports an error; the actor ends", error=repr(error))
            if isinstance(error, EngineStuckError) or "EngineDead" in type(error).__name__:
                stop.set()
                return
        try:
            async with asyncio.timeout(config.actors.heartbeat_s):
                await service.announce()
        except (RedisError, TimeoutError) as error:
            log.error("heartbeat_failed", message="The heartbeat could not be written to Redis", error=repr(error))
            await service.set_in_touch(False)
        else:
            await service.set_in_touch(True)
        await asyncio.sleep(config.actors.heartbeat_s)


async def _catch_up(config: Config, service: ActorService, fleet: Fleet) -> None:
    """Looks whether the weights held are the current ones."""
    while True:
        await asyncio.sleep(config.actors.heartbeat_s)
        try:
            if published := await fleet.published():
                await service.updates.catch_up(published, config.run)
        except Exception as error:
            log.error(
                "catch_up_failed",
                message="The published weights could not be loaded from the run folder",
                error=repr(error),
            )


def _announced_host(host: str) -> str:
    return socket.gethostbyname(socket.gethostname()) if host in ("0.0.0.0", "::") else host


def main() -> int:
    """Runs one actor; the exit status is 2 for a mistake in the configuration."""
    parser = argparse.ArgumentParser(prog="actors", description=__doc__)
    parser.add_argument(
        "--policy-version", type=int, help="serve the weights at model.path as this version; do not wait for a learner"
    )
    parser.add_argument("--id", default=os.environ.get("HOSTNAME") or "actor", help="name in logs and metrics")

    def run(config: Config, arguments: argparse.Namespace) -> None:
        check_model(config.model)
        if resolve_device(config.actors.device) == "cpu":
            check_cpu_actors(config)
        probes = Probes()
        if config.metrics.actor_port:
            probes.serve(config.metrics.host, config.metrics.actor_port)
        asyncio.run(serve(config, f"{arguments.id}-{uuid.uuid4().hex[:8]}", probes, arguments.policy_version))

    return run_service(parser, run)


if __name__ == "__main__":
    sys.exit(main())
