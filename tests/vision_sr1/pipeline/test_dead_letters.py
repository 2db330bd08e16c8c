"""What went to the dead letters, inspected and retried through the command line, on a real Redis."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.stream_entries import stream_entries
from vision_sr1.cli.main import app
from vision_sr1.config import Config, load_config
from vision_sr1.streams import Keys, Output, RetryingRedis, Stream, connect
from vision_sr1.streams.embedded import EmbeddedRedis, running_server
from vision_sr1.streams.status import stream_statuses
from vision_sr1.v1 import pipeline_pb2 as pb

KEYS = Keys("run")


@pytest.fixture
def run_file(tmp_path: Path, embedded_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in embedded_redis.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "250")
    (tmp_path / "run.yaml").write_text("{}\n")
    return str(tmp_path / "run.yaml")


async def buried(redis: RetryingRedis, config: Config) -> Stream:
    """Two prompts, one of them among the dead letters with an empty group in its place."""
    stream = Stream(redis, KEYS, "prompts", config.streams, group="actors", consumer="actor-1")
    await stream.open()
    prompt = pb.Prompt(schema_version=1, id="0/7", question="what color?")
    await stream.append([Output("prompts", "0/7", prompt.SerializeToString()), Output("prompts", "0/8", b"")])
    bad, _ = await stream.read(2, 1.0)
    await stream.note_failure(bad, "OSError('no such thing')")
    await stream.dead_letter(bad, "delivered 6 times and never finished")
    await stream.dead_letter(bad, "delivered 7 times and never finished")
    await stream.commit(bad, [Output("scored", "0/7", b"none")])
    return stream


async def test_status_tells_depth_age_consumers_and_the_dead(redis: RetryingRedis, redis_config: Config):
    await buried(redis, redis_config)
    prompts, rollouts, _, scored, _ = await stream_statuses(redis, KEYS)
    assert (prompts.name, prompts.depth, prompts.pending, prompts.dead) == ("prompts", 1, 1, 1)
    assert [(c.name, c.pending) for c in prompts.consumers] == [("actor-1", 1)]
    assert prompts.age_s >= 0
    assert (rollouts.depth, rollouts.consumers, scored.depth) == (0, [], 1)


async def test_a_dead_letter_is_listed_shown_retried_and_dropped(
    redis: RetryingRedis, redis_config: Config, run_file: str
):
    def call(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["streams", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    stream = await buried(redis, redis_config)
    status = await asyncio.to_thread(call, "status", run_file)
    assert "actor-1 (1, idle" in status
    listed = await asyncio.to_thread(call, "dead", "list", run_file)
    assert "prompts/0/7" in listed
    assert "never finished; the last error: OSError('no such thing')" in listed
    assert 'question: "what color?"' in await asyncio.to_thread(call, "dead", "show", "prompts/0/7", run_file)
    await asyncio.to_thread(call, "dead", "retry", "prompts/0/7", run_file)
    assert await items_of(redis, "dead") == []
    # On a slow machine, what the consumer holds may be claimed from it first, as from any that is silent.
    again = None
    while again is None or again.item != "0/7":
        (again,) = await stream.read(1, 10.0)
    assert await stream.commit(again, [Output("scored", "0/7", b"group")]) == 1, "its group is not refused"
    await stream.dead_letter(again, "once more")
    await asyncio.to_thread(call, "dead", "drop", "all", run_file)
    assert await items_of(redis, "dead") == []
    assert "no dead letters" in await asyncio.to_thread(call, "dead", "list", run_file)


async def items_of(redis: RetryingRedis, stream: str) -> list[str]:
    return [fields[b"id"].decode() for fields in await stream_entries(redis, KEYS.stream(stream))]


async def test_a_wrong_name_and_a_run_without_server_are_said(run_file: str, tmp_path: Path, monkeypatch):
    result = await asyncio.to_thread(CliRunner().invoke, app, ["streams", "dead", "show", "prompts/1/1", run_file])
    assert result.exit_code == 1
    assert "no dead letter 'prompts/1/1'" in result.output
    monkeypatch.delenv("VISION_SR1_REDIS_URL")
    result = await asyncio.to_thread(CliRunner().invoke, app, ["streams", "status", run_file, f"run.dir={tmp_path}"])
    assert result.exit_code == 2
    assert "no Redis of the run 'run' is running" in result.output


async def test_the_server_of_a_local_run_is_found_by_its_folder(embedded_redis: EmbeddedRedis, tmp_path: Path):
    found = running_server(tmp_path / "redis")
    assert found is not None
    client = await connect(found)
    assert await client.ping()
    await client.aclose()
    assert (tmp_path / "redis" / "address.json").stat().st_mode & 0o077 == 0
    assert json.loads((tmp_path / "redis" / "address.json").read_text())["url"] == embedded_redis.url
    assert running_server(tmp_path / "elsewhere") is None
    assert load_config(None, environment=embedded_redis.environment).config.streams.url == found.url
