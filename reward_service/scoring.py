"""Scoring: every reward of a rollout or a group, each with its explanation, or with why it is missing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from statistics import fmean
from typing import Any

import structlog
from transformers import AutoTokenizer

from reward_service import metrics
from reward_service.grading import Grading
from reward_service.judge import Judge, JudgeFailedError
from reward_service.requery import Requerier, RequeryFailedError
from reward_service.rewards import RESPONSE_REWARDS
from reward_service.rewards.format import has_requery_format
from reward_service.rewards.user_functions import ImageSource, Outcome, RewardFunctions
from vision_sr1.config import Config
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.pipeline.prompt_properties import has_images, questions_of
from vision_sr1.pipeline.response_parts import parse_parts, response_format
from vision_sr1.pipeline.scored_groups import is_truncated
from vision_sr1.prompting.response import TokenBytes, parse_response
from vision_sr1.rewards import MissingReward, Reward, ScoredResponse
from vision_sr1.rewards.names import GRADER_DISAGREEMENT, JUDGE, OF_REQUERIES, VISUAL_OWN
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

NOTHING_TO_ASK = Reward(0.0, "no description: nothing to ask about")
EXPLANATION_LENGTH = 500  # characters

_Answers = list[pb.Requery] | MissingReward  # to one question, or why there are none


class Scorer:
    """Gives rewards. What one of them cannot be given for never stops another."""

    def __init__(
        self,
        config: Config,
        tokenizer: Any,
        grading: Grading,
        requerier: Requerier,
        judge: Judge | None,
        functions: RewardFunctions,
    ) -> None:
        self._config = config.reward
        self._has_requery = config.has_requery
        self._tokenizer = tokenizer
        self.tokens = TokenBytes(tokenizer)
        self._grading = grading
        self._requerier = requerier
        self._judge = judge
        self._functions = functions

    def token_ids(self, text: str) -> list[int]:
        """A response that was written by hand, as the policy's tokens."""
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    async def score(self, rollout: pb.Rollout, answered: pb.ScoredRollout | None = None) -> pb.ScoredRollout:
        """The rollout with its rewards, the spans of its parts, its re-queries and its judgement.

        Args:
            answered: the same rollout scored before: its re-queries and judgement are graded, and nobody is asked.
        """
        scored = pb.ScoredRollout(rollout=rollout, response=self._text(rollout.sample))
        parts = self._parts(scored)
        for name in ("description", "think", "answer"):
            if parts.HasField(f"{name}_span"):
                getattr(scored, name).CopyFrom(getattr(parts, f"{name}_span"))
        view = _scored_response(scored)
        _give(scored, {name: rule(view, self._config) for name, rule in RESPONSE_REWARDS.items()})
        answers = await self._answers(scored, answered)
        _give(scored, answers)
        if self._config.second_grader:
            second = await self._grading.disagreement(answers["accuracy"], _given(parts), rollout.prompt)
            _give(scored, {GRADER_DISAGREEMENT: second})
        if self._config.functions:
            _give(scored, await self._functions.of_rollout(_scored_response(scored), rollout.prompt.images))
        return scored

    async def score_group(self, group: pb.ScoredGroup) -> None:
        """Adds the rewards that are given per group."""
        for scored in group.rollouts:
            self._parts(scored)
        answers = [_scored_response(scored) for scored in group.rollouts]
        if not answers:
            return
        given = await self._functions.of_group(answers, group.rollouts[0].rollout.prompt.images)
        for place, scored in enumerate(group.rollouts):
            _give(scored, {name: outcomes[place] for name, outcomes in given.items()})

    async def _answers(self, scored: pb.ScoredRollout, answered: pb.ScoredRollout | None) -> dict[str, Outcome]:
        """What the response's own answer is worth, and those that others give from its description."""
        parts = scored.rollout.parts
        grading = self._grading.grade(_given(parts), scored.rollout.prompt)
        if not has_images(scored.rollout.prompt):  # nothing was to be described
            return {"accuracy": await grading}
        recorded = answered is not None and len(answered.requeries) > 0
        is_evaluation = scored.rollout.prompt.purpose == pb.PURPOSE_EVALUATION
        asks_again = recorded or self._has_requery(evaluation=is_evaluation)
        if not parts.description:
            asked = (
                *(OF_REQUERIES if asks_again else ()),
                *([VISUAL_OWN] if asks_again and self._gives_own(scored) else ()),
                *([JUDGE] if self._judge is not None else ()),
            )
            return {"accuracy": await grading, **dict.fromkeys(asked, NOTHING_TO_ASK)}
        accuracy, visual, judged = await asyncio.gather(
            grading,
            self._visual(scored, answered) if asks_again else _nothing(),
            self._judged(scored, answered),
        )
        return {"accuracy": accuracy, **visual, **judged}

    async def _visual(self, scored: pb.ScoredRollout, answered: pb.ScoredRollout | None) -> dict[str, Outcome]:
        """The policy's own answers from the description, to each question that it is asked."""
        questions = questions_of(scored.rollout.prompt)
        if answered is not None and answered.requeries:
            answers = [_recorded(answered, number) for number in range(len(questions))]
        else:
            answers = await asyncio.gather(*(self._asked(scored.rollout, number) for number in range(len(questions))))
        worth = [await self._graded(scored, given, asked) for given, asked in zip(answers, questions, strict=True)]
        formats = [requery.rewards["requery_format"] for requery in scored.requeries]
        unanswered = next((given for given in answers if isinstance(given, MissingReward)), None)
        return {
            "visual": _mean_over_questions(worth),
            **({VISUAL_OWN: worth[0]} if self._gives_own(scored) else {}),
            "requery_format": unanswered
            or Reward(fmean(formats), f"{sum(formats):g} of {len(formats)} are <think>, \\boxed{{}}"),
        }

    def _gives_own(self, scored: pb.ScoredRollout) -> bool:
        """Whether `visual` may be about further questions, so that the own one's share is given beside it."""
        return self._config.requery.questions > 1 or bool(scored.rollout.prompt.further_questions)

    async def _asked(self, rollout: pb.Rollout, question: int) -> _Answers:
        """Answers of the policy to one question."""
        try:
            return await self._requerier.ask(rollout, question)
        except RequeryFailedError as error:
            log.error(
                "requery_failed",
                message="No actor answered the re-query",
                rollout=rollout.id,
                question=question,
                error=str(error),
            )
            return MissingReward(str(error))

    async def _graded(self, scored: pb.ScoredRollout, answers: _Answers, asked: pb.FurtherQuestion) -> Outcome:
        """Adds the answers to one question to the rollout, each with its own rewards; returns their mean."""
        if isinstance(answers, MissingReward):
            return answers
        right: list[Outcome] = []
        for answer in answers:
            requery = scored.requeries.add()
            requery.CopyFrom(answer)
            requery.response = self._text(answer.sample)
            parsed = parse_response(requery.response.encode())
            requery.answer = parsed.answer or ""
            requery.rewards.clear()
            requery.rewards["requery_format"] = float(has_requery_format(requery.response, parsed, self._config))
            right.append(await self._grading.grade(parsed.answer, asked))
            if isinstance(right[-1], Reward):
                requery.rewards["visual"] = right[-1].value
        return _mean(right)

    async def _judged(self, scored: pb.ScoredRollout, answered: pb.ScoredRollout | None) -> dict[str, Outcome]:
        """The judge's answer from the description."""
        if self._judge is None:
            return {}
        turn = self._requerier.prompt(scored.rollout.parts.description, scored.rollout.prompt.question)
        try:
            if answered is not None and answered.HasField("judgement"):
                response = answered.judgement.response
            else:
                response = await self._judge.answer(turn)
        except JudgeFailedError as error:
            log.error("judge_failed", message="The judge did not answer", rollout=scored.rollout.id, error=str(error))
            return {JUDGE: MissingReward(str(error))}
        answer = parse_response(response.encode()).answer
        scored.judgement.CopyFrom(pb.Judgement(model=self._judge.model, response=response, answer=answer or ""))
        return {JUDGE: await self._grading.grade(answer, scored.rollout.prompt)}

    def _parts(self, scored: pb.ScoredRollout) -> pb.ResponseParts:
        """The response's parts; from here on the rollout has them."""
        if not scored.rollout.HasField("parts"):
            scored.rollout.parts.CopyFrom(parse_parts(self.tokens.of(list(scored.rollout.sample.response_token_ids))))
        return scored.rollout.parts

    def _text(self, sample: pb.Sample) -> str:
        return b"".join(self.tokens.of(list(sample.response_token_ids))).decode("utf-8", errors="replace")


@contextlib.asynccontextmanager
async def open_scorer(config: Config, fleet: Fleet | None, images: ImageSource) -> AsyncIterator[Scorer]:
    """A scorer with all that it asks: graders, actors, the judge and functions of the user's.

    Args:
        fleet: None where the run is over: what is not recorded of re-queries is missing.

    Raises:
        ConfigError: a reward's function cannot be found.
    """
    reward = config.reward
    tokenizer = AutoTokenizer.from_pretrained(config.model.path)
    functions = RewardFunctions(reward.functions, reward.processes, images)
    judge = Judge(reward.judge) if reward.judge.url else None
    grading, requerier = Grading(reward, judge), Requerier(reward.requery, fleet, config.tls)
    try:
        yield Scorer(config, tokenizer, grading, requerier, judge if reward.judge.answers else None, functions)
    finally:
        await requerier.close()
        await grading.close()
        await functions.close()
        if judge is not None:
            await judge.close()


async def _nothing() -> dict[str, Outcome]:
    return {}


def _give(scored: pb.ScoredRollout, outcomes: Mapping[str, Outcome]) -> None:
    for name, outcome in outcomes.items():
        if isinstance(outcome, MissingReward):
            scored.missing.append(name)
            metrics.MISSING.labels(name).inc()
            log.error(
                "reward_missing",
                message="The reward could not be given",
                rollout=scored.rollout.id,
                reward=name,
                reason=outcome.reason,
            )
        else:
            scored.rewards[name] = outcome.value
        said = outcome.reason if isinstance(outcome, MissingReward) else outcome.explanation
        scored.explanations[name] = said[:EXPLANATION_LENGTH]


def _mean(outcomes: list[Outcome]) -> Outcome:
    """Of those that are not missing."""
    given = [outcome for outcome in outcomes if isinstance(outcome, Reward)]
    if not given:
        return next(outcome for outcome in outcomes if isinstance(outcome, MissingReward))
    said = "; ".join(dict.fromkeys(reward.explanation for reward in given))
    value = fmean(reward.value for reward in given)
    return Reward(value, said if len(outcomes) == 1 else f"mean of {len(given)} of {len(outcomes)}: {said}")


def _recorded(answered: pb.ScoredRollout, question: int) -> _Answers:
    found = [requery for requery in answered.requeries if requery.question == question]
    return found or MissingReward("no answer to it was recorded")


def _mean_over_questions(worth: list[Outcome]) -> Outcome:
    """Each counts as much as another. Missing where one of them is: descriptions are compared by the same questions."""
    if len(worth) == 1:
        return worth[0]
    for number, outcome in enumerate(worth):
        if isinstance(outcome, MissingReward):
            return MissingReward(f"question {number + 1} of {len(worth)}: {outcome.reason}")
    given = [outcome for outcome in worth if isinstance(outcome, Reward)]
    said = "; ".join(reward.explanation for reward in given)
    return Reward(fmean(reward.value for reward in given), f"mean over {len(given)} questions: {said}")


def _scored_response(scored: pb.ScoredRollout) -> ScoredResponse:
    rollout = scored.rollout
    prompt, parts = rollout.prompt, rollout.parts
    return ScoredResponse(
        id=rollout.id,
        question=prompt.question,
        reference=prompt.answer,
        data_source=prompt.data_source,
        response=scored.response,
        description=parts.description if parts.HasField("description") else None,
        answer=_given(parts),
        format=response_format(parts),
        token_ids=tuple(rollout.sample.response_token_ids),
        max_tokens=prompt.sampling.max_tokens,
        is_truncated=is_truncated(rollout.sample),
        requeries=tuple(requery.response for requery in scored.requeries if not requery.question),
        has_images=has_images(prompt),
        rewards=dict(scored.rewards),
    )


def _given(parts: pb.ResponseParts) -> str | None:
    """The answer; None without one."""
    return parts.answer if parts.HasField("answer") else None
