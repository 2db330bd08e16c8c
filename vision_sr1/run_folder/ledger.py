"""The ledger of a run: which prompts each batch learned from, a line a batch."""

import json
from pathlib import Path

LEDGER = "batches.jsonl"


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
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"batch": batch, "policy_version": policy_version, "prompts": rollouts}) + "\n")


def read_ledger(run_folder: Path) -> dict[int, dict[str, int]]:
    """Rollouts by prompt of each batch by its number."""
    batches: dict[int, dict[str, int]] = {}
    for line in (run_folder / LEDGER).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        batches[entry["batch"]] = entry["prompts"]
    return batches
