"""`vision-sr1 doctor`: what keeps an installation or a cluster from working, seen from inside, and what to do about it.

Every check ends in a finding, whatever it meets; each has a deadline.
"""

import asyncio
import importlib.metadata
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
from packaging.requirements import Requirement
from redis.exceptions import NoPermissionError, RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from vision_sr1.cli.checks import Finding, findings
from vision_sr1.config import Config, ConfigError
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.pipeline.wire import WireError
from vision_sr1.runtime import rpc
from vision_sr1.runtime.gpus import visible_gpus
from vision_sr1.runtime.ports import host_and_port
from vision_sr1.streams import Keys, RetryingRedis, StreamsUnavailableError, connect_to_run
from vision_sr1.streams.connection import NoServerError
from vision_sr1.streams.status import stream_statuses
from vision_sr1.v1 import actor_pb2, actor_pb2_grpc
from vision_sr1.v1.pipeline_pb2 import ActorInfo

NAME = "vision-sr1"  # of this package, to pip
ANSWER_S = 5.0  # for one answer of another service
SETTLE_S = 10.0  # while weights are published, not all have them
CLOCK_SKEW_S = 2.0
SIGNS = {"actors": "grpcio-reflection", "learner": "deepspeed", "reward": "mathruler"}  # packages that only these have


def examine(config: Config) -> Iterator[Finding]:
    """All checks, those of this machine first."""
    yield from versions()
    yield from devices()
    yield from findings(config)
    yield from asyncio.run(_of_services(config))


def versions() -> list[Finding]:
    """Installed packages against the versions that this release was tested with; a service's image has only its own."""
    wrong, checked = [], 0
    requirements = [Requirement(line) for line in importlib.metadata.requires(NAME) or []]
    services = [service for service, package in SIGNS.items() if _is_installed(package)]
    extras = _with_extras(["cli"] if len(services) in (0, len(SIGNS)) else ["doctor", *services], requirements)
    for requirement in (one for one in requirements if one.name != NAME):
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            if any(_is_of(requirement, extra) for extra in extras):
                wrong.append(f"{requirement.name} is not installed")
            continue
        checked += 1
        if not requirement.specifier.contains(found.partition("+")[0], prereleases=True):
            wrong.append(f"{requirement.name} {found}, not {requirement.specifier}")
    if wrong:
        cure = "install them as this release names them: `make install`, or `pip install '.[cli,gpu]'` in a checkout"
        return [Finding("versions", "failed", "; ".join(wrong), cure)]
    return [Finding("versions", "ok", f"{checked} packages, of {', '.join(services)}")]


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _with_extras(extras: list[str], requirements: list[Requirement]) -> set[str]:
    """Extras of this package and those that they include; "" is what every installation has."""
    found, todo = {""}, extras
    while todo:
        found.add(name := todo.pop())
        todo += [
            other for one in requirements if one.name == NAME and _is_of(one, name) for other in one.extras - found
        ]
    return found


def _is_of(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def devices() -> list[Finding]:
    """GPUs and NCCL, as torch sees them; nothing where there are none."""
    here = visible_gpus()
    try:
        import torch
    except ImportError:
        return []
    if torch.cuda.is_available():
        version = ".".join(map(str, torch.cuda.nccl.version()))
        said = (
            f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, NCCL {version}"
        )
        return [Finding("CUDA", "ok", said)]
    if not here:
        return []
    cure = "install the CUDA build: `pip install 'vision-sr1[cli,gpu]'`; see that the driver is as new as its CUDA"
    return [Finding("CUDA", "failed", f"{len(here)} GPUs are here, and torch {torch.__version__} sees none", cure)]


async def _of_services(config: Config) -> list[Finding]:
    findings = [finding async for finding in _on_redis(config)]
    return [*findings, await _bounded("API", lambda: api(config)), await _bounded("traces", lambda: traces(config))]


async def _on_redis(config: Config) -> AsyncIterator[Finding]:
    brief = config.model_copy(deep=True)
    brief.streams.timeout_s = brief.streams.retry_for_s = ANSWER_S
    try:
        async with connect_to_run(brief) as redis:
            keys = Keys(config.streams_name)
            yield await _bounded("Redis", lambda: persistence(redis))
            yield await _bounded("clock", lambda: clock(redis))
            yield await _bounded("streams", lambda: dead_letters(redis, keys))
            yield await _bounded("actors", lambda: actors(redis, keys, config))
    except NoServerError as error:
        yield Finding("Redis", "ok", f"none runs for this run; `vision-sr1 train` starts one in {error.folder}")
    except (ConfigError, StreamsUnavailableError) as error:
        cure = "start it, or correct VISION_SR1_REDIS_URL and VISION_SR1_REDIS_PASSWORD; nothing works without it"
        yield Finding("Redis", "failed", str(error), cure)


async def _bounded(name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
    try:
        async with asyncio.timeout(4 * ANSWER_S):
            return await check()
    except NoPermissionError:
        return Finding(
            name, "warning", "this user of Redis may not see it", "run the doctor as `operator` or `learner`"
        )
    except (RedisError, TimeoutError, OSError, WireError) as error:
        return Finding(name, "failed", repr(error), "look at that service's log and at the network between")


async def persistence(redis: RetryingRedis) -> Finding:
    """Whether Redis keeps what it acknowledged, and evicts nothing."""
    started = time.perf_counter()
    await redis.ping()
    said = f"answers in {1e3 * (time.perf_counter() - started):.1f} ms"
    try:
        info: dict[str, Any] = {**await redis.info("persistence"), **await redis.info("memory")}
    except NoPermissionError:
        return Finding(
            "Redis", "warning", f"{said}; this user may not see more", "run the doctor as `operator` or `learner`"
        )
    if not int(info["aof_enabled"]):
        cure = "set appendonly yes: a restart of Redis would lose the run's streams"
        return Finding("Redis", "failed", f"{said}; no append-only file", cure)
    if info["aof_last_write_status"] != "ok":
        return Finding("Redis", "failed", f"{said}; it cannot write its append-only file", "free space on its volume")
    if info["maxmemory_policy"] != "noeviction":
        cure = "set maxmemory-policy noeviction: others drop entries of streams when memory is short"
        return Finding("Redis", "failed", f"{said}; evicts by {info['maxmemory_policy']}", cure)
    return Finding("Redis", "ok", f"{said}; append-only file, nothing evicted, {info['used_memory_human']} used")


async def clock(redis: RetryingRedis) -> Finding:
    """This machine's clock against Redis'."""
    before = time.time()
    seconds, microseconds = await redis.time()
    skew = seconds + microseconds / 1e6 - (before + time.time()) / 2
    if abs(skew) > CLOCK_SKEW_S:
        return Finding("clock", "warning", f"{skew:+.1f} s to Redis'", "run NTP: ages and times in traces mislead")
    return Finding("clock", "ok", f"{1e3 * skew:+.0f} ms to Redis'")


async def dead_letters(redis: RetryingRedis, keys: Keys) -> Finding:
    """Entries among the dead letters."""
    statuses = await stream_statuses(redis, keys)
    said = ", ".join(f"{status.name} {status.depth}" for status in statuses)
    if dead := sum(status.dead for status in statuses):
        return Finding("streams", "warning", f"{said}; {dead} dead letters", "see `vision-sr1 streams dead list`")
    return Finding("streams", "ok", said)


async def actors(redis: RetryingRedis, keys: Keys, config: Config) -> Finding:
    """Whether those that announce themselves answer, and hold the version that was published last."""
    fleet, deadline = Fleet(redis, keys), time.monotonic() + SETTLE_S
    while True:
        alive, published = await fleet.alive(), await fleet.published()
        if not alive:
            return Finding("actors", "warning", "none announces itself", "start actors; they appear once vLLM is up")
        answers = await asyncio.gather(*(_status(actor, config) for actor in alive))
        wrong = [answer for answer in answers if isinstance(answer, str)]
        if wrong:
            cure = "look at its log; between machines, check tls.* and that its gRPC port is open to this one"
            return Finding("actors", "failed", "; ".join(wrong), cure)
        held = {answer.id: answer.policy_version for answer in answers if not isinstance(answer, str)}
        if published is None or set(held.values()) == {published.policy_version}:
            return Finding("actors", "ok", f"{len(held)}, all at version {max(held.values())}")
        if time.monotonic() > deadline:
            said = ", ".join(f"{actor} {version}" for actor, version in sorted(held.items()))
            cure = "an actor that has just come takes the next publication; one that stays behind: docs/weights.md"
            return Finding("actors", "warning", f"published is {published.policy_version}; {said}", cure)
        await asyncio.sleep(1.0)


async def _status(actor: ActorInfo, config: Config) -> ActorInfo | str:
    try:
        async with rpc.aio_channel(actor.address, config.tls) as channel:
            stub = actor_pb2_grpc.ActorStub(channel)
            reply = await stub.Status(actor_pb2.StatusRequest(ask_engine=True), timeout=ANSWER_S)
    except (grpc.aio.AioRpcError, ConfigError) as error:
        said = f"{error.code().name} {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else str(error)
        return f"{actor.id} at {actor.address}: {said}"
    found: ActorInfo = reply.actor
    return found


async def api(config: Config) -> Finding:
    """Whether the reward service is ready, and takes the token."""
    reward = config.reward
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(reward.host, reward.host)
    url = f"http://{host_and_port(host, reward.port)}"
    headers = {"Authorization": f"Bearer {reward.api.token.get_secret_value()}"} if reward.api.token else {}
    try:
        direct = httpx.AsyncHTTPTransport()  # through no proxy
        async with httpx.AsyncClient(base_url=url, timeout=ANSWER_S, headers=headers, transport=direct) as client:
            ready, runs = await client.get("/readyz"), await client.get("/v1/runs")
    except httpx.ConnectError:
        said = f"nothing listens at {url}: the reward service is not started"
        return Finding("API", "warning", said, "`vision-sr1 train` starts it; elsewhere, name its reward.host")
    except httpx.HTTPError as error:
        said = f"{url} does not answer ({type(error).__name__})"
        return Finding("API", "warning", said, "look at the reward service's log")
    if ready.is_error:
        return Finding("API", "failed", f"{url}: {ready.json()['detail']}", "see what it names")
    if runs.status_code == httpx.codes.UNAUTHORIZED:
        return Finding(
            "API", "failed", f"{url} refuses the token", "give this VISION_SR1_API_TOKEN the service's value"
        )
    # A run without traces is not listed.
    served = next((str(run["name"]) for run in runs.json() if run["is_served"]), config.run.name)
    if served != config.run.name:
        said = f"{url} is the API of the run {served!r}, not of {config.run.name!r}"
        return Finding("API", "warning", said, "set reward.port to another port, or give that run's configuration")
    return Finding("API", "ok", f"{url} is ready")


async def traces(config: Config) -> Finding:
    """Whether a trace store on another machine answers."""
    url = config.traces_url
    if url.startswith("sqlite"):
        return Finding("traces", "ok", f"{url}, one replica's")
    from sqlalchemy import create_engine, make_url

    password = config.reward.traces.password

    def ask() -> None:
        place = make_url(url).set(password=password.get_secret_value() if password else None)
        engine = create_engine(place, connect_args={"connect_timeout": int(ANSWER_S)})
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        engine.dispose()

    try:
        await asyncio.to_thread(ask)
    except SQLAlchemyError as error:
        cure = "scoring goes on without traces; check reward.traces.url and VISION_SR1_TRACES_PASSWORD"
        return Finding("traces", "failed", f"{urlsplit(url).hostname or url}: {str(error).splitlines()[0]}", cure)
    return Finding("traces", "ok", f"{urlsplit(url).hostname} answers")
