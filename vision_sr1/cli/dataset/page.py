"""A page with samples of a data set: one file, to be opened in a browser."""

import random
from pathlib import Path
from typing import Any

from vision_sr1.cli.dataset.check import AnyRow, Report
from vision_sr1.cli.pages import thumbnail, write_page
from vision_sr1.data.errors import DataError
from vision_sr1.data.questions import QuestionRow

REFUSED = 40  # rows


class Samples:
    """Rows for a page: of those that can be used so many, each as likely as any other; of those that cannot the first.

    Args:
        count: of rows that can be used.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._seen = 0
        self._chance = random.Random(0)
        self._rows: list[tuple[int, AnyRow]] = []
        self._refused: list[str] = []

    def see(self, index: int, row: AnyRow | DataError) -> None:
        """Keeps a row, or does not (reservoir sampling)."""
        if isinstance(row, DataError):
            if len(self._refused) < REFUSED:
                self._refused.append(str(row))
            return
        self._seen += 1
        if len(self._rows) < self._count:
            self._rows.append((index, row))
        elif (place := self._chance.randrange(self._seen)) < self._count:
            self._rows[place] = index, row

    def write(self, path: Path, source: str, report: Report) -> None:
        """Writes the page."""
        rows = [_shown(index, row) for index, row in sorted(self._rows, key=lambda kept: kept[0])]
        write_page(path, "samples", title=source, report=report, rows=rows, refused=self._refused)


def _shown(index: int, row: AnyRow) -> dict[str, Any]:
    pictures = [thumbnail(image) for image in row.images]
    if isinstance(row, QuestionRow):
        turns = [("question", row.question), ("answer", row.answer)]
        return {"index": index, "from": row.data_source, "turns": turns, "pictures": pictures}
    turns = [(message["role"], message["content"]) for message in row.messages]
    return {"index": index, "from": "", "turns": turns, "pictures": pictures}
