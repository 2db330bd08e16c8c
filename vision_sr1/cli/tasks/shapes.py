"""Shapes: 2 to 4 coloured shapes in a 2x2 grid, with a language prior (circles are mostly red).

The words are ordered so that a small transformer can read them: a shape stands before its colour and the reasoning
repeats the key right before the answer, so that every lookup is a plain induction.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from vision_sr1.cli.tasks.task import HELD_OUT_PRIOR_SHARE, POSITIONS, Question

SHAPES = ("circle", "square", "triangle")
RGB = {"red": (215, 40, 40), "blue": (40, 70, 220), "green": (30, 160, 60)}
COLORS = tuple(RGB)
PRIOR_COLOR = {"circle": "red", "square": "blue", "triangle": "green"}
SIDE = 56  # pixels
CELL = SIDE // 2

_PHRASE = re.compile(rf"({'|'.join(POSITIONS)}) ({'|'.join(SHAPES)}) ({'|'.join(COLORS)})")


@dataclass(frozen=True)
class Shape:
    """One object: its cell (0 to 3 in reading order), its kind and colour, and where in the cell it is drawn."""

    cell: int
    kind: str
    color: str
    center: tuple[float, float]  # pixels from the cell's corner
    radius: float  # pixels

    @property
    def position(self) -> str:
        """The cell in words."""
        return POSITIONS[self.cell]


@dataclass(frozen=True)
class ShapesScene:
    """Shapes in reading order."""

    shapes: tuple[Shape, ...]

    def image(self) -> Image.Image:
        """The scene on a light ground, 56 x 56 pixels."""
        image = Image.new("RGB", (SIDE, SIDE), (245, 245, 240))
        pen = ImageDraw.Draw(image)
        for shape in self.shapes:
            x = CELL * (shape.cell % 2) + shape.center[0]
            y = CELL * (shape.cell // 2) + shape.center[1]
            r = shape.radius
            fill = RGB[shape.color]
            if shape.kind == "circle":
                pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
            elif shape.kind == "square":
                pen.rectangle((x - r, y - r, x + r, y + r), fill=fill)
            else:
                pen.polygon(((x, y - r), (x - r, y + r), (x + r, y + r)), fill=fill)
        return image

    def phrases(self) -> list[str]:
        """Such as "top left square red"."""
        return [f"{s.position} {s.kind} {s.color}" for s in self.shapes]

    def ask(self, rng: np.random.Generator, kind: str) -> Question | None:
        """color, shape, position, count or comparison; color and position need a shape that occurs once."""
        if kind == "count":
            number = str(len(self.shapes))
            return Question("how many shapes", f"count {number}", number)
        if kind == "shape":
            shape = self.shapes[rng.integers(len(self.shapes))]
            return Question(f"what shape is at the {shape.position}", f"{shape.position} {shape.kind}", shape.kind)
        if kind == "comparison":
            first, second = (self.shapes[i] for i in rng.choice(len(self.shapes), 2, replace=False))
            answer = "yes" if first.color == second.color else "no"
            return Question(
                f"do the {first.position} and the {second.position} have the same color",
                f"{first.color} {second.color} {answer}",
                answer,
            )
        once = [s for s in self.shapes if sum(t.kind == s.kind for t in self.shapes) == 1]
        if not once:
            return None
        shape = once[rng.integers(len(once))]
        if kind == "color":
            return Question(f"what color is the {shape.kind}", f"the {shape.kind} {shape.color}", shape.color)
        if kind == "position":
            return Question(f"where is the {shape.kind}", f"the {shape.kind} {shape.position}", shape.position)
        raise ValueError(f"unknown kind of question {kind!r}; known: color, shape, position, count, comparison")

    def as_habit_has_it(self) -> "ShapesScene":
        """Every shape in its prior colour."""
        return ShapesScene(tuple(replace(s, color=PRIOR_COLOR[s.kind]) for s in self.shapes))


def answer_by_rule(description: str, question: str) -> str | None:
    """Phrases are read as position, shape and colour, others are passed over.

    Two phrases that contradict each other on what is asked say nothing: None.
    """
    told = [match.groups() for phrase in description.split(";") if (match := _PHRASE.fullmatch(phrase.strip()))]
    words = question.split()

    def only(values: Iterable[str]) -> str | None:
        different = set(values)
        return different.pop() if len(different) == 1 else None

    def color_at(position: str) -> str | None:
        return only(color for place, _, color in told if place == position)

    if question == "how many shapes":
        return str(len({place for place, _, _ in told})) if told else None
    if question.startswith("what color is the"):
        return only(color for _, kind, color in told if kind == words[-1])
    if question.startswith("what shape is at the"):
        return only(kind for place, kind, _ in told if place == " ".join(words[-2:]))
    if question.startswith("where is the"):
        return only(place for place, kind, _ in told if kind == words[-1])
    asked = re.fullmatch(r"do the (.+) and the (.+) have the same color", question)
    colors = [color_at(place) for place in asked.groups()] if asked else [None]
    return None if None in colors else "yes" if colors[0] == colors[1] else "no"


class ShapesTask:
    """Colours follow the prior in a share of the objects; every other property is uniform."""

    name = "shapes"
    all_kinds: tuple[str, ...] = ("color", "shape", "position", "count", "comparison")
    kinds: Mapping[str, float] = {"color": 6.0, "shape": 4.0, "count": 1.0}
    counter_prior_kinds: Mapping[str, float] = {"color": 1.0}

    own_splits: Mapping[str, Callable[[np.random.Generator], ShapesScene]] = {}
    answer_by_rule = staticmethod(answer_by_rule)

    def draw(self, rng: np.random.Generator) -> ShapesScene:
        """A scene of uniform colours."""
        return self._draw_with_prior(rng, 0.0)

    def draw_held_out(self, rng: np.random.Generator) -> ShapesScene:
        """A scene in which half of the shapes have their prior colour, the others uniform ones.

        Scenes are drawn afresh: another seed is another pool.
        """
        return self._draw_with_prior(rng, HELD_OUT_PRIOR_SHARE)

    def draw_counter_prior(self, rng: np.random.Generator) -> ShapesScene:
        """A scene in which no shape has its prior colour."""

        def color(kind: str) -> str:
            others = [c for c in COLORS if c != PRIOR_COLOR[kind]]
            return others[rng.integers(len(others))]

        return self._draw(rng, color)

    def _draw_with_prior(self, rng: np.random.Generator, share: float) -> ShapesScene:
        return self._draw(
            rng, lambda kind: PRIOR_COLOR[kind] if rng.random() < share else COLORS[rng.integers(len(COLORS))]
        )

    def _draw(self, rng: np.random.Generator, color_of: Callable[[str], str]) -> ShapesScene:
        cells = sorted(rng.choice(4, rng.integers(2, 5), replace=False).tolist())
        shapes = []
        for cell in cells:
            kind = SHAPES[rng.integers(len(SHAPES))]
            radius = rng.uniform(8.0, 11.0)
            x, y = rng.uniform(radius + 1.5, CELL - radius - 1.5, 2)
            shapes.append(Shape(cell, kind, color_of(kind), (x, y), radius))
        return ShapesScene(tuple(shapes))
