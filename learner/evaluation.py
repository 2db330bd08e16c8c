"""Evaluation on held-out data, through the same actors and reward service as training, greedily."""

import json
from collections.abc import Callable
from pathlib import Path

import structlog
from prometheus_client import Counter

from learner.engine import is_main
from learner.streams import Asked, LearnerStreams
from vision_sr1.config import Config
from vision_sr1.data import DataError, QuestionRow, Questions
from vision_sr1.evaluation.answers import Record, answer_record, means
from vision_sr1.groups import evaluation_id
from vision_sr1.v1 import pipeline_pb2 as pb

Collect = Callable[[Asked, int], list[pb.ScoredGroup]]
REFUSED = Counter("vision_sr1_learner_evaluation_rows_refused", "Held-out rows that could not be used, each time.")

log = structlog.get_logger()


class Evaluator:
    """Evaluates a policy version on every split of `data.evaluation`."""

    def __init__(self, config: Config) -> None:
        self._folder = config.run.path / "evaluation"
        self._splits = {name: Questions(source, config.data) for name, source in config.data.evaluation.items()}

    def __call__(self, version: int, streams: LearnerStreams, collect: Collect) -> dict[str, dict[str, float]]:
        """Metrics by split and name; each answer goes to `evaluation/v{version}-{split}.jsonl`. Every rank calls it."""
        rows = self._rows(version, streams.attempt)
        if not rows:
            return {}
        if is_main():
            streams.feed(rows.items(), pb.PURPOSE_EVALUATION, version)
        asked = Asked("evaluated", pb.PURPOSE_EVALUATION, version, set(rows), rows.__getitem__)
        groups = {group.id: group for group in collect(asked, len(rows))}
        if not is_main():
            return {}
        summary = {}
        for split in self._splits:
            answers = [
                answer_record(prompt_id, row, groups[prompt_id].rollouts[0])
                for prompt_id, row in rows.items()
                if prompt_id.startswith(f"{split}@") and prompt_id in groups and groups[prompt_id].rollouts
            ]
            self._write(version, split, answers)
            summary[split] = means(answers)
        return summary

    def _rows(self, version: int, attempt: int) -> dict[str, QuestionRow]:
        """Rows by prompt id; those that cannot be used are left out."""
        rows = {}
        for split, questions in self._splits.items():
            for index in range(len(questions)):
                try:
                    rows[evaluation_id(split, version, attempt, index)] = questions[index]
                except DataError as error:
                    REFUSED.inc()
                    log.error("row refused", split=split, error=str(error))
        return rows

    def _write(self, version: int, split: str, answers: list[Record]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path: Path = self._folder / f"v{version}-{split}.jsonl"
        path.write_text("".join(json.dumps(answer) + "\n" for answer in answers), encoding="utf-8")
