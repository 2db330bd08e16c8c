"""Scores that are more than the mean of all answers."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Tagged:
    """An answer as scores see it: what the question was of, and how right it is."""

    tags: dict[str, str]
    accuracy: float


Weights = Callable[[Sequence[Tagged]], Float[np.ndarray, " answers"]]
Score = Callable[[Sequence[Tagged]], float | None]  # None where none of the answers is of its kind


def mean_over(tag: str) -> Weights:
    """Weights under which each value of a tag counts the same, however many questions it has."""

    def weights(answers: Sequence[Tagged]) -> Float[np.ndarray, " answers"]:
        values = [answer.tags.get(tag, "") for answer in answers]
        counts = Counter(values)
        return np.array([1.0 / counts[value] for value in values])

    return weights


def only(tag: str, *values: str) -> Weights:
    """Weights under which only answers with one of these values count; all do where none has the tag."""

    def weights(answers: Sequence[Tagged]) -> Float[np.ndarray, " answers"]:
        if not any(tag in answer.tags for answer in answers):
            return np.ones(len(answers))
        return np.array([float(answer.tags.get(tag) in values) for answer in answers])

    return weights


def all_right(*tags: str, needs: str = "") -> Score:
    """The share of groups, of answers that agree in these tags, in which every answer is right.

    Args:
        needs: a tag without which an answer is of no group.
    """

    def share(answers: Sequence[Tagged]) -> float | None:
        groups: dict[tuple[str, ...], bool] = {}
        for answer in answers:
            if tags[0] in answer.tags and (not needs or needs in answer.tags):
                key = tuple(answer.tags.get(tag, "") for tag in tags)
                groups[key] = groups.get(key, True) and answer.accuracy == 1
        return sum(groups.values()) / len(groups) if groups else None

    return share


def accuracy_where(setting: str, image: str) -> Score:
    """The accuracy of answers with these tags, of which `image` names several."""

    def mean(answers: Sequence[Tagged]) -> float | None:
        found = [a.accuracy for a in answers if a.tags.get("setting") == setting and a.tags.get("image", "-") in image]
        return sum(found) / len(found) if found else None

    return mean
