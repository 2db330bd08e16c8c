"""Grading: whether an answer is right, by the grader of its data source, within a hard time limit."""

import math
from collections import OrderedDict
from functools import partial

from reward_service import metrics
from reward_service.graders import exact, grade, warm_up
from reward_service.judge import Judge, JudgeFailedError
from reward_service.process_pool import CallFailedError, ProcessPool
from vision_sr1.config import GraderName, RewardConfig
from vision_sr1.prompting.prompt_template import PromptTemplate
from vision_sr1.prompting.response import parse_response
from vision_sr1.rewards import MissingReward, Reward
from vision_sr1.v1 import pipeline_pb2 as pb

MEMORY_BYTES = 2 * 1024**3
REMEMBERED = 65_536  # answers to one question are few and come often
SHOWN = 80  # characters of an answer in an explanation

_Case = tuple[GraderName, str, str, str]
Question = pb.Prompt | pb.FurtherQuestion  # with its reference answer


class Grading:
    """Grades off the event loop: by rules, in processes that are killed where one does not end, or by a judge.

    Args:
        judge: asked where the grader is `judge`.
    """

    def __init__(self, config: RewardConfig, judge: Judge | None = None) -> None:
        self._config = config
        self._judge = judge
        self._turn = PromptTemplate("grade")
        self._processes = ProcessPool(config.processes, MEMORY_BYTES, partial(warm_up, config.grader_names))
        self._known: OrderedDict[_Case, float] = OrderedDict()

    async def grade(self, answer: str | None, asked: Question) -> Reward | MissingReward:
        """1 for a right answer, 0 for a wrong one or none, what a judge says between; missing where the grader failed
        or took too long."""
        return await self._grade(self._config.grader_of(asked.data_source), answer, asked)

    async def disagreement(
        self, first: Reward | MissingReward, answer: str | None, asked: Question
    ) -> Reward | MissingReward:
        """1 where the second grader says something else than the first did, 0 where not; missing where either is.

        Args:
            first: what `grade` says of the answer.
        """
        assert self._config.second_grader is not None
        second = await self._grade(self._config.second_grader, answer, asked)
        if isinstance(first, MissingReward):
            return first
        if isinstance(second, MissingReward):
            return second
        return Reward(float(first.value != second.value), f"{first.explanation}; {second.explanation}")

    async def _grade(self, name: GraderName, answer: str | None, asked: Question) -> Reward | MissingReward:
        if answer is None:
            return Reward(0.0, r"no \boxed{} answer")
        case = (name, answer, asked.answer, asked.question if name in ("choice", "judge") else "")
        try:
            worth = await self._worth(case)
        except (CallFailedError, JudgeFailedError) as error:
            metrics.GRADINGS.labels(name, "failed").inc()
            return MissingReward(f"grader {name} on {shown(answer)} and {shown(asked.answer)}: {error}")
        metrics.GRADINGS.labels(name, "right" if worth else "wrong").inc()
        said = {0.0: "is not", 1.0: "is"}.get(worth, f"is {worth:g} of")
        return Reward(worth, f"{name}: {shown(answer)} {said} {shown(asked.answer)}")

    async def close(self) -> None:
        """Ends the processes."""
        await self._processes.close()

    async def _worth(self, case: _Case) -> float:
        if exact(case[1], case[2]) and case[1].strip():  # to every grader
            return 1.0
        if (known := self._known.get(case)) is not None:
            self._known.move_to_end(case)
            return known
        if case[0] == "judge":
            worth = await self._judged(*case[1:])
        else:
            worth = float(
                await self._processes.call(
                    grade, *case, self._config.numeric_tolerance, timeout_s=self._config.grading_timeout_s
                )
            )
        self._known[case] = worth
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return worth

    async def _judged(self, answer: str, reference: str, question: str) -> float:
        assert self._judge is not None  # the configuration has been asked for one
        said = parse_response(
            (await self._judge.answer(self._turn.grading(question, reference, answer))).encode()
        ).answer
        try:
            worth = float(said or "")
        except ValueError:
            worth = math.nan
        if not 0 <= worth <= 1:
            raise JudgeFailedError(f"{self._judge.model} gave no score from 0 to 1, but {shown(said or 'nothing')}")
        return worth


def shown(text: str) -> str:
    """A text as explanations quote it."""
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")
