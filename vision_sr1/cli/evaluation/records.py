"""An evaluation's folder: the answers to each benchmark, a line each, which a later attempt goes on from."""

from collections.abc import Iterable
from pathlib import Path

from vision_sr1.pipeline.answer_record import Record
from vision_sr1.run_folder import jsonl

ANSWERS = "answers"


class Records:
    """The answers to one benchmark.

    Args:
        folder: of the evaluation.
    """

    def __init__(self, folder: Path, benchmark: str) -> None:
        self._path = folder / ANSWERS / f"{benchmark}.jsonl"
        jsonl.drop_incomplete_line(self._path)
        # The last of each number counts.
        self._records: dict[int, Record] = {record["index"]: record for record in jsonl.read(self._path)}

    def __contains__(self, index: object) -> bool:
        """Whether this question need not be asked: an answer that could not be graded is asked for again."""
        record = self._records.get(index) if isinstance(index, int) else None
        return record is not None and ("accuracy" in record or "refused" in record)

    def add(self, record: Record) -> None:
        """Keeps a record on the disk; one that is there already stays."""
        if record["index"] in self:
            return
        jsonl.append(self._path, record)
        self._records[record["index"]] = record

    def all(self) -> list[Record]:
        """By number."""
        return [record for _, record in sorted(self._records.items())]

    def of(self, numbers: Iterable[int]) -> list[Record]:
        """Those of these numbers that there are."""
        return [self._records[number] for number in numbers if number in self._records]
