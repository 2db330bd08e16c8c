r"""The rewards of one rollout: format and accuracy from its response, visual from its re-query.

A response without a description block gets visual reward 0 and no re-query; taking the whole response as its
description, as the authors' code does, would leak the answer.
"""

from dataclasses import dataclass

from reward_service.graders import Grader
from vision_sr1.parsing import ParsedResponse


@dataclass(frozen=True)
class ResponseRewards:
    """What the response itself earns: 1.0 or 0.0 each."""

    format: float
    accuracy: float


def response_rewards(parsed: ParsedResponse, reference: str, grader: Grader) -> ResponseRewards:
    """Format: the whole response is well formed. Accuracy: its last boxed answer is right."""
    return ResponseRewards(
        format=float(parsed.well_formed),
        accuracy=answer_reward(parsed.answer, reference, grader),
    )


def answer_reward(answer: str | None, reference: str, grader: Grader) -> float:
    """1.0 for a right answer, 0.0 for a wrong one or none; the visual reward is this of the re-query's answer."""
    return float(answer is not None and grader(answer, reference))
