"""What an evaluation keeps of an answer, and the means over answers."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from vision_sr1.data import QuestionRow
from vision_sr1.pipeline.ids import evaluation_index
from vision_sr1.pipeline.response_parts import description_of
from vision_sr1.pipeline.scored_groups import is_truncated, sample_version
from vision_sr1.rewards.names import JUDGE, own_visual
from vision_sr1.v1 import pipeline_pb2 as pb

Record = dict[str, Any]
MEANS = ("accuracy", "visual", "format", "answer_leak", "judge", "fidelity")


def answer_record(prompt_id: str, row: QuestionRow, scored: pb.ScoredRollout) -> Record:
    """Question, reference, response, its parts and lengths, and every reward by name with why it is what it is."""
    rollout = scored.rollout
    description = description_of(scored)
    return {
        "id": prompt_id,
        "index": evaluation_index(prompt_id),
        "question": row.question,
        "reference": row.answer,
        "scene": row.scene,
        "response": scored.response,
        "description": description,
        "requery_response": scored.requeries[0].response if scored.requeries else "",
        "requery_answer": scored.requeries[0].answer if scored.requeries else "",
        **dict(sorted(scored.rewards.items())),
        "fidelity": None if row.scene is None else description_fidelity(description, row.scene),
        "response_tokens": len(rollout.sample.response_token_ids),
        "description_tokens": scored.description.end - scored.description.start,
        "cut_off": is_truncated(rollout.sample),
        "policy_version": sample_version(rollout.sample) if rollout.sample.versions else None,
        "explanations": dict(sorted(scored.explanations.items())),
    }


def unanswered(index: int, row: QuestionRow) -> Record:
    """The record of a question that no actor could answer: a wrong answer."""
    worth = {"accuracy": 0.0, "format": 0.0} | ({"visual": 0.0} if row.images else {})
    return {"index": index, "question": row.question, "reference": row.answer, "unanswered": True, **worth}


def means(answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the answers that have the reward.

    `shortcut` is the paper's language shortcut rate: the share of all samples whose answer is right although the
    description alone does not lead to it, by the policy's own judgement; `judge_shortcut` by the judge's.
    """
    found = {}
    for name in MEANS:
        values = [float(answer[name]) for answer in answers if answer.get(name) is not None]
        if values:
            found[name] = fmean(values)
    for name, judge in (("shortcut", "visual"), ("judge_shortcut", JUDGE)):
        both = [answer for answer in answers if "accuracy" in answer and _sufficient(answer, judge) is not None]
        if both:
            found[name] = fmean(is_shortcut(answer, judge) for answer in both)
    return found


def is_shortcut(answer: Mapping[str, Any], judge: str = "visual") -> bool:
    """Whether an answer is right although the description alone does not lead to it."""
    return bool(answer.get("accuracy")) and _sufficient(answer, judge) == 0


def _sufficient(answer: Mapping[str, Any], judge: str) -> float | None:
    """What the judge says of the description, for the row's own question."""
    return own_visual(answer) if judge == "visual" else answer.get(judge)


def description_fidelity(description: str, scene: str) -> float:
    """Share of objects described exactly right: right ones over all that are described or present.

    Both arguments are phrases joined by semicolons. Naming objects that are not there costs as much as leaving out
    ones that are, so a description cannot score by listing everything.
    """
    told = {" ".join(phrase.split()) for phrase in description.split(";") if phrase.strip()}
    true = {" ".join(phrase.split()) for phrase in scene.split(";") if phrase.strip()}
    return len(told & true) / len(told | true) if told | true else 1.0
