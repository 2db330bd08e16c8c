"""Images in Redis, once each, under the SHA-256 of their encoded bytes."""

import hashlib
from collections import Counter
from collections.abc import Container, Iterable
from typing import Any

from redis.asyncio import Redis

from vision_sr1.streams.keys import Keys
from vision_sr1.v1.pipeline_pb2 import ImageRef

_MEDIA_TYPES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)

SCANNED_AT_ONCE = 1000
FOR_EVER = -1  # what Redis calls it


class BlobMissingError(LookupError):
    """An image is not, or no longer, in the store."""


class Blobs:
    """The blob store of a run. An image stays until it is released, and then for another `ttl_s`."""

    def __init__(self, redis: Redis, keys: Keys, ttl_s: int) -> None:
        self._redis: Any = redis  # replies are typed as the union of all decodings
        self._keys = keys
        self._ttl_s = ttl_s

    async def put(self, data: bytes) -> ImageRef:
        """Stores an encoded image and returns the reference that stands for it everywhere else."""
        sha256 = hashlib.sha256(data).hexdigest()
        await self._redis.set(self._keys.blob(sha256), data)
        return ImageRef(sha256=sha256, media_type=media_type(data))

    async def get(self, ref: ImageRef) -> bytes:
        """The encoded image.

        Raises:
            BlobMissingError: it was never stored, or it was released.
        """
        data = await self._redis.get(self._keys.blob(ref.sha256))
        if data is None:
            raise BlobMissingError(
                f"image {ref.sha256} is not in the blob store: it was released more than {self._ttl_s} s ago "
                "(streams.image_ttl_s), or the server lost it"
            )
        image: bytes = data
        return image

    async def release(self, sha256s: Iterable[str]) -> None:
        """Lets go of images that no prompt in flight refers to."""
        for sha256 in sha256s:
            await self._redis.expire(self._keys.blob(sha256), self._ttl_s)

    async def release_all_but(self, sha256s: Container[str]) -> None:
        """Lets go of every image that is kept but those named."""
        prefix = self._keys.blob("")
        async for key in self._redis.scan_iter(match=f"{prefix}*", count=SCANNED_AT_ONCE):
            sha256 = key.decode().removeprefix(prefix)
            if sha256 not in sha256s and await self._redis.ttl(key) == FOR_EVER:
                await self.release([sha256])


class PromptImages(Container[str]):
    """The images of prompts in flight, by hash; each is released with the last prompt that uses it."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._of: dict[str, list[str]] = {}  # hashes by prompt id
        self._uses: Counter[str] = Counter()

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._uses

    async def put(self, prompt_id: str, images: list[bytes]) -> list[ImageRef]:
        """Stores a prompt's encoded images; again, if the store may have lost them."""
        refs = [await self._blobs.put(image) for image in images]
        if prompt_id not in self._of:
            self._of[prompt_id] = [ref.sha256 for ref in refs]
            self._uses.update(self._of[prompt_id])
        return refs

    async def release(self, prompt_ids: Iterable[str]) -> None:
        """Lets go of the images of prompts that are answered."""
        used = Counter(sha256 for prompt_id in prompt_ids for sha256 in self._of.pop(prompt_id, ()))
        self._uses -= used  # drops those whose count is 0
        await self._blobs.release(sha256 for sha256 in used if sha256 not in self)


def media_type(data: bytes) -> str:
    """The media type by an image's first bytes."""
    return next((kind for magic, kind in _MEDIA_TYPES if data.startswith(magic)), "application/octet-stream")
