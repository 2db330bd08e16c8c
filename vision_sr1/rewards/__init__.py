"""Rewards: their names, and what a user's reward function is given and gives back."""

import warnings
from typing import Any

from vision_sr1.rewards.contract import MissingReward, Reward, ScoredResponse

__all__ = ["MissingReward", "Reward", "ScoredResponse"]

_FORMER = {"Answered": ScoredResponse, "Missing": MissingReward}  # names until version 0.1


def __getattr__(name: str) -> Any:
    if name not in _FORMER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{name} is called {_FORMER[name].__name__} now", DeprecationWarning, stacklevel=2)
    return _FORMER[name]
