"""The reward `repetition`: punishment of responses that say the same again and again."""

import numpy as np

from vision_sr1.config import RewardConfig
from vision_sr1.rewards import Reward, ScoredResponse

NGRAM = 8  # tokens: shorter runs come back in honest descriptions too
_BASES = [np.uint64(base) for base in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)]  # odd, at random


def repetition(answered: ScoredResponse, _: RewardConfig) -> Reward:
    """Minus the share of the response's runs of 8 tokens that it has had before: 0 to -1."""
    runs = np.array(answered.token_ids, dtype=np.uint64)
    for length, base in zip((1, 2, 4), _BASES, strict=True):  # hashes of runs of 2, 4 and 8, each from two halves
        runs = runs[:-length] * base + runs[length:]
    ordered = np.sort(runs)
    count, repeated = len(ordered), int((ordered[1:] == ordered[:-1]).sum())
    return Reward(-repeated / count if repeated else 0.0, f"{repeated} of {count} runs of {NGRAM} tokens came before")
