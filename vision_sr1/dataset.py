"""Reading data sets: questions with images for RL, conversations with images for supervised stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_sr1.chat import ImageMarkerError, content_parts
from vision_sr1.config import DataConfig
from vision_sr1.images import UnusableImageError, stored_form


class DataError(ValueError):
    """A data set or one of its rows cannot be used; the message says which, why and what to do."""


@dataclass(frozen=True)
class QuestionRow:
    """One row of an RL or evaluation set; images are encoded bytes (PNG, JPEG, ...)."""

    question: str
    answer: str
    images: list[bytes]
    data_source: str
    scene: str | None


@dataclass(frozen=True)
class ConversationRow:
    """One row of a supervised set."""

    messages: list[dict[str, str]]
    images: list[bytes]


class Questions:
    """An RL or evaluation set, indexable; each row is checked when it is read."""

    def __init__(self, source: str, config: DataConfig) -> None:
        self._rows = _load(source)
        self._source = source
        self._config = config
        self._images = _Images(source, config)
        _require(self._rows, source, {"data.prompt_key": config.prompt_key, "data.answer_key": config.answer_key})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> QuestionRow:
        """The row.

        Raises:
            DataError: question or answer is missing or no text, or an image cannot be used.
        """
        where = f"{self._source}, row {index}"
        row = _row(self._rows, index, where)
        question = _text(row[self._config.prompt_key], f"{where}: the question")
        images = self._images.read(row.get(self._config.image_key), where)
        try:
            content_parts(question, len(images))
        except ImageMarkerError as error:
            raise DataError(f"{where}: {error}") from error
        scene = row.get(self._config.scene_key)
        source = row.get(self._config.source_key)
        return QuestionRow(
            question=question,
            answer=_text(row[self._config.answer_key], f"{where}: the answer"),
            images=images,
            data_source=_text(source, f"{where}: the data source") if source else Path(self._source).stem,
            scene=None if scene is None else str(scene),
        )


class Conversations:
    """A supervised set in the ShareGPT form: `messages` of role and content, and `images`."""

    def __init__(self, source: str, config: DataConfig) -> None:
        self._rows = _load(source)
        self._source = source
        self._images = _Images(source, config)
        _require(self._rows, source, {"the conversations": "messages"})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ConversationRow:
        """The row.

        Raises:
            DataError: a message is no text, or an image cannot be used.
        """
        where = f"{self._source}, row {index}"
        row = _row(self._rows, index, where)
        try:
            messages = [
                {"role": str(message["role"]), "content": _text(message["content"], f"{where}: message {number}")}
                for number, message in enumerate(row["messages"] or [])
            ]
        except (TypeError, KeyError) as error:
            raise DataError(f"{where}: a message has no role or no content: {error!r}") from error
        return ConversationRow(messages, self._images.read(row.get("images"), where))


def _load(source: str) -> Any:
    import datasets

    name, _, split = source.partition("@")
    path = Path(name)
    if path.suffix == ".parquet":
        if not path.is_file():
            raise DataError(f"no data file {path}; `vision-sr1 data shapes` makes one")
        try:
            rows = datasets.load_dataset("parquet", data_files=str(path), split="train")
        except (datasets.exceptions.DatasetGenerationError, OSError, ValueError) as error:
            raise DataError(f"{path} is no parquet file that can be read: {error.__cause__ or error}") from error
    else:
        try:
            rows = datasets.load_dataset(name, split=split or "train")
        except (FileNotFoundError, ConnectionError, ValueError) as error:
            raise DataError(f"cannot load data set {source!r}: {error}") from error
    for column, feature in rows.features.items():  # images as they are stored: ours to decode
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            rows = rows.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return rows


def _require(rows: Any, source: str, columns: dict[str, str]) -> None:
    for setting, column in columns.items():
        if column not in rows.column_names:
            raise DataError(
                f"{source} has no column {column!r} ({setting}); its columns: {', '.join(rows.column_names)}"
            )


def _row(rows: Any, index: int, where: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = rows[index]
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: a column is not UTF-8: {error}; write the file again in UTF-8") from error
    return row


def _text(value: Any, what: str) -> str:
    """A value as text that every service can carry.

    Raises:
        DataError: it is empty, not UTF-8, or has characters that no text has.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{what} is not UTF-8: {error}; write the file again in UTF-8") from error
    text = "" if value is None else str(value)
    if not text.strip():
        raise DataError(f"{what} is empty")
    if "\0" in text:
        raise DataError(f"{what} has the character NUL at {text.index(chr(0))}: remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} has half a character at {error.start}: {error.reason}") from error
    return text


class _Images:
    """Reads the images of a data set's rows."""

    def __init__(self, source: str, config: DataConfig) -> None:
        self._root = (config.image_root or Path(source).parent).resolve()
        self._max_bytes = config.max_image_bytes
        self._max_pixels = config.max_image_pixels

    def read(self, value: Any, where: str) -> list[bytes]:
        """Encoded images, each given as bytes, path, or a struct of both, in the form in which they travel.

        Raises:
            DataError: one of them cannot be used.
        """
        if value is None:
            return []
        images = []
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            what = f"{where}, image {number}"
            data = self._bytes(item, what)
            if len(data) > self._max_bytes:
                raise DataError(f"{what}: {len(data)} bytes are over data.max_image_bytes ({self._max_bytes})")
            try:
                images.append(stored_form(data, self._max_pixels))
            except UnusableImageError as error:
                raise DataError(f"{what}: {error}") from error
        return images

    def _bytes(self, item: Any, what: str) -> bytes:
        data = item.get("bytes") if isinstance(item, dict) else item
        path = item.get("path") if isinstance(item, dict) else None
        if isinstance(data, str):
            data, path = None, data
        if data is None and path:
            return self._file(str(path), what)
        if not isinstance(data, bytes):
            raise DataError(f"{what}: neither bytes nor a path")
        return data

    def _file(self, name: str, what: str) -> bytes:
        if "://" in name:
            raise DataError(f"{what}: {name!r} is a URL: download it, and give its path or its bytes")
        if "\0" in name:
            raise DataError(f"{what}: {name!r} is no path")
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root):
            raise DataError(f"{what}: {name!r} leads out of {self._root}: set data.image_root to a folder above it")
        if not path.is_file():
            raise DataError(f"{what}: no image file {path}")
        if path.stat().st_size > self._max_bytes:
            raise DataError(f"{what}: {path} is over data.max_image_bytes ({self._max_bytes})")
        return path.read_bytes()
