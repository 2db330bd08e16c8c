"""Grading: whether an answer is right, by the grader of its data source, within a hard time limit."""

from collections import OrderedDict
from functools import partial

from reward_service import metrics
from reward_service.graders import exact, grade, warm_up
from reward_service.killable import CallFailedError, Killable
from vision_sr1.config import GraderName, RewardConfig
from vision_sr1.rewards import Missing, Reward
from vision_sr1.v1 import pipeline_pb2 as pb

MEMORY_BYTES = 2 * 1024**3
REMEMBERED = 65_536  # answers to one question are few and come often
SHOWN = 80  # characters of an answer in an explanation

_Case = tuple[GraderName, str, str, str]


class Grading:
    """Grades off the event loop, in processes that are killed where a grader does not end."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        names = {config.grader, *config.graders.values()}
        self._processes = Killable(config.processes, MEMORY_BYTES, partial(warm_up, names))
        self._known: OrderedDict[_Case, bool] = OrderedDict()

    async def grade(self, answer: str | None, prompt: pb.Prompt) -> Reward | Missing:
        """1 for a right answer, 0 for a wrong one or none; missing where the grader failed or took too long."""
        name = self._config.graders.get(prompt.data_source, self._config.grader)
        if answer is None:
            return Reward(0.0, r"no \boxed{} answer")
        case = (name, answer, prompt.answer, prompt.question if name == "choice" else "")
        try:
            right = await self._is_right(case)
        except CallFailedError as error:
            metrics.GRADINGS.labels(name, "failed").inc()
            return Missing(f"grader {name} on {shown(answer)} and {shown(prompt.answer)}: {error}")
        metrics.GRADINGS.labels(name, "right" if right else "wrong").inc()
        return Reward(float(right), f"{name}: {shown(answer)} is {'' if right else 'not '}{shown(prompt.answer)}")

    async def close(self) -> None:
        """Ends the processes."""
        await self._processes.close()

    async def _is_right(self, case: _Case) -> bool:
        if exact(case[1], case[2]) and case[1].strip():  # to every grader
            return True
        if (known := self._known.get(case)) is not None:
            self._known.move_to_end(case)
            return known
        right = bool(
            await self._processes.call(
                grade, *case, self._config.numeric_tolerance, timeout_s=self._config.grading_timeout_s
            )
        )
        self._known[case] = right
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return right


def shown(text: str) -> str:
    """A text as explanations quote it."""
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")
