"""gRPC between services: plain or under mutual TLS; stalled peers are found, and adapters fit into a message."""

import grpc
import grpc.aio

from vision_sr1.config import ConfigError, TlsConfig

_UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
_CLIENT = (
    *_UNLIMITED,
    ("grpc.enable_http_proxy", 0),  # whatever the environment says: proxies are for hosts outside
    ("grpc.keepalive_time_ms", 5_000),  # a call to a peer that leaves a ping unanswered ...
    ("grpc.keepalive_timeout_ms", 5_000),  # ... for so long fails as UNAVAILABLE
    ("grpc.http2.ping_timeout_ms", 5_000),
)
SERVER = (*_UNLIMITED, ("grpc.http2.max_ping_strikes", 0))  # clients ping while they wait


def channel(address: str, tls: TlsConfig) -> grpc.Channel:
    """A channel to a service at host:port.

    Raises:
        ConfigError: a file of the certificate's cannot be read.
    """
    if not tls.enabled:
        return grpc.insecure_channel(address, _CLIENT)
    return grpc.secure_channel(address, _client_credentials(tls), _named(tls))


def aio_channel(address: str, tls: TlsConfig) -> grpc.aio.Channel:
    """The same for asyncio."""
    if not tls.enabled:
        return grpc.aio.insecure_channel(address, _CLIENT)
    return grpc.aio.secure_channel(address, _client_credentials(tls), _named(tls))


def listen(server: grpc.aio.Server, address: str, tls: TlsConfig) -> int:
    """Has a server listen at host:port; returns the port. A certificate that is renewed on the disk is taken up.

    Raises:
        ConfigError: a file of the certificate's cannot be read.
    """
    if not tls.enabled:
        return server.add_insecure_port(address)
    credentials = grpc.dynamic_ssl_server_credentials(
        _server_certificate(tls), lambda: _server_certificate(tls), require_client_authentication=True
    )
    return server.add_secure_port(address, credentials)


def _client_credentials(tls: TlsConfig) -> grpc.ChannelCredentials:
    ca, key, certificate = _files(tls)
    return grpc.ssl_channel_credentials(ca, key, certificate)


def _server_certificate(tls: TlsConfig) -> grpc.ServerCertificateConfiguration:
    ca, key, certificate = _files(tls)
    return grpc.ssl_server_certificate_configuration([(key, certificate)], ca)


def _named(tls: TlsConfig) -> tuple[tuple[str, object], ...]:
    """Actors are known by name, for their addresses come and go."""
    return (*_CLIENT, ("grpc.ssl_target_name_override", tls.server_name))


def _files(tls: TlsConfig) -> tuple[bytes, bytes, bytes]:
    read = []
    for name in ("ca", "key", "certificate"):
        path = getattr(tls, name)
        try:
            read.append(path.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"tls.{name}: {path} cannot be read ({error.strerror}): mount the certificate there, or name its place"
            ) from error
    return read[0], read[1], read[2]
