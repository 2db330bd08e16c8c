"""Reading and writing the messages of proto/: schema versions are checked in this one place."""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

SCHEMA_VERSION = 2


class WireError(ValueError):
    """A message cannot be read: it is damaged, or of a newer schema than this service knows."""


M = TypeVar("M", bound=Message)


def decode(kind: type[M], data: bytes) -> M:
    """Parses a message and checks its version.

    Raises:
        WireError: the bytes are no such message, or its schema version is newer than SCHEMA_VERSION.
    """
    try:
        message = kind.FromString(data)
    except DecodeError as error:
        raise WireError(f"not a {kind.__name__}: {error}") from error
    check_version(message)
    return message


def check_version(message: Message) -> None:
    """Refuses a message of a newer schema, or of none.

    Raises:
        WireError: with both versions and the way out.
    """
    version: int = getattr(message, "schema_version", 0)
    if version == 0:
        raise WireError(f"{type(message).__name__} carries no schema version: not written by this system")
    if version > SCHEMA_VERSION:
        raise WireError(
            f"{type(message).__name__} has schema version {version}, this service knows {SCHEMA_VERSION}: "
            "update this service first"
        )
