"""Scalars of a batch of scored groups: rewards, lengths, and how many groups there is something to learn from."""

import re
from collections import defaultdict
from collections.abc import Iterator
from math import comb
from statistics import fmean

import numpy as np

from learner.objective.samples import group_has_signal
from vision_sr1.config import LearnerConfig
from vision_sr1.pipeline.scored_groups import is_empty, is_truncated, sample_version
from vision_sr1.rewards.names import JUDGE, own_visual
from vision_sr1.v1 import pipeline_pb2 as pb

PERCENTILES = (10, 50, 90, 99)
DISAGREEMENTS = {"accuracy_visual": ("accuracy", "visual"), "visual_judge": ("visual", JUDGE)}  # on the own question


def batch_scalars(groups: list[pb.ScoredGroup], settings: LearnerConfig) -> dict[str, float]:
    """Rewards by name, of those that are not missing, and by data source; lengths; and what groups are worth.

    `learner.metrics.reference` defines each.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not rollouts:
        return {"empty_groups/count": float(len(groups))}
    signal = fmean(group_has_signal(group, settings) for group in groups)
    names = sorted({name for r in rollouts for name in (*r.rewards, *r.missing)})
    given = {name: [r.rewards[name] for r in rollouts if name in r.rewards] for name in names}
    own = [_of_own_question(r) for r in rollouts]
    both = [rewards for rewards in own if {"accuracy", "visual"} <= rewards.keys()]
    same = [q.policy_version == sample_version(r.rollout.sample) for r in rollouts for q in r.requeries]
    return {
        **{f"reward/{name}": fmean(values) for name, values in given.items() if values},
        **{f"reward_missing/{name}": 1 - len(values) / len(rollouts) for name, values in given.items()},
        "reward/shortcut": fmean(r["accuracy"] > 0 and r["visual"] == 0 for r in both) if both else 0.0,
        **dict(_by_source(rollouts, sorted({name for c in settings.components for name in c.reward}))),
        **dict(_disagreements(rollouts)),
        **dict(_pass_at(groups)),
        **_lengths(rollouts),
        "groups_with_signal/share": signal,
        "same_weights/share": fmean(same) if same else 1.0,
        "empty_groups/count": float(sum(not group.rollouts for group in groups)),
    }


def pass_at(k: int, answers: int, right: int) -> float:
    """The probability that one or more of k answers, drawn from these without replacement, is right.

    The estimator of arXiv 2107.03374: 1 - C(n - c, k) / C(n, k).
    """
    return 1.0 - comb(answers - right, k) / comb(answers, k)


def _pass_at(groups: list[pb.ScoredGroup]) -> Iterator[tuple[str, float]]:
    """For powers of two; each over the groups that have so many answers whose accuracy is known."""
    graded = [[r.rewards["accuracy"] > 0 for r in group.rollouts if "accuracy" in r.rewards] for group in groups]
    k = 1
    while values := [pass_at(k, len(right), sum(right)) for right in graded if len(right) >= k]:
        yield f"pass_at/{k}", fmean(values)
        k *= 2


def _by_source(rollouts: list[pb.ScoredRollout], rewards: list[str]) -> Iterator[tuple[str, float]]:
    """Those rewards that components use."""
    by_source: dict[str, list[pb.ScoredRollout]] = defaultdict(list)
    for rollout in rollouts:
        by_source[_source_name(rollout.rollout.prompt.data_source)].append(rollout)
    for source, members in sorted(by_source.items()):
        for name in rewards:
            if values := [member.rewards[name] for member in members if name in member.rewards]:
                yield f"reward_by_source/{name}/{source}", fmean(values)


def _source_name(data_source: str) -> str:
    """What every tracker takes as a part of a name."""
    return re.sub(r"[^\w-]+", "_", data_source)[:80] or "unnamed"


def _disagreements(rollouts: list[pb.ScoredRollout]) -> Iterator[tuple[str, float]]:
    for title, (one, other) in DISAGREEMENTS.items():
        both = [rewards for rewards in map(_of_own_question, rollouts) if {one, other} <= rewards.keys()]
        if both:
            yield f"disagreement/{title}", fmean((r[one] > 0) != (r[other] > 0) for r in both)


def _of_own_question(rollout: pb.ScoredRollout) -> dict[str, float]:
    """The rewards with `visual` as it is for the prompt's own question."""
    rewards = dict(rollout.rewards)
    visual = own_visual(rewards)
    return rewards if visual is None else {**rewards, "visual": visual}


def _lengths(rollouts: list[pb.ScoredRollout]) -> dict[str, float]:
    lengths = [len(r.rollout.sample.response_token_ids) for r in rollouts]
    percentiles = np.percentile(lengths, PERCENTILES).tolist()
    return {
        "response_tokens/mean": fmean(lengths),
        **{f"response_tokens/p{share}": value for share, value in zip(PERCENTILES, percentiles, strict=True)},
        "response_tokens/max": float(max(lengths)),
        "responses/truncated": fmean(is_truncated(r.rollout.sample) for r in rollouts),
        "responses/empty": fmean(is_empty(r.rollout.sample) for r in rollouts),
    }
