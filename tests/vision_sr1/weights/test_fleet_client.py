"""The calls of an update, to servers that fail."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import pytest

from vision_sr1.config import load_config
from vision_sr1.v1 import actor_pb2, actor_pb2_grpc
from vision_sr1.v1.pipeline_pb2 import ActorInfo
from vision_sr1.weights.fleet_client import ActorUpdateError, FleetClient

LATE_S = 0.3
GROUP = {"rank_offset": 1, "master_address": "127.0.0.1", "master_port": 1, "world_size": 3}


class Server(actor_pb2_grpc.ActorServicer):
    """Joins no group: it fails at once, late, or is still at it."""

    def __init__(self, answers: str) -> None:
        self._answers = answers

    def InitWeightTransfer(self, _: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        time.sleep(LATE_S if self._answers == "late" else 10 * LATE_S)
        if self._answers == "late":
            context.abort(grpc.StatusCode.ABORTED, "no communicator")
        return actor_pb2.InitWeightTransferResponse()


@pytest.fixture
def client() -> Iterator[FleetClient]:
    """Of an actor that takes its time, and one that fails."""
    servers, actors = [], []
    for name in ("slow", "late"):
        server = grpc.server(ThreadPoolExecutor(2))
        actor_pb2_grpc.add_ActorServicer_to_server(Server(name), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        actors.append(ActorInfo(id=name, address=f"127.0.0.1:{port}", world_size=1))
    client = FleetClient(actors, 1, load_config(None, [], environment={}).config)
    yield client
    client.close()
    for server in servers:
        server.stop(None)


def test_the_actor_that_failed_is_known_although_its_transfer_ended_before_it_said_so(client: FleetClient):
    assert client.failed_actor(5.0) is None, "no call is under way"

    def join() -> None:
        with suppress(ActorUpdateError):
            client.init_weight_transfer_engine(GROUP)

    joining = threading.Thread(target=join)
    joining.start()
    time.sleep(LATE_S / 3)
    assert client.failed_actor(0.01) is None, "it has not failed yet"
    assert client.failed_actor(20 * LATE_S) == "late"
    joining.join()
    assert client.failed_actor(0.0) == "late"
