"""Scalars of a batch of scored groups: rewards, lengths, and how many groups there is something to learn from."""

from statistics import fmean

from learner.objective.samples import group_has_signal
from vision_sr1.config import LearnerConfig
from vision_sr1.pipeline.scored_groups import sample_version
from vision_sr1.v1 import pipeline_pb2 as pb


def batch_scalars(groups: list[pb.ScoredGroup], settings: LearnerConfig) -> dict[str, float]:
    """Rewards by name, of those that are not missing, lengths, and the share of re-queries by the same weights."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not rollouts:
        return {"empty_groups/count": float(len(groups))}
    signal = fmean(group_has_signal(group, settings) for group in groups)
    names = sorted({name for r in rollouts for name in (*r.rewards, *r.missing)})
    given = {name: [r.rewards[name] for r in rollouts if name in r.rewards] for name in names}
    both = [r.rewards for r in rollouts if "accuracy" in r.rewards and "visual" in r.rewards]
    same = [q.policy_version == sample_version(r.rollout.sample) for r in rollouts for q in r.requeries]
    return {
        **{f"reward/{name}": fmean(values) for name, values in given.items() if values},
        **{f"reward_missing/{name}": 1 - len(values) / len(rollouts) for name, values in given.items()},
        "reward/shortcut": fmean(r["accuracy"] > 0 and r["visual"] == 0 for r in both) if both else 0.0,
        "response_tokens/mean": fmean(len(r.rollout.sample.response_token_ids) for r in rollouts),
        "groups_with_signal/share": signal,
        "same_weights/share": fmean(same) if same else 1.0,
        "empty_groups/count": float(sum(not group.rollouts for group in groups)),
    }
