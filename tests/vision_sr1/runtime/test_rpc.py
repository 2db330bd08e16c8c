"""gRPC under mutual TLS, with certificates made here."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.certificates import issue
from vision_sr1.config import ConfigError, TlsConfig
from vision_sr1.runtime import rpc

NAME = TlsConfig().server_name


def issued(folder: Path, authority: trustme.CA, name: str = NAME) -> TlsConfig:
    """A service's configuration with a certificate by this authority."""
    issue(folder, authority, name)
    return TlsConfig(
        enabled=True, certificate=folder / "tls.crt", key=folder / "tls.key", ca=folder / "ca.crt", server_name=NAME
    )


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@contextlib.asynccontextmanager
async def server(tls: TlsConfig) -> AsyncIterator[str]:
    serving = grpc.aio.server(options=rpc.SERVER)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), serving)
    port = rpc.listen(serving, "127.0.0.1:0", tls)
    await serving.start()
    yield f"127.0.0.1:{port}"
    await serving.stop(None)


async def answer(channel: grpc.aio.Channel) -> str:
    """What a health check of the server says, or why there is none."""
    async with channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


async def test_both_sides_show_a_certificate_of_one_authority(tmp_path: Path, authority: trustme.CA):
    tls = issued(tmp_path / "server", authority)
    client = issued(tmp_path / "client", authority, "vision-sr1-learner")
    stranger = issued(tmp_path / "stranger", trustme.CA(), NAME)
    knows_server = stranger.model_copy(update={"ca": tls.ca})
    async with server(tls) as address:
        assert await answer(rpc.aio_channel(address, client)) == "OK"
        assert await asyncio.to_thread(checked, address, client) == "OK"
        assert await answer(rpc.aio_channel(address, stranger)) == "UNAVAILABLE"
        assert await answer(rpc.aio_channel(address, knows_server)) == "UNAVAILABLE"
        assert await answer(rpc.aio_channel(address, TlsConfig())) == "UNAVAILABLE"
        other_name = client.model_copy(update={"server_name": "somebody-else"})
        assert await answer(rpc.aio_channel(address, other_name)) == "UNAVAILABLE"


def checked(address: str, tls: TlsConfig) -> str:
    with rpc.channel(address, tls) as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    return "OK"


@pytest.mark.usefixtures("dead_proxy")
async def test_no_proxy_is_used():
    async with server(TlsConfig()) as address:
        assert await answer(rpc.aio_channel(address, TlsConfig())) == "OK"
        assert await asyncio.to_thread(checked, address, TlsConfig()) == "OK"


async def test_a_renewed_certificate_is_taken_up_by_a_server_that_runs(tmp_path: Path, authority: trustme.CA):
    tls = issued(tmp_path / "server", authority)
    async with server(tls) as address:
        renewed = trustme.CA()
        issued(tmp_path / "server", renewed)
        client = issued(tmp_path / "client", renewed, "vision-sr1-learner")
        assert await answer(rpc.aio_channel(address, client)) == "OK"


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    tls = TlsConfig(enabled=True, ca=tmp_path / "ca.crt")
    with pytest.raises(ConfigError, match=r"tls\.ca: .*ca\.crt cannot be read \(No such file or directory\): mount"):
        rpc.channel("127.0.0.1:1", tls)
