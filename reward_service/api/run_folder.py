"""What the learner writes into the run's folder: curves and the ledger of batches; empty where it cannot be seen."""

from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.names import LEDGER, SCALARS


@dataclass(frozen=True)
class Batch:
    """What one batch learned from.

    Attributes:
        policy_version: that it made.
        rollouts: how many of each prompt, by the prompt's id.
    """

    policy_version: int
    rollouts: dict[str, int]


class RunFolder:
    """Reads on from where it was; for any thread."""

    def __init__(self, folder: Path) -> None:
        self._scalars = jsonl.Tail(folder / SCALARS)
        self._ledger = jsonl.Tail(folder / LEDGER)
        self._steps: dict[str, int] = {}
        self._batches: dict[int, Batch] = {}
        self._points: dict[int, dict[str, float]] = {}
        self._reading = Lock()

    def points(self) -> list[dict[str, float]]:
        """The learner's scalars, a mapping a step, `step` and `time` in it; a step that was redone, as redone."""
        with self._reading:
            for line in self._scalars.new():
                step = int(line["step"])
                self._points[step] = {**self._points.get(step, {}), **line}
            return [self._points[step] for step in sorted(self._points)]

    def step_of(self, group_id: str) -> int | None:
        """The batch that learned from a prompt."""
        self._read_ledger()
        return self._steps.get(group_id)

    def batches(self) -> dict[int, Batch]:
        """What each batch learned from, by its number."""
        self._read_ledger()
        return dict(self._batches)

    def _read_ledger(self) -> None:
        with self._reading:
            for line in self._ledger.new():
                self._batches[line["batch"]] = Batch(line["policy_version"], line["prompts"])
                self._steps.update(dict.fromkeys(line["prompts"], line["batch"]))
