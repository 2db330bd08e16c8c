"""Replicas of the reward service as processes."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from transformers import AutoTokenizer

from reward_service.store import TraceFilter, TraceReader, open_store
from tests.reward_service.test_scoring import GROUP_SIZE, rollout
from tests.stream_entries import stream_entries
from vision_sr1.client import Client
from vision_sr1.config import Config, TracesConfig, load_config, save_config
from vision_sr1.runtime.ports import free_port
from vision_sr1.streams import Keys, Output, Stream, connect
from vision_sr1.streams.embedded import EmbeddedRedis
from vision_sr1.v1 import pipeline_pb2 as pb

pytestmark = pytest.mark.slow

RUN = "run"


@contextlib.contextmanager
def replicas(
    folder: Path, server: EmbeddedRedis, count: int, *overrides: str
) -> Iterator[tuple[Config, list[str], Path]]:
    """So many processes: the configuration, their addresses, and the log that they share."""
    config = load_config(None, [f"run.dir={folder}", *overrides], environment=server.environment).config
    save_config(config, folder / "config.yaml")
    log = folder / "replicas.log"
    ports = [free_port() for _ in range(count)]
    processes = []
    with log.open("ab") as output:
        for port in ports:
            command = [sys.executable, "-m", "reward_service", str(folder / "config.yaml"), f"reward.port={port}"]
            environment = {**os.environ, **server.environment, "HF_HUB_OFFLINE": "1"}
            processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
    try:
        for port in ports:
            wait_for(f"http://127.0.0.1:{port}/healthz", log)
        yield config, [f"http://127.0.0.1:{port}" for port in ports], log
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)


def wait_for(url: str, log: Path) -> None:
    for _ in range(600):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail(log.read_text()[-3000:])


async def asked(url: str) -> str:
    async with httpx.AsyncClient(timeout=20) as client:
        return (await client.get(url)).text


async def scored_groups(config: Config, groups: int, model: Path) -> list[pb.ScoredGroup]:
    """Puts whole groups of rollouts in, and takes what comes out."""
    redis = await connect(config.streams)
    tokenizer = AutoTokenizer.from_pretrained(model)
    stream = Stream(redis, Keys(RUN), "rollouts", config.streams, group="reward", consumer="test")
    outputs = []
    for group in range(groups):
        for index in range(GROUP_SIZE):
            made = rollout(tokenizer, index)
            made.prompt.id = f"0/{group}"
            made.id = f"0/{group}/{index}"
            outputs.append(Output("rollouts", made.id, made.SerializeToString()))
    await stream.append(outputs)
    for _ in range(600):
        found = await stream_entries(redis, Keys(RUN).stream("scored"))
        if len(found) >= groups:
            break
        await asyncio.sleep(0.1)
    await redis.aclose()
    return [pb.ScoredGroup.FromString(fields[b"message"]) for fields in found]


async def test_two_replicas_share_groups_and_either_shows_all_traces(
    tmp_path: Path, embedded_redis: EmbeddedRedis, tiny_model: Path, postgres
):
    url = f"postgresql+psycopg://postgres@/postgres?host={postgres.get_uri().partition('?host=')[2]}"
    options = [f"model.path={tiny_model}", f"sampling.group_size={GROUP_SIZE}", "reward.rollouts_in_flight=8"]
    with replicas(tmp_path, embedded_redis, 2, *options, f"reward.traces.url={url}") as (config, urls, _):
        groups = await scored_groups(config, 40, tiny_model)
        assert sorted(group.id for group in groups) == sorted(f"0/{index}" for index in range(40))
        assert all([r.rollout.sample_index for r in group.rollouts] == [0, 1, 2] for group in groups)
        for address in urls:
            with Client(address) as client:
                for _ in range(100):
                    if client.runs() and client.runs()[0].rollouts == 40 * GROUP_SIZE:
                        break
                    await asyncio.sleep(0.1)
                assert len(list(client.traces(limit=200))) == 40 * GROUP_SIZE
                assert client.trace("0/7/1").rewards["accuracy"].explanation == "mathruler: 'red' is 'red'"
        handled = [await asked(f"{address}/metrics") for address in urls]
        counts = [
            float(line.rpartition(" ")[2])
            for text in handled
            for line in text.splitlines()
            if line.startswith('vision_sr1_stream_entries_total{outcome="handled"')
        ]
        assert len(counts) == 2
        assert sum(counts) == 40 * GROUP_SIZE
        assert min(counts) > 0


async def test_the_stores_file_alone_is_whole_once_its_service_has_ended(
    tmp_path: Path, embedded_redis: EmbeddedRedis, tiny_model: Path
):
    options = [f"model.path={tiny_model}", f"sampling.group_size={GROUP_SIZE}"]
    with replicas(tmp_path, embedded_redis, 1, *options) as (config, (url,), log):
        await scored_groups(config, 2, tiny_model)
        with Client(url) as client:
            for _ in range(100):
                if len(list(client.traces())) == 2 * GROUP_SIZE:
                    break
                await asyncio.sleep(0.1)
    file = config.run.path / "traces.sqlite"
    assert not file.with_name("traces.sqlite-wal").exists(), log.read_text()
    copy = shutil.copy(file, tmp_path / "copy.sqlite")
    reader = TraceReader(open_store(TracesConfig(), f"sqlite:///{copy}", read_only=True))
    assert len(reader.traces(TraceFilter(run=config.run.name), None, 100)[0]) == 2 * GROUP_SIZE
    reader.close()


async def test_a_store_that_is_out_loses_traces_only_and_says_so(
    tmp_path: Path, embedded_redis: EmbeddedRedis, tiny_model: Path
):
    options = [f"model.path={tiny_model}", "reward.traces.url=postgresql+psycopg://nobody@127.0.0.1:1/none"]
    with replicas(tmp_path, embedded_redis, 1, *options) as (config, (url,), log):
        groups = await scored_groups(config, 2, tiny_model)
        assert [len(group.rollouts) for group in groups] == [GROUP_SIZE] * 2
        assert "the trace store does not answer; scoring goes on" in await asked(f"{url}/v1/traces")
        assert "vision_sr1_reward_trace_store_up 0.0" in await asked(f"{url}/metrics")
    text = log.read_text()
    assert "trace_store_down_at_start" in text
    assert "traces_dropped_at_exit" in text
