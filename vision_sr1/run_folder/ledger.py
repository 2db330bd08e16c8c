"""The ledger of a run: which prompts each batch learned from, a line a batch."""

from pathlib import Path

from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.names import LEDGER


class Ledger:
    """Written by rank 0. A batch that was learned again after a crash is written again: its last line counts."""

    def __init__(self, run_folder: Path) -> None:
        self._path = run_folder / LEDGER

    def record(self, batch: int, policy_version: int, rollouts: dict[str, int]) -> None:
        """One batch.

        Args:
            batch: its number, from 1.
            policy_version: that it made.
            rollouts: how many rollouts of each prompt it learned from, by the prompt's id.
        """
        jsonl.append(self._path, {"batch": batch, "policy_version": policy_version, "prompts": rollouts})


def read_ledger(run_folder: Path) -> dict[int, dict[str, int]]:
    """Rollouts by prompt of each batch by its number."""
    return {entry["batch"]: entry["prompts"] for entry in jsonl.read(run_folder / LEDGER)}
