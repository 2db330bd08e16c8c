"""Reward functions as users write them."""

import asyncio
import os
import time
from pathlib import Path

from vision_sr1.rewards import Reward, ScoredResponse


def brevity(answered: ScoredResponse) -> Reward:
    tokens = len(answered.token_ids)
    return Reward(1.0 - tokens / answered.max_tokens, f"{tokens} of {answered.max_tokens} tokens")


async def waits(answered: ScoredResponse) -> float:
    await asyncio.sleep(0.01)
    return 0.25


def agreement(group: list[ScoredResponse]) -> list[Reward]:
    """The share of the other answers that are the same."""
    answers = [answered.answer for answered in group]
    return [Reward((answers.count(a) - 1) / (len(answers) - 1), f"{a} is said by others") for a in answers]


def looks(answered: ScoredResponse) -> Reward:
    return Reward(float(bool(answered.images)), str([image[:4] for image in answered.images]))


def looks_at_group(group: list[ScoredResponse]) -> list[float]:
    return [float(bool(answered.images)) for answered in group]


def raises(answered: ScoredResponse) -> float:
    raise LookupError(f"nothing known of {answered.id}")


def hangs(answered: ScoredResponse) -> float:
    time.sleep(3600)
    return 1.0


async def hangs_waiting(answered: ScoredResponse) -> float:
    await asyncio.sleep(3600)
    return 1.0


def dies(answered: ScoredResponse) -> float:
    os._exit(3)


def too_large(answered: ScoredResponse) -> float:
    return 7.0


def not_finite(answered: ScoredResponse) -> float:
    return float("nan")


def says_nothing(answered: ScoredResponse) -> None:
    return None


def of_one_only(group: list[ScoredResponse]) -> list[float]:
    return [1.0]


def fails_once(answered: ScoredResponse) -> float:
    mark = Path(answered.question)
    if not mark.exists():
        mark.touch()
        raise ConnectionError("the first time")
    return 1.0


def sees(answered: ScoredResponse) -> Reward:
    """What was given before it."""
    return Reward(answered.rewards["accuracy"], f"{sorted(answered.rewards)} of {answered.requeries}")
