"""What an example task offers: scenes, made or taken from a data set, that are told in words and asked about."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

POSITIONS = ("top left", "top right", "bottom left", "bottom right")
HELD_OUT_PRIOR_SHARE = 0.5  # of the objects of scenes that are made for the split `normal`


@dataclass(frozen=True)
class Question:
    """A question about a scene with the reasoning that leads from the scene's description to the answer."""

    text: str
    reasoning: str
    answer: str


class Scene(Protocol):
    """An image of which the objects are known."""

    def image(self) -> Image.Image:
        """The scene as the model sees it."""

    def phrases(self) -> list[str]:
        """One phrase per object, in reading order; joined they are the true description."""

    def ask(self, rng: np.random.Generator, kind: str) -> Question | None:
        """A question of this kind, or None where the scene admits none."""

    def as_habit_has_it(self) -> "Scene":
        """The scene as a speaker would tell it who follows the prior instead of looking."""


class Task(Protocol):
    """Scenes for training, and others that are held out."""

    name: str
    all_kinds: tuple[str, ...]
    kinds: Mapping[str, float]
    counter_prior_kinds: Mapping[str, float]

    def answer_by_rule(self, description: str, question: str) -> str | None:
        """What a reader who takes every word literally answers from a description; None where it does not say."""

    @property
    def own_splits(self) -> Mapping[str, "Callable[[np.random.Generator], Scene]"]:
        """Held-out splits of this task alone, by name: how a scene is drawn."""

    def draw(self, rng: np.random.Generator) -> Scene:
        """A scene of the training pool."""

    def draw_held_out(self, rng: np.random.Generator) -> Scene:
        """A scene of the pool that no training set uses."""

    def draw_counter_prior(self, rng: np.random.Generator) -> Scene:
        """A held-out scene about which a speaker who follows the prior is wrong."""


def describe(phrases: list[str]) -> str:
    """The description in words: phrases joined by semicolons."""
    return " ; ".join(phrases)
