"""Evaluation on held-out data, through the same actors and reward service as training, greedily."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import structlog
from prometheus_client import Counter

from learner.engine import is_main
from learner.streams import Asked, LearnerStreams
from vision_sr1.config import Config
from vision_sr1.data import DataError, QuestionRow, Questions
from vision_sr1.groups import evaluation_id
from vision_sr1.parsing import parse_response
from vision_sr1.tasks.task import description_fidelity
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
            summary[split] = _metrics(answers)
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

    def _write(self, version: int, split: str, answers: list[dict[str, object]]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path: Path = self._folder / f"v{version}-{split}.jsonl"
        path.write_text("".join(json.dumps(answer) + "\n" for answer in answers), encoding="utf-8")


def answer_record(prompt_id: str, row: QuestionRow, scored: pb.ScoredRollout) -> dict[str, object]:
    """What an evaluation keeps of an answer: question, reference, response, its parts, and every reward by name."""
    description = parse_response(scored.response.encode()).description or ""
    return {
        "id": prompt_id,
        "index": int(prompt_id.rpartition("/")[2]),
        "question": row.question,
        "reference": row.answer,
        "scene": row.scene,
        "response": scored.response,
        "description": description,
        "requery_answer": scored.requeries[0].answer if scored.requeries else "",
        **dict(sorted(scored.rewards.items())),
        "fidelity": None if row.scene is None else description_fidelity(description, row.scene),
    }


def _metrics(answers: list[dict[str, object]]) -> dict[str, float]:
    """Means over the answers that have the reward.

    `shortcut` is the paper's language shortcut rate: the share of all samples whose answer is right although the
    description alone does not lead to it, by the policy's own judgement; `judge_shortcut` by the judge's.
    """
    metrics = {}
    for name in ("accuracy", "visual", "format", "answer_leak", "judge", "fidelity"):
        values = [float(str(answer[name])) for answer in answers if answer.get(name) is not None]
        if values:
            metrics[name] = fmean(values)
    for name, judge in (("shortcut", "visual"), ("judge_shortcut", "judge")):
        both = [answer for answer in answers if {"accuracy", judge} <= answer.keys()]
        if both:
            metrics[name] = fmean(bool(answer["accuracy"]) and not answer[judge] for answer in both)
    return metrics
