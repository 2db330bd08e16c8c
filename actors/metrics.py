"""The actor's metrics."""

from prometheus_client import Counter, Gauge, Histogram

ROLLOUTS = Counter("vision_sr1_actor_rollouts", "Rollouts written to the stream.")
EMPTY_ROLLOUTS = Counter("vision_sr1_actor_empty_rollouts", "Rollouts with at most one token.")
SAMPLE_RETRIES = Counter(
    "vision_sr1_actor_sample_retries",
    "Samples restarted because the engine ended them early, by finish reason.",
    ["reason"],
)
TOKENS = Counter("vision_sr1_actor_tokens", "Tokens generated.", ["kind"])
PROMPT_TOKENS = Counter(
    "vision_sr1_actor_prompt_tokens", "Prompt tokens of finished samples, by where they came from.", ["source"]
)
REQUESTS = Counter("vision_sr1_actor_generate_requests", "Generate calls, by status code.", ["code"])
ROLLOUT_SECONDS = Histogram("vision_sr1_actor_rollout_seconds", "Seconds from reading a prompt to a finished rollout.")
POLICY_VERSION = Gauge("vision_sr1_actor_policy_version", "Policy version held; -1 before the first.")
UPDATE_SECONDS = Histogram("vision_sr1_actor_weight_update_seconds", "Duration of a weight update.")
FROZEN_SECONDS = Histogram("vision_sr1_actor_frozen_seconds", "Duration for which an update paused generation.")
UPDATES = Counter("vision_sr1_actor_weight_updates", "Weight updates, by outcome.", ["outcome"])
LATE_REQUERIES = Counter(
    "vision_sr1_actor_late_requeries", "Outstanding re-queries that an update abandoned at the end of its grace period."
)
