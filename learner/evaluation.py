"""Evaluation on held-out data, through the same actors and reward service as training, greedily."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog
from prometheus_client import Counter

from learner.distributed.ranks import is_main
from learner.groups.collector import PendingGroups
from learner.metrics.trackers import TrackedExample
from vision_sr1.config import Config
from vision_sr1.data import DataError, QuestionRow, Questions
from vision_sr1.pipeline.answer_record import Record, answer_record, means
from vision_sr1.pipeline.ids import evaluation_id, evaluation_index, evaluation_split
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.names import EVALUATION
from vision_sr1.v1 import pipeline_pb2 as pb

REFUSED = Counter(
    "vision_sr1_learner_evaluation_rows_refused", "Held-out rows that could not be used, counted in every evaluation."
)

log = structlog.get_logger()

Issue = Callable[[Iterable[tuple[str, QuestionRow]], "pb.Purpose", int], None]


@dataclass(frozen=True)
class SplitResult:
    """One split: metrics by name, and some of its answers."""

    split: str
    metrics: dict[str, float]
    samples: list[TrackedExample]


@dataclass(frozen=True)
class PendingEvaluation:
    """An evaluation under way: the groups that it waits for, and the rows that their prompts were made of."""

    groups: PendingGroups
    rows: dict[str, QuestionRow]


class Evaluator:
    """Evaluates a policy version on every split of `data.evaluation`; every rank calls it."""

    def __init__(self, config: Config) -> None:
        self._folder = config.run.path / EVALUATION
        self._samples = config.metrics.samples
        self._splits = {
            name: Questions(source, config.data, reward=config.reward)
            for name, source in config.data.evaluation.items()
        }

    def begin(self, version: int, attempt: int, issue: Issue) -> PendingEvaluation | None:
        """Issues the questions, which the actors answer beside what else they have to do; None where there are none.

        Args:
            attempt: how many learners have led the run before.
            issue: puts prompts on the stream, by their ids; see `RunConnection.issue`.
        """
        rows = self._rows(version, attempt)
        if not rows:
            return None
        if is_main():
            issue(rows.items(), pb.PURPOSE_EVALUATION, version)
        return PendingEvaluation(PendingGroups(pb.PURPOSE_EVALUATION, version, set(rows)), rows)

    def finish(self, pending: PendingEvaluation, answers: list[pb.ScoredGroup]) -> list[SplitResult]:
        """Means over the answers, each of which goes to `evaluation/v{version}-{split}.jsonl`."""
        groups = {group.id: group for group in answers}
        found = []
        for split in self._splits:
            answered = [
                (
                    pending.rows[prompt_id],
                    answer_record(prompt_id, pending.rows[prompt_id], groups[prompt_id].rollouts[0]),
                )
                for prompt_id in sorted(pending.rows, key=evaluation_index)
                if evaluation_split(prompt_id) == split and prompt_id in groups and groups[prompt_id].rollouts
            ]
            records = [record for _, record in answered]
            self._write(pending.groups.policy_version, split, records)
            samples = [_sample(row, record) for row, record in answered[: self._samples]]
            found.append(SplitResult(split, means(records), samples))
        return found

    def _rows(self, version: int, attempt: int) -> dict[str, QuestionRow]:
        """Rows by prompt id; those that cannot be used are left out."""
        rows = {}
        for split, questions in self._splits.items():
            for index in range(len(questions)):
                try:
                    rows[evaluation_id(split, version, attempt, index)] = questions[index]
                except DataError as error:
                    REFUSED.inc()
                    log.error(
                        "row_refused", message="The row cannot be used and is skipped", split=split, error=str(error)
                    )
        return rows

    def _write(self, version: int, split: str, answers: list[Record]) -> None:
        jsonl.write(self._folder / f"v{version}-{split}.jsonl", answers)


def _sample(row: QuestionRow, answer: Record) -> TrackedExample:
    texts = {"question": "question", "reference": "reference", "response": "response"}
    texts |= {"requery_response": "from the description alone"}
    cells: dict[str, str | float] = {title: answer[name] for name, title in texts.items()}
    cells |= {name: answer[name] for name in ("accuracy", "visual", "format") if name in answer}
    return TrackedExample(row.images[0] if row.images else None, cells)
