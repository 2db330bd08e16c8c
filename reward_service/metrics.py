"""The reward service's metrics."""

from prometheus_client import Counter, Gauge, Histogram

GROUPS = Counter("vision_sr1_reward_groups", "Groups completed and emitted.")
MISSING = Counter("vision_sr1_reward_missing", "Rewards that could not be given, by name.", ["name"])
GRADINGS = Counter("vision_sr1_reward_gradings", "Answers graded, by grader and outcome.", ["grader", "outcome"])
REQUERIES = Counter("vision_sr1_reward_requeries", "Re-queries, by outcome.", ["outcome"])
OTHER_VERSION = Counter(
    "vision_sr1_reward_requeries_other_version", "Re-queries answered by another policy version than the rollout's."
)
REQUERY_SECONDS = Histogram("vision_sr1_reward_requery_seconds", "Duration of a re-query, all attempts.")
JUDGEMENTS = Counter("vision_sr1_reward_judgements", "Answers of the external judge, by outcome.", ["outcome"])
JUDGE_SECONDS = Histogram("vision_sr1_reward_judge_seconds", "Duration of a judgement, all attempts.")
JUDGE_TOKENS = Counter("vision_sr1_reward_judge_tokens", "Tokens of the external judge, by kind.", ["kind"])
JUDGE_USD = Counter("vision_sr1_reward_judge_usd", "Cost of the external judge at the configured prices, US dollars.")
FUNCTION_SECONDS = Histogram(
    "vision_sr1_reward_function_seconds", "Duration of a reward function, all attempts.", ["name"]
)
SCORE_SECONDS = Histogram("vision_sr1_reward_score_seconds", "Seconds from reading a rollout to writing its score.")
AGE_SECONDS = Histogram("vision_sr1_reward_rollout_age_seconds", "Seconds from a rollout's end to its score.")
TRACES = Counter("vision_sr1_reward_traces", "Traces, by outcome.", ["outcome"])
STORE_UP = Gauge("vision_sr1_reward_trace_store_up", "1 while the trace store accepts writes.")
