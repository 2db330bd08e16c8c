import socket

import pytest

from vision_sr1.config import ConfigError
from vision_sr1.runtime.ports import Ports, free_port


def listen(port: int) -> socket.socket:
    """As uvicorn, prometheus-client and torchrun do."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


def test_a_port_that_is_kept_is_given_to_nobody_else_until_it_is_let_go():
    with Ports() as first:
        port = first.keep()
        with Ports() as second:
            assert second.keep(preferred=port) != port
    with Ports() as third:
        assert third.keep(preferred=port) == port


def test_a_server_can_listen_on_a_port_that_is_kept_for_it_and_come_back():
    with Ports() as ports:
        port = ports.keep()
        for _ in range(2):
            with listen(port) as server, socket.create_connection(("127.0.0.1", port)):
                server.accept()[0].close()  # the server hangs up first: its port lingers


def test_a_port_on_which_somebody_listens_is_not_given_out():
    with listen(free_port()) as server, Ports() as ports:
        taken = server.getsockname()[1]
        assert ports.keep(preferred=taken) != taken


def test_a_port_that_lingers_after_its_server_is_free():
    with listen(port := free_port()) as server, socket.create_connection(("127.0.0.1", port)) as client:
        server.accept()[0].close()  # the server hangs up first: its end is in TIME_WAIT
        client.recv(1)
    with pytest.raises(OSError, match="in use"), socket.socket() as strict:
        strict.bind(("127.0.0.1", port))
    with Ports() as ports:
        assert ports.keep(preferred=port) == port


def test_an_address_of_another_machine_is_named():
    with pytest.raises(ConfigError, match=r"no port can be opened on 192\.0\.2\.1"):
        free_port("192.0.2.1")
