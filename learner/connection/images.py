"""Images in Redis: stored for prompts and for probes, and read for what is learned."""

import hashlib
from collections.abc import Callable, Iterable

import structlog

from learner.connection.session import RedisSession
from vision_sr1.config import Config
from vision_sr1.data import QuestionRow
from vision_sr1.streams import BlobMissingError, Blobs, PromptImages
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()


class RunImages:
    """The images of a run.

    Attributes:
        of_prompts: those of the prompts that this learner has in flight.
    """

    def __init__(self, config: Config, session: RedisSession) -> None:
        self._session = session
        self._blobs = Blobs(session.redis, session.keys, config.streams.image_ttl_s)
        self.of_prompts = PromptImages(self._blobs)

    def release(self, prompt_ids: Iterable[str]) -> None:
        """Releases the images of prompts whose groups have left the streams."""
        self._session.run(self.of_prompts.release(prompt_ids))

    def release_unused(self) -> None:
        """Releases what no prompt of this learner uses, whoever stored it."""
        self._session.run(self._blobs.release_all_but(self.of_prompts))

    def release_all(self) -> None:
        """Releases everything: the run is complete."""
        self._session.run(self._blobs.release_all_but(()))

    def put_for_now(self, images: list[bytes]) -> list[pb.ImageRef]:
        """Stores encoded images for the actors, for use at once."""

        async def put() -> list[pb.ImageRef]:
            refs = [await self._blobs.put(image) for image in images]
            await self._blobs.release(ref.sha256 for ref in refs if ref.sha256 not in self.of_prompts)
            return refs

        refs: list[pb.ImageRef] = self._session.run(put())
        return refs

    def read(self, sha256s: Iterable[str], rows: Callable[[], Iterable[QuestionRow]]) -> dict[str, bytes]:
        """Encoded images by their hash: from Redis, and from the data set where Redis has lost them.

        Args:
            rows: that have them.
        """
        wanted = list(sha256s)

        async def fetch() -> dict[str, bytes]:
            return {sha256: await self._blobs.get(pb.ImageRef(sha256=sha256)) for sha256 in wanted}

        try:
            stored: dict[str, bytes] = self._session.run(fetch())
        except BlobMissingError as error:
            log.warning(
                "images_reread", message="Images are missing in Redis; reading them from the data set", error=str(error)
            )
        else:
            return stored
        found = {hashlib.sha256(image).hexdigest(): image for row in rows() for image in row.images}
        return {sha256: found[sha256] for sha256 in wanted}
