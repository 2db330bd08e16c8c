"""Free TCP ports for servers that this machine starts for itself."""

import socket

from vision_sr1.config import ConfigError


def free_port(host: str = "127.0.0.1", preferred: int = 0) -> int:
    """`preferred` where nobody listens on it, otherwise any free port of the host's address.

    Raises:
        ConfigError: `host` is no address of this machine.
    """
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do that come back at once
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigError(f"no port can be opened on {host}: is it an address of this machine?")
