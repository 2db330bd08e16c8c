"""Redis as it is deployed: over TLS, each service a user of its own that may touch only what it works on."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import redis as redis_py
import trustme
from redis.exceptions import NoPermissionError, RedisError

from tests.certificates import issue
from tests.system.conftest import training
from vision_sr1.config import load_config, save_config
from vision_sr1.runtime.ports import free_port
from vision_sr1.streams import Keys

START = Path(__file__).parents[2] / "deploy" / "redis" / "start"
USERS = ("actor", "reward", "learner", "operator")
KEYS = Keys("run")

pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="no redis-server with TLS here: install Debian's package of that name"
)


@dataclass(frozen=True)
class Server:
    """A server, and how its users reach it."""

    port: int
    certificates: Path

    def environment(self, user: str) -> dict[str, str]:
        """As a service of this user has it."""
        ca = self.certificates / "ca.crt"
        return {
            "VISION_SR1_REDIS_URL": f"rediss://{user}@localhost:{self.port}/0?ssl_ca_certs={ca}",
            "VISION_SR1_REDIS_PASSWORD": f"{user}'s own & secret",
        }

    def client(self, user: str) -> redis_py.Redis:
        environment = self.environment(user)
        return redis_py.Redis.from_url(
            environment["VISION_SR1_REDIS_URL"], password=environment["VISION_SR1_REDIS_PASSWORD"]
        )


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(tmp_path: Path, authority: trustme.CA) -> Iterator[Server]:
    certificates, data, port = tmp_path / "tls", tmp_path / "data", free_port()
    issue(certificates, authority, "localhost", "vision-sr1-actor")
    data.mkdir()
    passwords = {f"VISION_SR1_REDIS_{user.upper()}_PASSWORD": f"{user}'s own & secret" for user in USERS}
    options = ["--tls-port", str(port)]
    for option, file in (("cert", "tls.crt"), ("key", "tls.key"), ("ca-cert", "ca.crt")):
        options += [f"--tls-{option}-file", str(certificates / file)]
    process = subprocess.Popen([START, *options], env={**os.environ, **passwords}, stdout=subprocess.DEVNULL, cwd=data)
    found = Server(port, certificates)
    deadline = time.monotonic() + 20
    while True:
        try:
            found.client("operator").ping()
            break
        except RedisError:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
    yield found
    process.terminate()
    process.wait(10)


def test_who_may_do_what(server: Server):
    learner, reward, actor = (server.client(user) for user in ("learner", "reward", "actor"))
    learner.xadd(KEYS.stream("prompts"), {"id": "0/1", "message": b""})
    learner.set(KEYS.blob("f00"), b"image")
    assert actor.get(KEYS.blob("f00")) == b"image"
    actor.xadd(KEYS.stream("rollouts"), {"id": "0/1/0", "message": b""})
    assert reward.xlen(KEYS.stream("rollouts")) == 1
    refused = {
        actor: [
            lambda r: r.set(KEYS.blob("f00"), b"another image"),
            lambda r: r.set(KEYS.published, b"other weights"),
            lambda r: r.set("somebody:else", 1),
            lambda r: r.incr(KEYS.learner),
            lambda r: r.hset(KEYS.partial("0/1"), "0", b"a reward of its own"),
        ],
        reward: [
            lambda r: r.xadd(KEYS.stream("prompts"), {"id": "0/2"}),
            lambda r: r.set(KEYS.published, b"other weights"),
            lambda r: r.eval("return redis.call('GET', KEYS[1])", 1, KEYS.learner),
        ],
        learner: [lambda r: r.get("somebody:else"), lambda r: r.config_set("maxmemory", 1), lambda r: r.flushall()],
        server.client("operator"): [lambda r: r.config_set("maxmemory", 1), lambda r: r.acl_setuser("operator")],
    }
    for client, commands in refused.items():
        for command in commands:
            with pytest.raises(NoPermissionError):
                command(client)
    with pytest.raises(RedisError):
        redis_py.Redis(port=server.port, ssl=True, ssl_ca_certs=str(server.certificates / "ca.crt")).get("anything")


@pytest.mark.full(sibling="tests/system/test_redis.py::test_who_may_do_what")
@pytest.mark.timeout(600)
def test_a_run_needs_no_more_than_its_users_may(
    server: Server, tmp_path: Path, cold_start_model: Path, shapes: dict[str, Path], leftovers: list[psutil.Process]
):
    """All services by themselves, as on several machines; gRPC under mutual TLS too."""
    run = training(tmp_path, cold_start_model, shapes)
    tls = [
        f"tls.{name}={server.certificates / file}" for name, file in (("certificate", "tls.crt"), ("key", "tls.key"))
    ]
    options = [*run.arguments[1:], "learner.batches=2", "learner.evaluate_every=1", f"metrics.actor_port={free_port()}"]
    options += ["tls.enabled=true", f"tls.ca={server.certificates / 'ca.crt'}", *tls, f"reward.port={free_port()}"]
    config = load_config(None, options, environment={}).config
    config.run.path.mkdir(parents=True)
    file = config.run.path / "config.yaml"
    save_config(config, file)
    commands: dict[str, list[str | Path]] = {
        "actor": ["-m", "actors", file, "--id", "actor"],
        "reward": ["-m", "reward_service", file],
        "learner": ["-m", "torch.distributed.run", f"--master-port={free_port()}", "-m", "learner", file],
    }
    (config.run.path / "logs").mkdir()
    processes = {}
    for user, command in commands.items():
        with (config.run.path / "logs" / f"{user}.log").open("wb") as log:
            processes[user] = subprocess.Popen(
                [sys.executable, *command], env={**os.environ, **server.environment(user)}, stdout=log, stderr=log
            )
        leftovers.append(psutil.Process(processes[user].pid))
    assert processes["learner"].wait(400) == 0, run.logs()
    assert httpx.get(f"http://127.0.0.1:{config.metrics.actor_port}/readyz").text == "ok\n"
    for user in ("actor", "reward"):
        processes[user].terminate()
    for user in ("actor", "reward"):
        processes[user].wait(60)
    assert server.client("operator").xlen(KEYS.stream("dead")) == 0
    assert server.client("operator").acl_log() == [], "somebody was refused something"
    assert [line["step"] for line in run.scalars() if "seconds/batch" in line] == [1, 2]
