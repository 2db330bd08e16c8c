r"""The rewards of one rollout that follow from its response alone, and the rule for answers to its description.

A response without a description block gets visual reward 0 and no re-query; taking the whole response as its
description, as the authors' code does, would leak the answer.
"""

import re

from reward_service.graders import Grader
from vision_sr1.config import RewardConfig
from vision_sr1.groups import was_cut_off
from vision_sr1.parsing import ParsedResponse
from vision_sr1.v1 import pipeline_pb2 as pb

_SENTENCE_END = re.compile(r"[.;!?\n]+")
_MARKS = " \"'`*_()[]{}<>,-"
_LEAD_IN = r"\b(?:answer|solution|result)\b\s*(?:is|=|:|must be|would be|should be)?\s*:?\s*(?:the|an?)?\s*"


def response_rewards(
    parsed: ParsedResponse, rollout: pb.Rollout, grader: Grader, config: RewardConfig
) -> dict[str, float]:
    """By name: `format`, `accuracy` of the last boxed answer and `answer_leak`, each 1 or 0; `overlong`, 0 to -1."""
    return {
        "format": float(parsed.format == config.response_format),
        "accuracy": answer_reward(parsed.answer, rollout.prompt.answer, grader),
        "answer_leak": float(states_answer(parsed.description or "", parsed.answer)),
        "overlong": overlong(rollout, config.overlong_buffer_tokens),
    }


def answer_reward(answer: str | None, reference: str, grader: Grader) -> float:
    """1.0 for a right answer, 0.0 for a wrong one or none; the visual reward is this of the re-query's answer."""
    return float(answer is not None and grader(answer, reference))


def states_answer(description: str, answer: str | None) -> bool:
    r"""Whether a description gives the answer away as a bare statement instead of an observation.

    True where it has a `\boxed`, says that the answer is what the response then answers, or has a sentence that is
    nothing but that answer. That the answer's words occur in an observation ("the square is red") is what a good
    description is about, and does not count.
    """
    if "\\boxed" in description:
        return True
    if not answer:
        return False
    stated = re.escape(" ".join(answer.lower().split()))
    sentences = [" ".join(sentence.split()) for sentence in _SENTENCE_END.split(description.lower())]
    if re.search(_LEAD_IN + rf"\W?{stated}(?!\w)", " ".join(description.lower().split())):
        return True
    return any(re.fullmatch(rf"\W?{stated}\W?", sentence.strip(_MARKS)) for sentence in sentences)


def overlong(rollout: pb.Rollout, buffer_tokens: int) -> float:
    """Soft punishment of over-long responses (DAPO, arXiv 2503.14476, equation 13), 0 to -1.

    0 up to `buffer_tokens` before the response's limit, falling from there; -1 where it was cut off.
    """
    if was_cut_off(rollout.sample):
        return -1.0
    length, limit = len(rollout.sample.response_token_ids), rollout.prompt.sampling.max_tokens
    return min(0.0, (limit - buffer_tokens - length) / buffer_tokens) if buffer_tokens else 0.0
