"""Rewards by name, and their ranges (docs/rewards.md)."""

from collections.abc import Mapping
from typing import Any

# The rewards that every rollout gets, and their ranges.
RANGES = {
    "format": (0.0, 1.0),
    "accuracy": (0.0, 1.0),
    "visual": (0.0, 1.0),
    "requery_format": (0.0, 1.0),
    "answer_leak": (0.0, 1.0),
    "overlong": (-1.0, 0.0),
    "repetition": (-1.0, 0.0),
}
JUDGE = "judge"  # 0 to 1; given where reward.judge is configured
VISUAL_OWN = "visual_own"  # 0 to 1; given where reward.requery.questions is more than 1
GRADER_DISAGREEMENT = "grader_disagreement"  # 0 or 1; given where reward.second_grader is configured
# What stands beside the rewards by its name.
BESIDE_REWARDS = {
    *("outcome", "response_tokens"),  # in the store's counts
    *("shortcut", "judge_shortcut"),  # in curves
    *("benchmark", "tags", "id", "index", "question", "reference", "scene", "refused", "unanswered"),  # in answers kept
    *("response", "description", "requery_response", "requery_answer", "fidelity", "description_tokens", "cut_off"),
    *("policy_version", "explanations"),
}
OF_REQUERIES = ("visual", "requery_format")  # given where a re-query is made: reward.requery.when
OF_DESCRIPTIONS = (*OF_REQUERIES, VISUAL_OWN, JUDGE)  # a question without images has none of these


def own_visual(rewards: Mapping[str, Any]) -> float | None:
    """What a description is worth for the prompt's own question, whatever else it is asked; None where that is missing.

    By this shortcuts are counted, so that their rate does not depend on reward.requery.questions.
    """
    return rewards.get(VISUAL_OWN, rewards.get("visual"))
