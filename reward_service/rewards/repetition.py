"""The reward `repetition`: punishment of responses that say the same again and again."""

import numpy as np

from vision_sr1.config import RewardConfig
from vision_sr1.rewards import Answered, Reward

NGRAM = 8  # tokens: shorter runs come back in honest descriptions too
_BASE = np.uint64(0x9E3779B97F4A7C15)  # of the runs' polynomial hashes, modulo 2**64


def repetition(answered: Answered, _: RewardConfig) -> Reward:
    """Minus the share of the response's runs of 8 tokens that it has had before: 0 to -1."""
    tokens = np.array(answered.token_ids, dtype=np.uint64)
    count = max(0, len(tokens) - NGRAM + 1)
    runs = np.zeros(count, dtype=np.uint64)
    for offset in range(NGRAM):
        runs = runs * _BASE + tokens[offset : offset + count]
    repeated = count - len(np.unique(runs))
    return Reward(-repeated / count if repeated else 0.0, f"{repeated} of {count} runs of {NGRAM} tokens came before")
