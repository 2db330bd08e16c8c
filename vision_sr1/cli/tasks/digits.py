"""Digits: four scans of handwritten digits (shipped by scikit-learn) in a 2x2 grid.

Real images in the same schema as shapes. The prior of the bad habit: a speaker who does not look says 0. The held-out
split `hard` has the scans that are thin, touch their neighbours, or are badly written.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from vision_sr1.cli.tasks.task import HELD_OUT_PRIOR_SHARE, POSITIONS, Question

CELL = 28  # pixels
HELD_OUT_EVERY = 5  # every fifth scan is kept for evaluation
HARD_SHARE = 0.15
NEIGHBOURS = 9
_PHRASE = re.compile(rf"({'|'.join(POSITIONS)}) (\d)")


@cache
def _scans() -> tuple[Any, Any]:
    """The 8x8 scans as bytes [1797, 8, 8] (dark ink on white) and their digits [1797]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (255 - digits.images * (255 / 16)).astype(np.uint8), digits.target


@cache
def _pool(held_out: bool) -> dict[int, list[int]]:
    """Indices of scans by digit, of the training pool or of the held-out one."""
    _, targets = _scans()
    indices = [i for i in range(len(targets)) if (i % HELD_OUT_EVERY == 0) == held_out]
    return {digit: [i for i in indices if targets[i] == digit] for digit in range(10)}


@cache
def _hard_pool() -> dict[int, list[int]]:
    """Of the held-out scans by digit, the thin, those that touch their neighbours, and the badly written.

    For each digit the `HARD_SHARE` with the least ink, with the most ink at the borders of their cell, and with the
    most scans of other digits among the nearest of the training pool.
    """
    scans, targets = _scans()
    ink = 255.0 - scans
    training = np.array([i for pool in _pool(held_out=False).values() for i in pool])
    found = {}
    for digit, pool in _pool(held_out=True).items():
        of_pool = ink[pool]
        thinness = -of_pool.sum((1, 2))
        touching = of_pool[:, :, [0, -1]].sum((1, 2)) + of_pool[:, [0, -1], :].sum((1, 2))
        distances = ((ink[training][None] - of_pool[:, None]) ** 2).sum((2, 3))
        nearest = training[np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS]]
        doubt = (targets[nearest] != digit).mean(1)
        count = round(HARD_SHARE * len(pool))
        chosen = {
            int(i) for measure in (thinness, touching, doubt) for i in np.argsort(-measure, kind="stable")[:count]
        }
        found[digit] = [pool[i] for i in sorted(chosen)]
    return found


@dataclass(frozen=True)
class DigitsScene:
    """Four digits in reading order and the scans that show them."""

    digits: tuple[int, ...]
    scans: tuple[int, ...]

    def image(self) -> Image.Image:
        """The four scans enlarged, 56 x 56 pixels."""
        image = Image.new("RGB", (2 * CELL, 2 * CELL), (255, 255, 255))
        for cell, scan in enumerate(self.scans):
            tile = Image.fromarray(_scans()[0][scan]).resize((CELL, CELL), Image.Resampling.BILINEAR)
            image.paste(tile, (CELL * (cell % 2), CELL * (cell // 2)))
        return image

    def phrases(self) -> list[str]:
        """Such as "top left 7"."""
        return [f"{position} {digit}" for position, digit in zip(POSITIONS, self.digits, strict=True)]

    def ask(self, rng: np.random.Generator, kind: str) -> Question | None:
        """digit, parity, larger (None where both are equal) or count (how many are even)."""
        first, second = rng.choice(4, 2, replace=False)
        position, digit = POSITIONS[first], self.digits[first]
        if kind == "digit":
            return Question(f"which digit is at the {position}", f"{position} {digit}", str(digit))
        if kind == "parity":
            answer = "yes" if digit % 2 else "no"
            return Question(f"is the digit at the {position} odd", f"{position} {digit}", answer)
        if kind == "larger":
            other = self.digits[second]
            if digit == other:
                return None
            return Question(
                f"which is larger , {position} or {POSITIONS[second]}",
                f"{position} {digit} {POSITIONS[second]} {other}",
                str(max(digit, other)),
            )
        if kind == "count":
            even = [d for d in self.digits if d % 2 == 0]
            return Question("how many digits are even", " ".join(["even", *map(str, even)]), str(len(even)))
        raise ValueError(f"unknown kind of question {kind!r}; known: digit, parity, larger, count")

    def as_habit_has_it(self) -> "DigitsScene":
        """All zeros."""
        return replace(self, digits=(0, 0, 0, 0))


def answer_by_rule(description: str, question: str) -> str | None:
    """Phrases are read as position and digit, others are passed over.

    Two phrases that contradict each other on what is asked say nothing: None.
    """
    told: dict[str, set[int]] = defaultdict(set)
    for phrase in description.split(";"):
        if match := _PHRASE.fullmatch(phrase.strip()):
            told[match[1]].add(int(match[2]))
    asked = [place for place in POSITIONS if place in question] or list(told)
    digits = [next(iter(told[place])) for place in asked if len(told[place]) == 1]
    if not digits or len(digits) < len(asked):
        return None
    if question.startswith("which digit is at the"):
        return str(digits[0])
    if question.startswith("is the digit at the"):
        return "yes" if digits[0] % 2 else "no"
    if question.startswith("which is larger"):
        return str(max(digits))
    return str(sum(digit % 2 == 0 for digit in digits)) if question == "how many digits are even" else None


class DigitsTask:
    """Training scenes and held-out scenes share no scan."""

    name = "digits"
    all_kinds: tuple[str, ...] = ("digit", "parity", "larger", "count")
    kinds: Mapping[str, float] = {"digit": 6.0, "parity": 3.0, "larger": 1.0, "count": 1.0}
    counter_prior_kinds: Mapping[str, float] = {"digit": 1.0}
    answer_by_rule = staticmethod(answer_by_rule)

    def draw(self, rng: np.random.Generator) -> DigitsScene:
        """Uniform digits, scans of the training pool."""
        return self._draw(rng, self._digits(rng, 0.0), _pool(held_out=False))

    def draw_held_out(self, rng: np.random.Generator) -> DigitsScene:
        """Half of the digits are 0, the others uniform; scans that no training scene shows."""
        return self._draw(rng, self._digits(rng, HELD_OUT_PRIOR_SHARE), _pool(held_out=True))

    def draw_counter_prior(self, rng: np.random.Generator) -> DigitsScene:
        """No zeros; held-out scans."""
        return self._draw(rng, [int(rng.integers(1, 10)) for _ in range(4)], _pool(held_out=True))

    @property
    def own_splits(self) -> Mapping[str, Callable[[np.random.Generator], DigitsScene]]:
        """`hard`: digits as in training, scans that are hard to read."""
        return {"hard": lambda rng: self._draw(rng, self._digits(rng, 0.0), _hard_pool())}

    @staticmethod
    def _digits(rng: np.random.Generator, prior_share: float) -> list[int]:
        return [0 if rng.random() < prior_share else int(rng.integers(10)) for _ in range(4)]

    @staticmethod
    def _draw(rng: np.random.Generator, digits: list[int], pool: dict[int, list[int]]) -> DigitsScene:
        return DigitsScene(tuple(digits), tuple(int(rng.choice(pool[d])) for d in digits))
