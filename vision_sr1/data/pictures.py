"""The images of a row: wherever they are, in the form in which they travel."""

import base64
from pathlib import Path
from typing import Any

from vision_sr1.config import DataConfig
from vision_sr1.data.errors import DataError
from vision_sr1.images import UnusableImageError, stored_form

VIDEOS = ("videos", "video")
COLUMNS = ("images", "image")  # one of them is taken where `data.image_key` names none of the columns


class Pictures:
    """Reads images as bytes, paths, structs of both (Hugging Face's), or data URIs; one, or a list of them."""

    def __init__(self, source: str, config: DataConfig) -> None:
        self._root = (config.image_root or Path(source.rpartition("@")[0] or source).parent).resolve()
        self._keys = (config.image_key, *COLUMNS)
        self._max_bytes = config.max_image_bytes
        self._max_pixels = config.max_image_pixels

    def of(self, row: dict[str, Any], where: str) -> list[bytes]:
        """A row's encoded images.

        Raises:
            DataError: one of them cannot be used.
        """
        if any(row.get(key) for key in VIDEOS):
            raise DataError(f"{where}: videos cannot be used: sample frames of them, and give these as images", "image")
        value = next((row[key] for key in self._keys if row.get(key) is not None), None)
        if value is None:
            return []
        return [
            self.read(item, f"{where}, image {number}")
            for number, item in enumerate(value if isinstance(value, list) else [value])
        ]

    def read(self, item: Any, what: str) -> bytes:
        """One image.

        Raises:
            DataError: it cannot be used.
        """
        data = self._bytes(item, what)
        if len(data) > self._max_bytes:
            raise DataError(f"{what}: {len(data)} bytes are over data.max_image_bytes ({self._max_bytes})", "image")
        try:
            return stored_form(data, self._max_pixels)
        except UnusableImageError as error:
            raise DataError(f"{what}: {error}", "image") from error

    def _bytes(self, item: Any, what: str) -> bytes:
        data = item.get("bytes") if isinstance(item, dict) else item
        path = item.get("path") if isinstance(item, dict) else None
        if isinstance(data, str):
            data, path = None, data
        if data is None and path:
            return self._file(str(path), what)
        if not isinstance(data, bytes):
            raise DataError(f"{what}: neither bytes nor a path", "image")
        return data

    def _file(self, name: str, what: str) -> bytes:
        if name.startswith("data:image/"):
            try:
                return base64.b64decode(name.partition(";base64,")[2], validate=True)
            except ValueError as error:
                raise DataError(f"{what}: {name[:40]!r}... is no base64: {error}", "image") from error
        if "://" in name:
            raise DataError(f"{what}: {name!r} is a URL: download it, and give its path or its bytes", "image")
        if "\0" in name:
            raise DataError(f"{what}: {name!r} is no path", "image")
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root):
            raise DataError(
                f"{what}: {name!r} leads out of {self._root}: set data.image_root to a folder above it", "image"
            )
        if not path.is_file():
            raise DataError(f"{what}: no image file {path}", "image")
        if path.stat().st_size > self._max_bytes:
            raise DataError(f"{what}: {path} is over data.max_image_bytes ({self._max_bytes})", "image")
        return path.read_bytes()
