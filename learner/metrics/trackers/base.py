"""What every tracker is and is given, and what trackers call a run."""

import io
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from vision_sr1.config import Config
from vision_sr1.run_folder.names import TRACKERS

_NAMING = threading.Lock()


@dataclass(frozen=True)
class TrackedExample:
    """An answer to be looked at.

    Attributes:
        image: the question's first, encoded.
        cells: what is shown beside it, by column.
    """

    image: bytes | None
    cells: dict[str, str | float]

    def picture(self) -> Image.Image | None:
        """The image, decoded."""
        return None if self.image is None else Image.open(io.BytesIO(self.image)).convert("RGB")


class Tracker(Protocol):
    """Where scalars and samples of a run are shown. Made and called in one thread."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a step, by `family/member`."""

    def samples(self, step: int, title: str, samples: Sequence[TrackedExample]) -> None:
        """Some answers of a step."""

    def close(self) -> None:
        """Hands over what it still holds."""


def known_as(config: Config, tracker: str, make: Callable[[], str]) -> str:
    """What a tracker calls the run: as before where the run is resumed."""
    file: Path = config.run.path / TRACKERS
    with _NAMING:
        known: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if tracker not in known:
            known[tracker] = make()
            file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        return known[tracker]


def columns_of(samples: Sequence[TrackedExample]) -> list[str]:
    """The columns that any of them has, in the order in which they first come."""
    return list(dict.fromkeys(name for sample in samples for name in sample.cells))
