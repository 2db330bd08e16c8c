"""The benchmark collector: issues the questions as evaluation prompts, and writes down the answers."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

import structlog
from prometheus_client import Counter

from vision_sr1.cli.evaluation.benchmark_graders import data_source
from vision_sr1.cli.evaluation.benchmarks import Item, questionnaire
from vision_sr1.cli.evaluation.records import Records
from vision_sr1.config import Config
from vision_sr1.data import DataError, QuestionRow
from vision_sr1.pipeline.answer_record import Record, answer_record, means, unanswered
from vision_sr1.pipeline.evaluation_prompts import EvaluationPrompts
from vision_sr1.pipeline.ids import evaluation_id
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.names import SCALARS
from vision_sr1.streams import Blobs, Interruptions, Keys, PromptImages, RetryingRedis, forget
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

POLL_S = 1.0
SAID_EVERY_S = 2.0
AT_ONCE = 64
REFUSED = Counter("vision_sr1_evaluation_rows_refused", "Rows of benchmarks that could not be used.", ["benchmark"])
UNANSWERED = Counter("vision_sr1_evaluation_unanswered", "Questions that no actor could answer.", ["benchmark"])
ASKED_AGAIN = Counter("vision_sr1_evaluation_asked_again", "Questions issued again because Redis lost them.")


class NoAnswersError(RuntimeError):
    """No answer came for too long; the message says where work is stuck."""


@dataclass(frozen=True)
class _Question:
    benchmark: str
    index: int
    item: Item
    row: QuestionRow


class BenchmarkCollector:
    """Asks what has no answer yet of all configured benchmarks.

    Args:
        version: of the policy that the actors hold.

    Raises:
        DataError: a benchmark cannot be read.
    """

    def __init__(self, config: Config, version: int, redis: RetryingRedis) -> None:
        keys = Keys(config.streams_name)
        self._config = config
        self._version = version
        self._redis = redis
        self._keys = keys
        images = PromptImages(Blobs(redis, keys, config.streams.image_ttl_s))
        self._prompts = EvaluationPrompts(config, redis, images, consumer="evaluation")
        self._interruptions = Interruptions(redis)
        self._benchmarks = {name: questionnaire(name, config) for name in config.evaluation.benchmarks}
        self._records = {name: Records(config.run.path, name) for name in self._benchmarks}
        self._total = sum(len(asked.numbers) for asked in self._benchmarks.values())
        self._to_come = self._questions()
        self._waiting: dict[str, _Question] = {}
        self._quiet_since = self._looked_at = time.monotonic()
        self._said_at = 0.0

    async def run(self, stop: asyncio.Event) -> bool:
        """Asks until every question has an answer; false where it was stopped before.

        Raises:
            NoAnswersError: none came for `learner.groups_timeout_s`.
            RedisError: the streams were out of reach for too long.
        """
        await forget(self._redis, self._keys)  # what an earlier attempt learned is on the disk
        await self._prompts.open()
        while await self._issue():
            if stop.is_set():
                return False
            came = await self._take()
            if time.monotonic() - self._said_at > SAID_EVERY_S:
                self._say()
            await self._be_patient(came)
        self._say()
        return True

    def _questions(self) -> Iterator[_Question]:
        """Those without an answer; rows that cannot be used are written down as such."""
        for name, asked in self._benchmarks.items():
            records = self._records[name]
            for index, item in asked.items(records.__contains__):
                if isinstance(item, DataError):
                    REFUSED.labels(name).inc()
                    log.error(
                        "row_refused", message="The row cannot be used and is skipped", benchmark=name, error=str(item)
                    )
                    records.add({"index": index, "refused": str(item)})
                else:
                    source = data_source(name, item, self._config.evaluation)
                    row = QuestionRow(item.question, item.answer, item.images, source, item.scene)
                    yield _Question(name, index, item, row)

    async def _issue(self) -> bool:
        """Issues as many as may be in flight; whether any are."""
        while len(self._waiting) < self._config.evaluation.prompts_in_flight:
            question = await asyncio.to_thread(next, self._to_come, None)
            if question is None:
                break
            prompt_id = evaluation_id(question.benchmark, self._version, 0, question.index)
            self._waiting[prompt_id] = question
            await self._prompts.issue([(prompt_id, question.row)], self._version)
        return bool(self._waiting)

    async def _take(self) -> int:
        """Writes down what has come, or comes within POLL_S; how many questions it answers."""
        if await self._interruptions.happened():
            await self._prompts.recover()
        groups = await self._prompts.collect(self._waiting.keys(), AT_ONCE, POLL_S)
        for group in groups:
            question = self._waiting.pop(group.id)
            self._records[question.benchmark].add(self._record(question, group))
        return len(groups)

    def _record(self, question: _Question, group: pb.ScoredGroup) -> Record:
        kept: Record = {"benchmark": question.benchmark, "tags": question.item.tags}
        if not group.rollouts:
            UNANSWERED.labels(question.benchmark).inc()
            log.error(
                "question_unanswered",
                message="No actor could answer the question; see `vision-sr1 streams dead list`",
                item=group.id,
            )
            return kept | unanswered(question.index, question.row)
        record = answer_record(group.id, question.row, group.rollouts[0])
        return kept | record | {"index": question.index}

    def _say(self) -> None:
        """Writes means over the answers so far as scalars, which the launcher shows."""
        self._said_at = time.monotonic()
        answers = [answer for records in self._records.values() for answer in records.all()]
        scalars = {f"reward/{name}": value for name, value in means(answers).items()}
        line = {"step": len(answers), "total": self._total, "time": time.time(), **scalars}
        jsonl.append(self._config.run.path / SCALARS, line)

    async def _be_patient(self, came: int) -> None:
        """Asks again what the streams have lost, and gives up where nothing comes for too long."""
        now = time.monotonic()
        if came:
            self._quiet_since = self._looked_at = now
        if now - self._looked_at > 2 * self._config.streams.lease_s:
            self._looked_at = now
            lost = await self._prompts.lost(self._waiting)
            ASKED_AGAIN.inc(len(lost))
            await self._prompts.issue([(prompt_id, self._waiting[prompt_id].row) for prompt_id in lost], self._version)
        if now - self._quiet_since > self._config.learner.groups_timeout_s:
            raise NoAnswersError(
                f"no answer for {self._config.learner.groups_timeout_s:.0f} s, with {len(self._waiting)} questions "
                "waiting: look at the logs of the actors and of the reward service, or raise learner.groups_timeout_s"
            )
