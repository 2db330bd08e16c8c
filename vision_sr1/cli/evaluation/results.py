"""From answers to numbers: scores with bootstrap intervals, per benchmark and overall."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Float

from vision_sr1.cli.evaluation.benchmarks import Benchmark, Tagged
from vision_sr1.pipeline.answer_record import Record, means

LEVEL = 0.95  # of the intervals
MOST_VALUES = 40  # of a tag that accuracies are broken down by
LENGTHS = ("response_tokens", "description_tokens")

Replicates = Float[np.ndarray, " resamples"]


@dataclass(frozen=True)
class Interval:
    """A score, and the percentiles of its bootstrap distribution."""

    score: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """What a benchmark came to.

    Attributes:
        questions: that could be used; those unanswered count as wrong, those unscored not at all.
        refused, unanswered, unscored: rows that could not be used, questions no actor could answer, and answers that no
            grader could grade.
        score: the benchmark's own; None without a graded answer.
        means: rates and lengths over its answers.
        also: its other scores.
        by: accuracy by the values of tags, each with its number of answers.
    """

    name: str
    title: str
    questions: int
    refused: int
    unanswered: int
    unscored: int
    score: Interval | None
    means: dict[str, float]
    also: dict[str, float]
    by: dict[str, dict[str, tuple[int, float]]]


def result(benchmark: Benchmark, records: Sequence[Record], resamples: int) -> tuple[Result, Replicates]:
    """A benchmark's numbers, and the bootstrap replicates of its score."""
    refused = [record for record in records if "refused" in record]
    asked = [record for record in records if "refused" not in record]
    graded = [record for record in asked if "accuracy" in record]
    tagged = [Tagged(record.get("tags", {}), float(record["accuracy"])) for record in graded]
    replicates = np.zeros(0)
    score = None
    if tagged:
        accuracies = np.array([answer.accuracy for answer in tagged])
        weights = benchmark.weights(tagged) if benchmark.weights is not None else np.ones(len(tagged))
        replicates = _resampled(accuracies, weights, resamples)
        score = _interval(float((weights * accuracies).sum() / weights.sum()), replicates)
    lengths = {name: _mean_of(graded, name) for name in LENGTHS}
    rates = means(graded) | {"cut_off": fmean(bool(a.get("cut_off")) for a in graded)} if graded else {}
    also = {name: rule(tagged) for name, rule in benchmark.also.items()} if tagged else {}
    return (
        Result(
            name=benchmark.name,
            title=benchmark.title,
            questions=len(asked),
            refused=len(refused),
            unanswered=sum(bool(record.get("unanswered")) for record in asked),
            unscored=len(asked) - len(graded),
            score=score,
            means={name: value for name, value in {**rates, **lengths}.items() if value is not None},
            also={name: value for name, value in also.items() if value is not None},
            by=_by_tags(tagged),
        ),
        replicates,
    )


def average(results: Sequence[tuple[Result, Replicates]]) -> Interval | None:
    """The mean of several benchmarks' scores, each the same; None where one has none."""
    if not results or any(found.score is None for found, _ in results):
        return None
    replicates = np.mean([replicates for _, replicates in results], axis=0)
    return _interval(fmean(found.score.score for found, _ in results if found.score is not None), replicates)


def mean_rate(results: Sequence[Result], name: str) -> float | None:
    """The mean of a rate over the benchmarks that have it."""
    values = [found.means[name] for found in results if name in found.means]
    return fmean(values) if values else None


def _resampled(
    accuracies: Float[np.ndarray, " answers"], weights: Float[np.ndarray, " answers"], resamples: int
) -> Replicates:
    """Weighted means of samples of the answers, drawn with replacement (percentile bootstrap)."""
    chance = np.random.default_rng(0)  # the same intervals for the same answers
    replicates = np.empty(resamples)
    for place in range(resamples):
        drawn = chance.integers(len(accuracies), size=len(accuracies))
        total = weights[drawn].sum()
        replicates[place] = (weights[drawn] * accuracies[drawn]).sum() / total if total else 0.0
    return replicates


def _interval(score: float, replicates: Replicates) -> Interval:
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(score, float(low), float(high))


def _mean_of(records: Sequence[Record], name: str) -> float | None:
    values: list[Any] = [record[name] for record in records if record.get(name) is not None]
    return fmean(values) if values else None


def _by_tags(answers: Sequence[Tagged]) -> dict[str, dict[str, tuple[int, float]]]:
    """For tags of several values, and not too many."""
    found: dict[str, dict[str, list[float]]] = {}
    for answer in answers:
        for tag, value in answer.tags.items():
            found.setdefault(tag, {}).setdefault(value, []).append(answer.accuracy)
    return {
        tag: {value: (len(right), fmean(right)) for value, right in sorted(values.items())}
        for tag, values in sorted(found.items())
        if 1 < len(values) <= MOST_VALUES
    }
