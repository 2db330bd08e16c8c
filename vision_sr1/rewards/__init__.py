"""Rewards: their names, and what a user's reward function is given and gives back."""

from vision_sr1.rewards.contract import Answered, Missing, Reward

__all__ = ["Answered", "Missing", "Reward"]
