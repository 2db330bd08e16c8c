"""Certificates as a cluster mounts them: each service's own, all by one authority."""

from pathlib import Path

import trustme


def issue(folder: Path, authority: trustme.CA, *names: str) -> None:
    """Writes `tls.crt`, `tls.key` and `ca.crt`, for a service that is known by these names."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate = authority.issue_cert(*names)
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    (folder / "tls.key").write_bytes(certificate.private_key_pem.bytes())
    authority.cert_pem.write_to_path(folder / "ca.crt")
