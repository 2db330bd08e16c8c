"""The section `tls`."""

from pathlib import Path

from pydantic import Field

from vision_sr1.config.section import Section


class TlsConfig(Section):
    """Mutual TLS of gRPC between services. Redis has its own switch: a URL that begins with rediss://."""

    enabled: bool = Field(False, description="Both sides of every call present a certificate of the same authority.")
    certificate: Path = Field(Path("/etc/vision-sr1/tls/tls.crt"), description="Certificate of this service, PEM.")
    key: Path = Field(Path("/etc/vision-sr1/tls/tls.key"), description="Private key of this service, PEM.")
    ca: Path = Field(Path("/etc/vision-sr1/tls/ca.crt"), description="Certificate of the authority, PEM.")
    server_name: str = Field(
        "vision-sr1-actor",
        description="DNS name in the actors' certificates; it replaces their addresses in the check.",
    )
