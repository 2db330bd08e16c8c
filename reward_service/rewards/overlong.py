"""The reward `overlong`: soft punishment of over-long responses (DAPO, arXiv 2503.14476, equation 13)."""

from vision_sr1.config import RewardConfig
from vision_sr1.rewards import Reward, ScoredResponse


def overlong(answered: ScoredResponse, config: RewardConfig) -> Reward:
    """0 up to `reward.overlong_buffer_tokens` before the limit, falling to -1 from there; -1 where it was cut off."""
    length, limit, buffer = len(answered.token_ids), answered.max_tokens, config.overlong_buffer_tokens
    if answered.is_truncated:
        return Reward(-1.0, f"cut off after {length} tokens")
    beyond = length - (limit - buffer)
    if beyond <= 0 or not buffer:
        return Reward(0.0, f"{length} of {limit} tokens")
    return Reward(-beyond / buffer, f"{length} of {limit} tokens, {beyond} of the last {buffer}")
