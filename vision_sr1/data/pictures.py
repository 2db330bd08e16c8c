"""The images of a row: wherever they are, in the form in which they travel."""

import base64
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from vision_sr1.config import DataConfig
from vision_sr1.data.errors import DataError
from vision_sr1.data.sources import folder_of
from vision_sr1.data.tables import value_of
from vision_sr1.prompting.images import UnusableImageError, stored_form

VIDEOS = ("videos", "video")
COLUMNS = ("images", "image")  # one of them is taken where `data.image_key` names none of the columns
_LONGEST_PATH = 4096  # characters; a longer text is an image that is not base64
_FIELDS = ("bytes", "base64", "image", "image_url", "url", "path")  # of a struct that is an image
_BASE64 = re.compile(r"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk|SUkqA|TU0AK)[A-Za-z0-9+/\s]{32,}={0,2}\s*")  # by formats


def stored_image(item: Any) -> Any:
    """Bytes or a text that says where an image is, out of the structs around it; None where they have neither."""
    while isinstance(item, dict):
        item = next((item[field] for field in _FIELDS if item.get(field) is not None), None)
    return item


class Pictures:
    """Reads images as bytes, paths, structs of these (Hugging Face's, OpenAI's), data URIs or base64; one, or a list.

    Args:
        source: as `load_table` takes it; paths start from its folder where nothing else says from where.
    """

    def __init__(self, source: str, config: DataConfig) -> None:
        self._given_root = config.image_root
        self._root = self._given_root or folder_of(source)
        self._keys = (config.image_key, *COLUMNS)
        self._max_bytes = config.max_image_bytes
        self._max_pixels = config.max_image_pixels

    def of(self, row: dict[str, Any], where: str, folder: Path | None = None) -> list[bytes]:
        """A row's encoded images.

        Args:
            folder: that the row's file is in.

        Raises:
            DataError: one of them cannot be used.
        """
        items = enumerate(self.items(row, where))
        return [self.read(item, f"{where}, image {number}", folder) for number, item in items]

    def items(self, row: dict[str, Any], where: str) -> list[Any]:
        """A row's images as they are stored, unread.

        Raises:
            DataError: it has videos.
        """
        if any(row.get(key) for key in VIDEOS):
            raise DataError(f"{where}: videos cannot be used: sample frames of them, and give these as images", "image")
        value = next((value for key in self._keys if (value := value_of(row, key)) is not None), None)
        if value is None:
            return []
        return value if isinstance(value, list) else [value]

    def read(self, item: Any, what: str, folder: Path | None = None) -> bytes:
        """One image.

        Raises:
            DataError: it cannot be used.
        """
        data = self.encoded(item, what, folder)
        try:
            return stored_form(data, self._max_pixels)
        except UnusableImageError as error:
            raise DataError(f"{what}: {error}", "image") from error

    def encoded(self, item: Any, what: str, folder: Path | None = None) -> bytes:
        """One image's bytes, not decoded.

        Raises:
            DataError: there are none, or too many.
        """
        data = stored_image(item)
        if isinstance(data, str):
            data = self._named(data, what, (self._given_root or folder or self._root).resolve())
        if not isinstance(data, bytes):
            raise DataError(f"{what}: neither bytes nor a path", "image")
        if len(data) > self._max_bytes:
            raise DataError(f"{what}: {len(data)} bytes are over data.max_image_bytes ({self._max_bytes})", "image")
        return data

    def _named(self, name: str, what: str, root: Path) -> bytes:
        """The image that a text is or names."""
        if name[:5].lower() == "data:":
            header, _, payload = name.partition(",")
            if not header.lower().endswith(";base64"):
                raise DataError(f"{what}: {name[:40]!r}... is a data URI without ;base64", "image")
            return _decoded(payload, name, what)
        if _BASE64.fullmatch(name):
            return _decoded(name, name, what)
        if name[:7].lower() == "file://":
            name = unquote(_path_of(name, what))
        if "://" in name:
            raise DataError(f"{what}: {name!r} is a URL: download it, and give its path or its bytes", "image")
        if "\0" in name or len(name) > _LONGEST_PATH:
            raise DataError(f"{what}: {name[:80]!r} is neither a path nor an image in base64", "image")
        try:
            return self._file(name, what, root)
        except (OSError, UnicodeEncodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.reason
            raise DataError(f"{what}: {name[:80]!r} cannot be read: {reason}", "image") from error
        except RuntimeError as error:
            raise DataError(f"{what}: {name[:80]!r} is a link that leads back to itself", "image") from error

    def _file(self, name: str, what: str, root: Path) -> bytes:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise DataError(f"{what}: {name!r} leads out of {root}: set data.image_root to a folder above it", "image")
        if not path.is_file():
            raise DataError(f"{what}: no image file {path}", "image")
        if path.stat().st_size > self._max_bytes:
            raise DataError(f"{what}: {path} is over data.max_image_bytes ({self._max_bytes})", "image")
        return path.read_bytes()


def _path_of(url: str, what: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError as error:
        raise DataError(f"{what}: {url[:80]!r} is not a file URL: {error}", "image") from error


def _decoded(payload: str, name: str, what: str) -> bytes:
    digits = "".join(payload.split()).rstrip("=")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except ValueError as error:
        raise DataError(f"{what}: {name[:40]!r}... is not base64: {error}", "image") from error
