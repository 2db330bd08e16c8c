"""Every scalar that the learner logs: its name, unit and meaning, and what TRL and verl call it.

`scripts/build_metrics` writes docs/metrics.md from it. Parts of names in braces stand for a component, a reward, a
data source, a split or a metric of an evaluation.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

SHARE = "share"
NATS = "nats per token"


@dataclass(frozen=True)
class Scalar:
    """One scalar, or all of one pattern.

    Attributes:
        name: `family/member`.
        trl: of TRL 1.16's GRPOTrainer; "" where it has none.
        verl: of verl 0.7's PPO trainer; "" where it has none.
    """

    name: str
    unit: str
    meaning: str
    trl: str = ""
    verl: str = ""


SECTIONS: dict[str, tuple[Scalar, ...]] = {
    "Rewards": (
        Scalar(
            "reward/{reward}",
            "reward",
            "mean over the batch's rollouts that have the reward",
            "rewards/{name}/mean",
            "critic/score/mean",
        ),
        Scalar(
            "reward/shortcut",
            SHARE,
            "answer right, and no re-query's answer to the row's own question is: the language shortcut rate",
        ),
        Scalar(
            "reward/grader_disagreement",
            SHARE,
            "the graders of `reward.grader` and `reward.second_grader` give different verdicts",
        ),
        Scalar("reward_missing/{reward}", SHARE, "rollouts whose reward could not be computed"),
        Scalar(
            "reward_by_source/{reward}/{source}",
            "reward",
            "as `reward/{reward}`, by data source, for rewards that a component uses; characters other than letters, "
            "digits, `_` and `-` of the source are `_`",
            "",
            "val-core/{source}/{name}/mean@N",
        ),
        Scalar(
            "disagreement/accuracy_visual",
            SHARE,
            "of the answer and the re-query's answer to the row's own question exactly one is right, among rollouts "
            "that have both rewards",
        ),
        Scalar(
            "disagreement/visual_judge",
            SHARE,
            "of the policy and the judge exactly one answers right from the description (`reward.judge`)",
        ),
        Scalar(
            "pass_at/{k}",
            "probability",
            "pass@k within groups: one or more of k answers is right, by the unbiased estimator of arXiv 2107.03374; "
            "for powers of two up to the size of a group",
            "",
            "val-core/{source}/{name}/best@k/mean",
        ),
    ),
    "Groups and responses": (
        Scalar(
            "groups_with_signal/share",
            SHARE,
            "groups in which some component has an advantage that is not 0",
            "1 - frac_reward_zero_std",
        ),
        Scalar("empty_groups/count", "groups", "groups without any rollout"),
        Scalar("same_weights/share", SHARE, "re-queries answered by the policy version of their rollout"),
        Scalar(
            "response_tokens/mean",
            "tokens",
            "length of a response",
            "completions/mean_length",
            "response_length/mean",
        ),
        Scalar("response_tokens/p10", "tokens", "10th percentile of the length"),
        Scalar("response_tokens/p50", "tokens", "median of the length"),
        Scalar("response_tokens/p90", "tokens", "90th percentile of the length"),
        Scalar("response_tokens/p99", "tokens", "99th percentile of the length"),
        Scalar("response_tokens/max", "tokens", "longest response", "completions/max_length", "response_length/max"),
        Scalar(
            "responses/truncated",
            SHARE,
            "responses that ended at their token limit",
            "completions/clipped_ratio",
            "response_length/clip_ratio",
        ),
        Scalar("responses/empty", SHARE, "responses of at most one token", "", "response/aborted_ratio"),
    ),
    "Objective, by component": (
        Scalar(
            "loss/{component}", "loss", "the component's part of the loss, its weight included", "loss", "actor/pg_loss"
        ),
        Scalar("tokens/{component}", "tokens", "tokens that the component trained"),
        Scalar(
            "entropy/{component}",
            NATS,
            "entropy of the policy at the component's tokens, at the sampling temperature",
            "entropy",
            "actor/entropy",
        ),
        Scalar(
            "kl/{component}",
            NATS,
            "KL(policy || reference), by the component's estimator; 0 where its kl_coef is",
            "kl",
            "actor/kl_loss",
        ),
        Scalar(
            "approx_kl/{component}",
            NATS,
            "KL(old policy || policy), by k3, at most 10 a token; the old policy is that which ratios are clipped "
            "against (verl: by k1)",
            "",
            "actor/ppo_kl",
        ),
        Scalar(
            "clip_fraction/{component}",
            SHARE,
            "tokens whose surrogate was clipped",
            "clip_ratio/region_mean",
            "actor/pg_clipfrac",
        ),
        Scalar(
            "advantage_std/{component}",
            "advantage",
            "standard deviation over the sequences of which the component trains tokens",
        ),
        Scalar("advantage_min/{component}", "advantage", "least over the same", "", "critic/advantages/min"),
        Scalar("advantage_max/{component}", "advantage", "greatest over the same", "", "critic/advantages/max"),
    ),
    "Off-policy": (
        Scalar("ratio/p01", "ratio", "1st percentile of policy / old policy, over trained tokens"),
        Scalar("ratio/p50", "ratio", "median of the same"),
        Scalar("ratio/p99", "ratio", "99th percentile of the same"),
        Scalar(
            "mismatch_kl/engine_trainer",
            NATS,
            "KL between actors and trainer at the same weights, by k3, on trained sequences; should be near 0",
            "",
            "rollout_corr/k3_kl",
        ),
        Scalar("off_policy/stale_kl", NATS, "the same on tokens that an earlier policy version sampled"),
        Scalar(
            "off_policy/truncated",
            SHARE,
            "tokens of trained sequences whose importance weight was lowered to "
            "`learner.off_policy.max_importance_weight`",
            "",
            "rollout_corr/rollout_is_ratio_fraction_high",
        ),
        Scalar(
            "off_policy/masked",
            SHARE,
            "tokens of trained sequences to which `learner.off_policy.correction` gave weight 0",
            "",
            "rollout_corr/rollout_rs_masked_fraction",
        ),
        Scalar(
            "staleness/mean", "versions", "versions between the policy that sampled a token and the one that learns"
        ),
        Scalar("token_staleness/{age}", SHARE, "response tokens of this staleness; `beyond`: above the bound"),
    ),
    "Visual dependency": (
        Scalar(
            "dependency/{part}",
            NATS,
            "KL(policy || policy with masked images, `learner.dependency`), by k3, at most 10 a token; "
            "mean over the part's tokens in answers to prompts with images: `response`, `description`, `think`, "
            "`answer`. Near 0: the policy does not look",
        ),
        Scalar("dependency/loss", "loss", "part of the loss that `learner.dependency.kl_bonus` adds"),
        Scalar(
            "dependency/capped",
            SHARE,
            "tokens that the bonus trains and whose dependency is above `learner.dependency.kl_bonus_cap`",
        ),
    ),
    "Optimizer": (
        Scalar(
            "grad_norm/mean",
            "norm",
            "norm of the gradient before clipping, over steps taken",
            "grad_norm",
            "actor/grad_norm",
        ),
        Scalar("grad_norm/max", "norm", "greatest of the same in the batch"),
        Scalar("optimizer/learning_rate", "rate", "of the batch's last step", "learning_rate", "actor/lr"),
        Scalar("optimizer/skipped_steps", "steps", "steps skipped because of a loss or gradient that is not finite"),
    ),
    "Speed": (
        Scalar("policy/version", "version", "of the policy that the batch made, or that was evaluated"),
        Scalar("seconds/rollouts", "s", "waiting for answers and rewards", "", "timing_s/gen"),
        Scalar("seconds/learn", "s", "optimizer steps", "", "timing_s/update_actor"),
        Scalar("seconds/publish", "s", "publishing the weights", "", "timing_s/update_weights"),
        Scalar("seconds/batch", "s", "the whole batch", "step_time", "timing_s/step"),
        Scalar(
            "seconds/devices",
            "s",
            "with `actors.placement: shared`: taking the devices from the actors and giving them back",
        ),
        Scalar("rollouts_per_second/mean", "1/s", "rollouts per second of the whole batch"),
        Scalar(
            "tokens_per_second/learn",
            "1/s",
            "tokens of trained sequences per second of learning, with a prompt for every response",
            "",
            "perf/throughput",
        ),
        Scalar("tflops/learn", "TFLOP/s", "of all ranks, by the model's own count of operations"),
        Scalar("mfu/learn", SHARE, "that of what the GPUs could do; known GPUs only", "", "perf/mfu/actor"),
    ),
    "Evaluation": (
        Scalar(
            "eval_{metric}/{split}",
            "as the reward",
            "mean over a split of `data.evaluation`, answered greedily",
            "eval_rewards/{name}/mean",
            "val-core/{source}/{name}/mean@1",
        ),
    ),
    "Supervised fine-tuning": (
        Scalar("sft/loss", NATS, "cross-entropy of the step", "loss", "train/loss"),
        Scalar("sft/tokens", "tokens", "assistant tokens of the step"),
        Scalar("sft/refused", "conversations", "conversations of the step that could not be used"),
        Scalar("sft_evaluation/loss", NATS, "cross-entropy on `data.sft_evaluation`", "eval_loss", "val/loss"),
        Scalar("sft_evaluation/perplexity", "perplexity", "exp of the same"),
        Scalar("sft_evaluation/refused", "conversations", "held-out conversations that could not be used"),
    ),
}


def undeclared(names: Iterable[str]) -> list[str]:
    """Those that are no scalar of this module."""
    return sorted(name for name in names if not any(pattern.fullmatch(name) for pattern in _patterns()))


@cache
def _patterns() -> list[re.Pattern[str]]:
    scalars = [scalar for section in SECTIONS.values() for scalar in section]
    return [re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(scalar.name))) for scalar in scalars]


def page() -> str:
    """The reference as Markdown."""
    parts = [_HEAD]
    for title, scalars in SECTIONS.items():
        rows = [f"| {_code(s.name)} | {s.unit} | {s.meaning} | {_code(s.trl)} | {_code(s.verl)} |" for s in scalars]
        heading = f"## {title}\n\n| scalar | unit | meaning | TRL | verl |\n|---|---|---|---|---|"
        parts.append("\n".join([heading, *rows]))
    return "\n\n".join(parts) + "\n"


def _code(name: str) -> str:
    return f"`{name}`" if name else ""


_HEAD = """\
# Scalars

<!-- Written by scripts/build_metrics from learner/metrics/reference.py. -->

The learner logs these once per batch, to `scalars.jsonl` in the run's folder, TensorBoard, Prometheus and the
[trackers](tracking.md). In Prometheus, `family/member` is the gauge `vision_sr1_learner_family` with the label
`name="member"`. The last columns name the nearest scalar of TRL 1.16 (GRPOTrainer) and of verl 0.7. Shares and means
are over the batch's rollouts or, by component, over the tokens that it trains, of all ranks. A value that is not
finite is not written; the log names it."""
