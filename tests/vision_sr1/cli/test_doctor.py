"""The doctor, on real servers that are well, ill or not there."""

import asyncio
import datetime
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme
from pydantic import SecretStr
from typer.testing import CliRunner

from reward_service.api import ApiContext, create_app
from tests.certificates import issue
from tests.reward_service.conftest import Store
from tests.reward_service.serving import serving
from tests.reward_service.test_store import scored, write
from vision_sr1.cli import checks, doctor
from vision_sr1.cli.checks import Finding
from vision_sr1.cli.main import app
from vision_sr1.config import Config, ConfigError, load_config
from vision_sr1.models.check import parameters_of
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.pipeline.wire import SCHEMA_VERSION
from vision_sr1.runtime.ports import free_port
from vision_sr1.streams import Keys, Output, RetryingRedis, Stream, connect
from vision_sr1.streams.embedded import EmbeddedRedis
from vision_sr1.v1.pipeline_pb2 import ActorInfo, PublishedWeights

KEYS = Keys("run")


@pytest.fixture
async def redis(redis_config: Config):
    client = await connect(redis_config.streams)
    yield client
    await client.aclose()


def local(tmp_path: Path, *options: str) -> Config:
    return load_config(None, [f"run.dir={tmp_path}", *options], environment={}).config


def test_versions_are_those_of_the_lock():
    (finding,) = doctor.versions()
    assert finding.state == "ok", finding.said


def test_storage_is_written_to(tmp_path: Path):
    assert checks.storage(local(tmp_path), "rl").state == "ok"
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"run\.dir: .*/file/run cannot be written \(Not a directory\)"):
        checks.storage(local(tmp_path, f"run.dir={tmp_path / 'file'}"), "rl")


def test_room_for_checkpoints_is_looked_for(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    config = local(tmp_path, f"model.path={tiny_model}", "learner.keep_checkpoints=3", "model.dtype=float32")
    parameters = parameters_of(str(tiny_model))
    assert parameters is not None
    for free, state in ((65 * parameters, "ok"), (63 * parameters, "warning")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert checks.storage(config, "rl").state == state
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=15 * parameters))
    with pytest.raises(ConfigError, match=r"run\.dir: .* a checkpoint takes about .*: free space, or choose another"):
        checks.storage(config, "rl")


def test_a_device_that_is_not_there_and_a_model_that_is_none(tmp_path: Path, tiny_model: Path):
    import torch

    found = {one.check: one for one in checks.findings(local(tmp_path, "actors.device=cuda", f"model.path={tmp_path}"))}
    assert found["GPU"].state == ("warning" if torch.cuda.is_available() else "failed")
    assert "is not a model" in found["files"].said
    assert "model" not in found, "told once"
    config = local(
        tmp_path, f"model.path={tiny_model}", "model.max_model_len=512", "model.dtype=float32", "actors.device=cpu"
    )
    assert {one.state for one in checks.findings(config)} == {"ok"}


def test_float32_on_gpus_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("visible_gpus", "actors_use_gpus"):
        monkeypatch.setattr(checks, name, lambda *_: ["0", "1"])
    finding = checks.gpus(local(tmp_path, "actors.device=cuda", "model.dtype=float32"), "rl")
    assert (finding.state, finding.cure) == ("warning", "set model.dtype: bfloat16")
    assert checks.gpus(local(tmp_path, "actors.device=cuda", "model.dtype=bfloat16"), "rl").state == "ok"


def test_a_certificate_is_looked_at_before_it_fails(tmp_path: Path):
    authority = trustme.CA()
    issue(tmp_path, authority, "vision-sr1-actor")
    files = [("certificate", "tls.crt"), ("key", "tls.key"), ("ca", "ca.crt")]
    config = local(tmp_path, "tls.enabled=true", *(f"tls.{name}={tmp_path / file}" for name, file in files))
    assert checks.certificate(config, "rl").state == "ok"
    for days in (-1, 5):
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        short = authority.issue_cert("vision-sr1-actor", not_after=until)
        config.tls.certificate.write_bytes(short.cert_chain_pems[0].bytes())
        config.tls.key.write_bytes(short.private_key_pem.bytes())
        if days > 0:
            assert checks.certificate(config, "rl").state == "warning"
        else:
            with pytest.raises(ConfigError, match="-1 days left; renew it"):
                checks.certificate(config, "rl")
    config.tls.key.write_bytes(trustme.CA().issue_cert("other").private_key_pem.bytes())
    with pytest.raises(ConfigError, match="PEM files that belong together"):
        checks.certificate(config, "rl")


@pytest.mark.slow
async def test_redis_that_would_forget_is_found(redis: RetryingRedis):
    assert (await doctor.persistence(redis)).state == "ok"
    assert (await doctor.clock(redis)).state == "ok"
    for name, value, usual, cure in (
        ("maxmemory-policy", "allkeys-lru", "noeviction", "set maxmemory-policy noeviction"),
        ("appendonly", "no", "yes", "set appendonly yes"),
    ):
        await redis.config_set(name, value)
        finding = await doctor.persistence(redis)
        assert finding.state == "failed"
        assert cure in finding.cure
        await redis.config_set(name, usual)


async def test_dead_letters_and_actors_that_do_not_answer_are_found(redis: RetryingRedis, redis_config: Config):
    assert (await doctor.dead_letters(redis, KEYS)).state == "ok"
    assert (await doctor.actors(redis, KEYS, redis_config)).said == "none announces itself"
    stream = Stream(redis, KEYS, "prompts", redis_config.streams, group="actors", consumer="one")
    await stream.open()
    await stream.append([Output("prompts", "0/1", b"")])
    (entry,) = await stream.read(1, 1.0)
    await stream.dead_letter(entry, "broken")
    assert "1 dead letters" in (await doctor.dead_letters(redis, KEYS)).said
    fleet, port = Fleet(redis, KEYS), free_port()
    await fleet.publish(PublishedWeights(schema_version=SCHEMA_VERSION, policy_version=3))
    address = f"127.0.0.1:{port}"
    actor = ActorInfo(schema_version=SCHEMA_VERSION, id="actor-0", address=address, policy_version=3)
    await fleet.announce(actor, 60.0)
    finding = await doctor.actors(redis, KEYS, redis_config)
    assert finding.state == "failed"
    assert f"actor-0 at {address}: UNAVAILABLE" in finding.said
    await fleet.announce(ActorInfo(schema_version=99, id="actor-1", address=address), 60.0)
    finding = await doctor._bounded("actors", lambda: doctor.actors(redis, KEYS, redis_config))
    assert "WireError" in finding.said


@pytest.mark.usefixtures("dead_proxy")
async def test_an_api_that_refuses_the_token_is_found(tmp_path: Path):
    config = local(tmp_path, f"reward.port={free_port()}")
    finding = await doctor.api(config)
    assert (finding.state, finding.said) == (
        "warning",
        f"nothing listens at http://127.0.0.1:{config.reward.port}: the reward service is not started",
    )
    config.reward.api.token = SecretStr("right")
    store = Store(f"sqlite:///{tmp_path}/traces.sqlite")
    async with serving(create_app(ApiContext(config=config, reader=store.reader))) as url:
        asking = config.model_copy(deep=True)
        asking.reward.port = int(url.rpartition(":")[2])
        assert (await doctor.api(asking)).state == "ok"
        await write(store, scored(0, run=config.run.name))
        assert (await doctor.api(asking)).state == "ok"
        asking.run.name = "mine"
        assert (await doctor.api(asking)).said.endswith(f"is the API of the run {config.run.name!r}, not of 'mine'")
        asking.reward.api.token = SecretStr("wrong")
        assert (await doctor.api(asking)).said.endswith("refuses the token")
    store.engine.dispose()


async def test_a_run_that_was_not_started_needs_no_redis(tmp_path: Path):
    (finding,) = [finding async for finding in doctor._on_redis(local(tmp_path))]
    assert (finding.state, finding.said) == (
        "ok",
        f"none runs for this run; `vision-sr1 train` starts one in {tmp_path}/run/redis",
    )


async def test_a_trace_store_that_is_down_is_found(tmp_path: Path):
    assert (await doctor.traces(local(tmp_path))).state == "ok"
    down = local(tmp_path, f"reward.traces.url=postgresql+psycopg://me@127.0.0.1:{free_port()}/traces")
    finding = await doctor.traces(down)
    assert finding.state == "failed"
    assert finding.said.startswith("127.0.0.1: ")


@pytest.mark.slow
async def test_the_command_says_all_and_fails_where_something_does(
    tmp_path: Path, tiny_model: Path, embedded_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
):
    for name, value in embedded_redis.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "run.yaml").write_text(f"model: {{path: {tiny_model}, max_model_len: 512}}\n")
    command = ["doctor", str(tmp_path / "run.yaml"), f"run.dir={tmp_path}", f"reward.port={free_port()}"]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in result.output.splitlines() if line[0] != " "] == [
        *("versions", "files", "GPU", "ports", "access", "trackers", "storage", "certificate", "data", "model"),
        *("Redis", "clock", "streams", "actors", "API", "traces"),
    ]
    embedded_redis.process.kill()
    embedded_redis.process.wait()
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert result.exit_code == 1
    assert "failed   Redis" in result.output
    assert "correct VISION_SR1_REDIS_URL" in result.output


async def test_a_check_that_hangs_ends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "ANSWER_S", 0.05)

    async def hangs() -> Finding:
        await asyncio.sleep(3600)
        return Finding("it", "ok", "")

    assert (await doctor._bounded("it", hangs)).state == "failed"


@pytest.mark.parametrize("uri", ["http://[::1", "http://host:port"])
def test_a_trackers_server_that_is_no_url_is_told(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(checks, "check_trackers", lambda _: None)
    with pytest.raises(ConfigError, match=rf"mlflow's server {re.escape(uri)} does not answer \(.*MLFLOW_TRACKING_URI"):
        checks.trackers(local(tmp_path, "metrics.trackers=[mlflow]"), "rl")
