"""The reward `repetition`: punishment of responses that say the same again and again."""

from vision_sr1.config import RewardConfig
from vision_sr1.rewards import Answered, Reward

NGRAM = 8  # tokens: shorter runs come back in honest descriptions too


def repetition(answered: Answered, _: RewardConfig) -> Reward:
    """Minus the share of the response's runs of 8 tokens that it has had before: 0 to -1."""
    tokens = answered.token_ids
    runs = [tokens[start : start + NGRAM] for start in range(len(tokens) - NGRAM + 1)]
    repeated = len(runs) - len(set(runs))
    return Reward(
        -repeated / len(runs) if repeated else 0.0, f"{repeated} of {len(runs)} runs of {NGRAM} tokens came before"
    )
