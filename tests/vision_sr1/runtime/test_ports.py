import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from vision_sr1.cli.launcher.resources import keep_port, keep_ports
from vision_sr1.config import ConfigError, load_config
from vision_sr1.runtime.ports import Ports, free_port, host_and_port

HAS_IPV6 = Path("/proc/net/if_inet6").is_file() and bool(Path("/proc/net/if_inet6").read_text())


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


@pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "::", "localhost", ""])
def test_an_address_of_either_family_has_ports(host: str):
    with Ports() as ports:
        port = ports.keep(host)
        with socket.socket(socket.AF_INET6) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("::1", port))
            server.listen()
            with Ports() as others:
                assert others.keep("::1", port) != port
    assert host_and_port("::1", 80) == "[::1]:80"
    assert host_and_port("localhost", 80) == "localhost:80"


def test_a_port_that_root_alone_may_open_is_told_from_one_in_use(monkeypatch: pytest.MonkeyPatch):
    class Refusing(socket.socket):
        def bind(self, address: Any) -> None:
            if isinstance(address, tuple) and address[1] == 80:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Refusing)
    config = load_config(None, ["reward.port=80"], environment={}).config
    with Ports() as ports, pytest.raises(ConfigError, match=r"^reward\.port: port 80 can be opened by root alone"):
        keep_port(ports, config, "reward.port")


def test_actors_whose_metrics_have_no_ports_left_are_refused():
    config = load_config(None, ["metrics.actor_port=65535", "reward.port=0"], environment={}).config
    with Ports() as ports:
        keep_ports(ports, config, learners=1, actors=1)
    with Ports() as ports, pytest.raises(ConfigError, match=r"^metrics\.actor_port: 65535 .* 65534 or less \(the larg"):
        keep_ports(ports, config, learners=1, actors=2)
