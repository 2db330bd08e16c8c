"""What the reward service adds to a rollout, and how long its traces take to read.

`python -m bench.reward [--rollouts N] [--traces N] [--requests N] [--folder F]`. First: rollouts with responses of 1 KB
are scored one after the other (parsing, every built-in reward, grading; no re-query for there is no description), with
and without their traces being written, and the times per rollout compared. Then: a store of a million traces is made
(some minutes and GB, in F), a service started over it, and pages of `GET /v1/traces` are requested over HTTP, 2,000 in
turn by everything that traces can be searched for.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench.streams import make_rollouts
from reward_service.store import TraceWriter, open_store
from vision_sr1.config import Config, load_config, save_config
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.runtime.logs import configure_logging
from vision_sr1.runtime.ports import free_port
from vision_sr1.streams import Blobs, Keys, connect
from vision_sr1.streams.embedded import EmbeddedRedis
from vision_sr1.v1 import pipeline_pb2 as pb

SOURCES = [f"source-{number}" for number in range(23)]
VERSIONS = 250
WORDS = [f"word{number}" for number in range(20)]
AT_ONCE = 2000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reward", description=__doc__)
    parser.add_argument("--rollouts", type=int, default=4000, help="at least 2; default: %(default)s")
    parser.add_argument("--traces", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=2000, help="at least one of each kind; default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where the store is made; default: the system's temporary folder")
    arguments = parser.parse_args()
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        from vision_sr1.cli.tasks.distributions import TASKS, corpus
        from vision_sr1.cli.tasks.tiny_model import make_tiny_model

        folder = Path(name)
        make_tiny_model(folder / "model", corpus(TASKS["shapes"], rows=300))
        options = [f"run.dir={folder}", "run.name=bench", f"model.path={folder / 'model'}", "metrics.log_level=error"]
        options += [f"reward.port={free_port()}", "reward.api.requests_per_minute=1000000"]
        config = load_config(None, options, environment={}).config
        configure_logging(config, "bench")
        config.run.path.mkdir()
        save_config(config, config.run.path / "config.yaml")
        rollouts = [pb.Rollout.FromString(data) for data in make_rollouts(folder / "model", arguments.rollouts)]
        added = asyncio.run(added_latency(config, rollouts, folder))
        print_latencies(added)
        (config.run.path / "traces.sqlite").unlink()
        filled = time.perf_counter()
        fill(config, arguments.traces)
        size = sum(file.stat().st_size for file in config.run.path.glob("traces.sqlite*")) / 1e9
        print(f"{arguments.traces} traces written in {time.perf_counter() - filled:.0f} s, {size:.1f} GB")
        reading = read_latency(config, arguments.requests)
        print_latencies(reading)
    everything = np.concatenate(list(reading.values()))
    result = {
        "name": "reward_traces_p99",
        "value": round(float(np.quantile(everything, 0.99)), 1),
        "unit": "ms",
        "traces": arguments.traces,
        "scoring_ms": round(float(np.median(added["scored"])), 3),
        "scoring_and_trace_ms": round(float(np.median(added["scored, traces written"])), 3),
    }
    print(json.dumps(result))


async def added_latency(config: Config, rollouts: list[pb.Rollout], folder: Path) -> dict[str, Any]:
    """Milliseconds of each rollout, by whether traces are written beside."""
    from reward_service.scoring import open_scorer  # not above: the graders' process imports this module too

    times: dict[str, list[float]] = {}
    with EmbeddedRedis(folder / "redis") as server:
        redis = await connect(load_config(None, [], environment=server.environment).config.streams)
        keys = Keys("bench")
        async with open_scorer(config, Fleet(redis, keys), Blobs(redis, keys, 1)) as scorer:
            store = open_store(config.reward.traces, config.traces_url)
            writer = TraceWriter(store, None, config.reward.traces, {})
            await scorer.score(rollouts[0])  # starts the graders' process
            await scorer.score(rollouts[1])
            for name, record in (("scored", _forget), ("scored, traces written", writer.record)):
                stop = asyncio.Event()
                writing = asyncio.create_task(writer.run(stop, drain_s=60))
                times[name] = []
                for rollout in rollouts:
                    started = time.perf_counter()
                    record(await scorer.score(rollout))
                    await asyncio.sleep(0)
                    times[name].append(1e3 * (time.perf_counter() - started))
                stop.set()
                await writing
            store.dispose()
        await redis.aclose()
    return {name: np.array(values) for name, values in times.items()}


def _forget(_: pb.ScoredRollout) -> None: ...


def fill(config: Config, count: int) -> None:
    """Writes traces of 8 answers a group with texts of a kilobyte."""
    rng = random.Random(0)
    store = open_store(config.reward.traces, config.traces_url)
    writer = TraceWriter(store, None, config.reward.traces, {})
    per_version = max(1, count // VERSIONS)
    for first in range(0, count, AT_ONCE):
        writer._insert([_trace(index, rng, per_version) for index in range(first, min(first + AT_ONCE, count))], [])
    store.dispose()


def _trace(index: int, rng: random.Random, per_version: int) -> pb.ScoredRollout:
    group, place = divmod(index, 8)
    version = index // per_version
    text = " ".join(rng.choices(WORDS, k=160)) + f" item{rng.randrange(5000)}"
    prompt = pb.Prompt(
        id=f"0/{group}", run="bench", purpose=pb.PURPOSE_TRAIN, question=f"what is in {group}", answer="red"
    )
    prompt.data_source = SOURCES[group % len(SOURCES)]
    sample = pb.Sample(
        response_token_ids=[1, 2, 3], finish_reason="stop", versions=[pb.VersionSpan(policy_version=version, end=3)]
    )
    accuracy, visual = float(rng.random() < 0.7), float(rng.random() < 0.97)  # shortcuts are rare
    return pb.ScoredRollout(
        rollout=pb.Rollout(id=f"0/{group}/{place}", sample_index=place, prompt=prompt, sample=sample),
        response=text,
        rewards={"format": 1.0, "accuracy": accuracy, "visual": visual},
    )


def read_latency(config: Config, requests: int) -> dict[str, Any]:
    """Milliseconds of each request over HTTP, by what it asks for; every kind pages into the past as readers do."""
    rng = random.Random(1)
    kinds: dict[str, Any] = {
        "newest": dict,
        "a version": lambda: dict.fromkeys(("min_version", "max_version"), rng.randrange(VERSIONS)),
        "ten versions": lambda: dict(zip(("min_version", "max_version"), _ten_versions(rng), strict=True)),
        "a data source": lambda: {"data_source": rng.choice(SOURCES)},
        "shortcuts": lambda: {"pattern": "shortcut"},
        "wrong answers of a source": lambda: {"data_source": rng.choice(SOURCES), "max_accuracy": 0},
        "a rare word": lambda: {"q": f"item{rng.randrange(5000)}"},
        "common words": lambda: {"q": " ".join(rng.sample(WORDS, 2))},
        "shortcuts with a word": lambda: {"pattern": "shortcut", "q": rng.choice(WORDS)},
    }
    url = f"http://127.0.0.1:{config.reward.port}"
    command = [sys.executable, "-m", "reward_service", str(config.run.path / "config.yaml"), "--read-only"]
    times: dict[str, list[float]] = {name: [] for name in kinds}
    service = subprocess.Popen(command)
    try:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            _wait(client)
            cursors: dict[str, str | None] = dict.fromkeys(kinds)
            for number in range(max(requests, len(kinds))):
                name = list(kinds)[number % len(kinds)]
                asked = kinds[name]()
                if rng.random() < 0.3 and cursors[name]:
                    asked["cursor"] = cursors[name]
                started = time.perf_counter()
                reply = client.get("/v1/traces", params={"run": "bench", "limit": 50, **asked})
                times[name].append(1e3 * (time.perf_counter() - started))
                reply.raise_for_status()
                cursors[name] = reply.json()["next_cursor"]
    finally:
        service.terminate()
        service.wait(30)
    return {name: np.array(values) for name, values in times.items()}


def _ten_versions(rng: random.Random) -> tuple[int, int]:
    first = rng.randrange(VERSIONS)
    return first, first + 9


def _wait(client: httpx.Client) -> None:
    for _ in range(600):
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit("the service did not come up")


def print_latencies(times: dict[str, Any]) -> None:
    """Median, 99th percentile and greatest."""
    print(f"{'':>28} {'p50 ms':>9} {'p99 ms':>9} {'max ms':>9}")
    for name, values in times.items():
        print(f"{name:>28} {np.median(values):9.2f} {np.quantile(values, 0.99):9.2f} {values.max():9.2f}")


if __name__ == "__main__":
    main()
