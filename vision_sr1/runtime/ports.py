"""Addresses of this machine, and free TCP ports for servers that it starts for itself."""

import contextlib
import random
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from vision_sr1.config import ConfigError

_Address = tuple[socket.AddressFamily, tuple[Any, ...]]

SERVERS = range(20_000, 32_000)  # below those that Linux gives to connections


class Ports(ExitStack):
    """Ports kept for servers that are started later, or again: no other `Ports` gives them out until this one is left.

    They are drawn from SERVERS, so that no connection from this machine takes one before its server listens. A port is
    held by a socket that is bound and does not listen. A server that reuses addresses, as servers do that come back at
    once, can listen on it all the same.
    """

    def keep(self, host: str = "127.0.0.1", preferred: int = 0) -> int:
        """`preferred` where nobody listens there, otherwise a free port of the host's address.

        A port that connections of an earlier server still wait on (TIME_WAIT) is free.

        Raises:
            ConfigError: `host` is not an address of this machine.
            PermissionError: this process may not open `preferred`.
        """
        addresses = _addresses_here(host)
        drawn = random.SystemRandom().sample(SERVERS, 20)
        for port in (*([preferred] if preferred else []), *drawn):
            if addresses and self._hold(addresses, port):
                return port
        raise ConfigError(f"no port can be opened on {host}: is it an address of this machine?")

    def _hold(self, addresses: Sequence[_Address], port: int) -> bool:
        """Binds the port, and a name that no two sockets can have: with reused addresses, two could have the port."""
        with ExitStack() as held:
            try:
                name = held.enter_context(socket.socket(socket.AF_UNIX))
                name.bind(f"\0vision-sr1-port-{port}")  # abstract: it ends with its socket
                for family, (host, _, *scope) in addresses:
                    server = held.enter_context(socket.socket(family))
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    server.bind((host, port, *scope))
            except PermissionError:
                raise
            except OSError:
                return False
            self.enter_context(held.pop_all())
        return True


def _addresses_here(host: str) -> list[_Address]:
    """Those of a host that this machine has."""
    found: list[_Address] = []
    with contextlib.suppress(OSError, UnicodeError):  # no such name
        for family, _, _, _, address in socket.getaddrinfo(
            host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with contextlib.suppress(OSError), socket.socket(family) as probe:
                probe.bind(address)
                found.append((family, address))
    return found


def free_port(host: str = "127.0.0.1") -> int:
    """A port of the host's address on which nobody listens at the moment; for use at once."""
    with Ports() as ports:
        return ports.keep(host)


def host_and_port(host: str, port: int) -> str:
    """As URLs and gRPC have it: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_towards(host: str, port: int) -> str:
    """This machine's address as that host, one that is reached there, sees it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0])
