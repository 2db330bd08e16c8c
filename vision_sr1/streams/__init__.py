"""Redis Streams between the services: each item committed exactly once, images stored once."""

from vision_sr1.streams.blobs import BlobMissingError, Blobs, PromptImages
from vision_sr1.streams.connection import StreamsUnavailableError, connect, connect_to_run
from vision_sr1.streams.consumer import Consumer
from vision_sr1.streams.keys import Keys, forget
from vision_sr1.streams.retrying import Interruptions, RetryingRedis, check_takes_writes
from vision_sr1.streams.stream import Entry, Output, Stream

__all__ = [
    "BlobMissingError",
    "Blobs",
    "Consumer",
    "Entry",
    "Interruptions",
    "Keys",
    "Output",
    "PromptImages",
    "RetryingRedis",
    "Stream",
    "StreamsUnavailableError",
    "check_takes_writes",
    "connect",
    "connect_to_run",
    "forget",
]
