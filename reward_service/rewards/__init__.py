"""Rewards: each a small rule that gives a value in a range (vision_sr1/rewards/names.py) and says why."""

from collections.abc import Callable

from reward_service.rewards.answer_leak import answer_leak
from reward_service.rewards.format import response_format
from reward_service.rewards.overlong import overlong
from reward_service.rewards.repetition import repetition
from vision_sr1.config import RewardConfig
from vision_sr1.rewards import Reward, ScoredResponse

# Those that follow from the response alone; the others need a grader or a model (reward_service/scoring.py).
RESPONSE_REWARDS: dict[str, Callable[[ScoredResponse, RewardConfig], Reward]] = {
    "format": response_format,
    "answer_leak": answer_leak,
    "overlong": overlong,
    "repetition": repetition,
}
