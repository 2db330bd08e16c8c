"""The actor's metrics."""

from prometheus_client import Counter, Gauge, Histogram

ROLLOUTS = Counter("vision_sr1_actor_rollouts", "Rollouts written to the stream.")
EMPTY_ROLLOUTS = Counter("vision_sr1_actor_empty_rollouts", "Rollouts of one token at most.")
SAMPLE_RETRIES = Counter(
    "vision_sr1_actor_sample_retries",
    "Samples started again because the engine ended them unfinished, by its finish reason.",
    ["reason"],
)
TOKENS = Counter("vision_sr1_actor_tokens", "Tokens generated.", ["kind"])
REQUESTS = Counter("vision_sr1_actor_generate_requests", "Generate calls, by status code.", ["code"])
ROLLOUT_SECONDS = Histogram("vision_sr1_actor_rollout_seconds", "From taking a prompt to a finished rollout.")
POLICY_VERSION = Gauge("vision_sr1_actor_policy_version", "Policy version held; -1 before the first.")
UPDATE_SECONDS = Histogram("vision_sr1_actor_weight_update_seconds", "From the start of an update to its end.")
FROZEN_SECONDS = Histogram("vision_sr1_actor_frozen_seconds", "How long an update kept generation frozen.")
UPDATES = Counter("vision_sr1_actor_weight_updates", "Weight updates, by outcome.", ["outcome"])
LATE_REQUERIES = Counter("vision_sr1_actor_late_requeries", "Re-queries that an update did not wait for any longer.")
