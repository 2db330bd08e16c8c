"""The ledger of a run: which prompts each batch learned from, a line a batch."""

import json
from pathlib import Path

LEDGER = "batches.jsonl"


class Ledger:
    """Written by rank 0. A batch that was learned again after a crash is written again: its last line counts."""

    def __init__(self, run_folder: Path) -> None:
        self._path = run_folder / LEDGER

    def record(self, batch: int, policy_version: int, prompt_ids: list[str]) -> None:
        """One batch.

        Args:
            batch: its number, from 1.
            policy_version: that it made.
            prompt_ids: whose groups it learned from, those left out included.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"batch": batch, "policy_version": policy_version, "prompts": prompt_ids}) + "\n")


def read_ledger(run_folder: Path) -> dict[int, list[str]]:
    """The prompts of each batch by its number."""
    batches: dict[int, list[str]] = {}
    for line in (run_folder / LEDGER).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        batches[entry["batch"]] = entry["prompts"]
    return batches
