"""Rollouts per second through the streams and scoring, without generation, beside bare Redis commands.

`python -m bench.streams [--rollouts N] [--replicas R]`: one process writes rollouts with responses of 1 KB as actors
do, R replicas of the reward service's worker score them (parsing, grading with mathruler in processes that are warm, no
re-query for there is no description), one process takes the groups as the learner does. *Bare* moves the same bytes
between as many processes with XADD, XREADGROUP, XACK and nothing else: no scripts, no protobuf, no scoring, no lease.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from vision_sr1.config import Config, load_config
from vision_sr1.runtime.logs import configure_logging
from vision_sr1.streams import Blobs, Keys, Output, RetryingRedis, Stream, connect
from vision_sr1.streams.embedded import EmbeddedRedis
from vision_sr1.v1 import pipeline_pb2 as pb

GROUP_SIZE, RESPONSE_BYTES, AT_ONCE = 8, 1024, 64
KEYS = Keys("bench")
WAIT_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description=__doc__)
    parser.add_argument("--rollouts", type=int, default=16_000, help="default: %(default)s")
    parser.add_argument("--replicas", type=int, default=2, help="of the reward service; default: %(default)s")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as name:
        from vision_sr1.cli.tasks.distributions import TASKS, corpus
        from vision_sr1.cli.tasks.tiny_model import make_tiny_model

        model = Path(name) / "model"
        make_tiny_model(model, corpus(TASKS["shapes"], rows=300))
        rollouts = make_rollouts(model, arguments.rollouts)
        seconds = {}
        for way in ("bare", "streams"):
            with EmbeddedRedis(Path(name) / way) as server:
                options = [f"run.dir={name}", "run.name=bench", f"model.path={model}"]
                config = load_config(None, options, environment=server.environment).config
                seconds[way] = measure(way, config, rollouts, arguments.replicas)
    rates = {way: arguments.rollouts / taken for way, taken in seconds.items()}
    overhead_us = 1e6 * (seconds["streams"] - seconds["bare"]) / arguments.rollouts
    size = sum(map(len, rollouts)) / len(rollouts)
    print(f"{'':>18} {'rollouts/s':>12} {'µs a rollout':>14}   ({size:.0f} bytes each)")
    for way, rate in rates.items():
        print(f"{way:>18} {rate:12.0f} {1e6 / rate:14.0f}")
    result = {
        "name": "streams_rollouts_per_second",
        "value": round(rates["streams"]),
        "unit": "rollouts/s",
        "baseline": round(rates["bare"]),
        "ratio": round(rates["streams"] / rates["bare"], 3),
        "overhead_us": round(overhead_us),
    }
    print(json.dumps(result))


def make_rollouts(model: Path, count: int) -> list[bytes]:
    """Serialized rollouts, GROUP_SIZE of each prompt; half of their answers are right."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    words = "top left square red ; bottom right circle blue ; " * (RESPONSE_BYTES // 48)
    responses = [tokenizer(f"<think>{words}</think> \\boxed{{{answer}}}").input_ids for answer in ("red", "blue")]
    messages = []
    for index in range(count):
        ids = responses[index % 2]
        prompt = pb.Prompt(
            schema_version=1,
            id=f"0/{index // GROUP_SIZE}",
            run="bench",
            purpose=pb.PURPOSE_TRAIN,
            question="what color is the square",
            answer="red",
            data_source="shapes",
            group_size=GROUP_SIZE,
            sampling=pb.SamplingParams(temperature=1.0, top_p=1.0, max_tokens=512),
        )
        sample = pb.Sample(
            prompt_token_ids=range(40),
            response_token_ids=ids,
            logprobs=[-0.5] * len(ids),
            versions=[pb.VersionSpan(policy_version=0, end=len(ids))],
            finish_reason="stop",
        )
        rollout = pb.Rollout(
            schema_version=1,
            id=f"{prompt.id}/{index % GROUP_SIZE}",
            sample_index=index % GROUP_SIZE,
            prompt=prompt,
            sample=sample,
            actor_id="actor-0",
            finished_at=time.time(),
        )
        messages.append(rollout.SerializeToString())
    return messages


def measure(way: str, config: Config, rollouts: list[bytes], replicas: int) -> float:
    """Seconds from the first rollout written to the last group taken."""
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Barrier(replicas + 3), spawn.Event()
    roles: list[tuple[Any, ...]] = [(_WRITE[way], rollouts), (_TAKE[way], len(rollouts))]
    roles += [(_SCORE[way], len(rollouts))] * replicas
    processes = [spawn.Process(target=_play, args=(config, ready, done, *role)) for role in roles]
    for process in processes:
        process.start()
    try:
        ready.wait(WAIT_S)
        started = time.perf_counter()
        if not done.wait(WAIT_S):
            raise SystemExit(f"{way}: the rollouts did not come through in {WAIT_S:.0f} s")
        return time.perf_counter() - started
    finally:
        for process in processes:
            process.kill()


def _play(config: Config, ready: Any, done: Any, role: Any, work: Any) -> None:
    configure_logging(config, "bench")

    async def run() -> None:
        redis = await connect(config.streams)
        await role(config, redis, ready, done, work)

    asyncio.run(run())


async def _in_parallel(send: Any, items: list[Any]) -> None:
    """AT_ONCE at a time, as an actor has so many prompts in flight."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await send(item)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def _write(config: Config, redis: RetryingRedis, ready: Any, _: Any, rollouts: list[bytes]) -> None:
    stream = Stream(redis, KEYS, "rollouts", config.streams, group="reward", consumer="writer")
    await stream.open()
    ready.wait(WAIT_S)
    numbered = [(f"0/{index // GROUP_SIZE}/{index % GROUP_SIZE}", data) for index, data in enumerate(rollouts)]
    await _in_parallel(lambda item: stream.append([Output("rollouts", *item)]), numbered)


async def _score(config: Config, redis: RetryingRedis, ready: Any, _: Any, __: int) -> None:
    from reward_service.scoring import open_scorer
    from reward_service.worker import ScoringWorker
    from vision_sr1.pipeline.fleet import Fleet

    consumer = f"replica-{os.getpid()}"
    rollouts, assembled = (
        Stream(redis, KEYS, name, config.streams, group="reward", consumer=consumer)
        for name in ("rollouts", "assembled")
    )
    await rollouts.open()
    async with open_scorer(config, Fleet(redis, KEYS), Blobs(redis, KEYS, config.streams.image_ttl_s)) as scorer:
        await scorer.score(pb.Rollout.FromString(make_rollouts(Path(config.model.path), 2)[1]))
        worker = ScoringWorker(config, rollouts, assembled, scorer, lambda scored: None)  # noqa: ARG005
        ready.wait(WAIT_S)
        await worker.run(asyncio.Event())


async def _take(config: Config, redis: RetryingRedis, ready: Any, done: Any, rollouts: int) -> None:
    stream = Stream(redis, KEYS, "scored", config.streams, group="learner", consumer="learner", claims=False)
    await stream.open()
    ready.wait(WAIT_S)
    taken = 0
    while taken < rollouts:
        entries = await stream.read(AT_ONCE, 0.5)
        for entry in entries:
            taken += len(pb.ScoredGroup.FromString(entry.message).rollouts)
        await stream.acknowledge(entries)
    done.set()


async def _write_bare(config: Config, _: RetryingRedis, ready: Any, __: Any, rollouts: list[bytes]) -> None:
    bare = _bare(config)
    ready.wait(WAIT_S)
    await _in_parallel(lambda data: bare.xadd("rollouts", {"message": data}), rollouts)


async def _score_bare(config: Config, _: RetryingRedis, ready: Any, __: Any, ___: int) -> None:
    bare = _bare(config)
    await _open_bare(bare, "rollouts")
    ready.wait(WAIT_S)
    while True:
        entries = await _read_bare(bare, "rollouts", f"replica-{os.getpid()}")

        async def hand_on(entry: Any) -> None:
            await bare.xadd("scored", {"message": entry[1][b"message"]})
            await bare.xack("rollouts", "bench", entry[0])

        await asyncio.gather(*(hand_on(entry) for entry in entries))


async def _take_bare(config: Config, _: RetryingRedis, ready: Any, done: Any, rollouts: int) -> None:
    bare = _bare(config)
    await _open_bare(bare, "scored")
    ready.wait(WAIT_S)
    taken = 0
    while taken < rollouts:
        entries = await _read_bare(bare, "scored", "learner")
        taken += len(entries)
        if entries:
            await bare.xack("scored", "bench", *(entry_id for entry_id, _ in entries))
    done.set()


def _bare(config: Config) -> Any:
    password = config.streams.password
    return Redis.from_url(config.streams.url or "", password=password.get_secret_value() if password else None)


async def _open_bare(bare: Redis, stream: str) -> None:
    from redis.exceptions import ResponseError

    try:
        await bare.xgroup_create(stream, "bench", id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


async def _read_bare(bare: Any, stream: str, consumer: str) -> list[Any]:
    reply = await bare.xreadgroup("bench", consumer, {stream: ">"}, count=AT_ONCE, block=500)
    found: list[Any] = (
        next(iter(reply.values()))[0] if isinstance(reply, dict) and reply else reply[0][1] if reply else []
    )
    return found


_WRITE = {"streams": _write, "bare": _write_bare}
_SCORE = {"streams": _score, "bare": _score_bare}
_TAKE = {"streams": _take, "bare": _take_bare}


if __name__ == "__main__":
    main()
