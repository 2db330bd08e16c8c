"""Reading data sets: questions with images for RL, conversations with images for supervised stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision_sr1.config import DataConfig


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
        _require(self._rows, source, {"data.prompt_key": config.prompt_key, "data.answer_key": config.answer_key})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> QuestionRow:
        """The row.

        Raises:
            DataError: its answer is missing or an image cannot be read.
        """
        row = self._rows[index]
        where = f"{self._source}, row {index}"
        answer = row[self._config.answer_key]
        if answer is None or not str(answer).strip():
            raise DataError(f"{where}: the answer is empty")
        scene = row.get(self._config.scene_key)
        return QuestionRow(
            question=str(row[self._config.prompt_key]),
            answer=str(answer),
            images=_images(row.get(self._config.image_key), where, self._config.max_image_bytes),
            data_source=str(row.get(self._config.source_key) or Path(self._source).stem),
            scene=None if scene is None else str(scene),
        )


class Conversations:
    """A supervised set in the ShareGPT form: `messages` of role and content, and `images`."""

    def __init__(self, source: str, config: DataConfig) -> None:
        self._rows = _load(source)
        self._source = source
        self._config = config
        _require(self._rows, source, {"the conversations": "messages"})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ConversationRow:
        """The row.

        Raises:
            DataError: an image cannot be read.
        """
        row = self._rows[index]
        where = f"{self._source}, row {index}"
        messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in row["messages"]]
        return ConversationRow(messages, _images(row.get("images"), where, self._config.max_image_bytes))


def _load(source: str) -> Any:
    import datasets

    name, _, split = source.partition("@")
    path = Path(name)
    if path.suffix == ".parquet":
        if not path.is_file():
            raise DataError(f"no data file {path}; `vision-sr1 data shapes` makes one")
        return datasets.load_dataset("parquet", data_files=str(path), split="train")
    try:
        return datasets.load_dataset(name, split=split or "train")
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise DataError(f"cannot load data set {source!r}: {error}") from error


def _require(rows: Any, source: str, columns: dict[str, str]) -> None:
    for setting, column in columns.items():
        if column not in rows.column_names:
            raise DataError(
                f"{source} has no column {column!r} ({setting}); its columns: {', '.join(rows.column_names)}"
            )


def _images(value: Any, where: str, max_bytes: int) -> list[bytes]:
    """Encoded bytes of the images, each given as bytes, path, or a struct of both."""
    if value is None:
        return []
    images = []
    for item in value if isinstance(value, list) else [value]:
        data = item.get("bytes") if isinstance(item, dict) else item
        path = item.get("path") if isinstance(item, dict) else None
        if isinstance(data, str):
            data, path = None, data
        if data is None and path:
            if not Path(path).is_file():
                raise DataError(f"{where}: no image file {path!r}")
            data = Path(path).read_bytes()
        if not isinstance(data, bytes) or not data:
            raise DataError(f"{where}: an image has neither bytes nor a path")
        if len(data) > max_bytes:
            raise DataError(f"{where}: an image of {len(data)} bytes is over data.max_image_bytes ({max_bytes})")
        images.append(data)
    return images
