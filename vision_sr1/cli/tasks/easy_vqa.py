"""easy-VQA: images and questions of the package `easy-vqa` (MIT), which nobody here made; one coloured shape an image.

Questions are the data set's own, and so are their answers. It has no descriptions: shape and colour of an image follow
from the answers to its own questions. The prior of the bad habit: a speaker who does not look gives a shape the colour
that is its most frequent one among the training images.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image

from vision_sr1.cli.tasks.task import Question, describe
from vision_sr1.errors import UserError

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
_PHRASE = re.compile(rf"({'|'.join(SHAPES)}) ({'|'.join(COLORS)})")
_SHAPE, _COLOR = (re.compile(rf"\b({'|'.join(words)})\b") for words in (SHAPES, COLORS))
_NEGATION = re.compile(r"\b(not|no)\b")


@dataclass(frozen=True)
class EasyVqaScene:
    """An image, what it shows, and the questions that the data set asks about it."""

    file: str
    shape: str
    color: str
    questions: tuple[str, ...]

    def image(self) -> Image.Image:
        """The image as it is, 64 x 64 pixels."""
        with Image.open(self.file) as image:
            return image.convert("RGB")

    def phrases(self) -> list[str]:
        """One, such as "circle teal"."""
        return [f"{self.shape} {self.color}"]

    def ask(self, rng: np.random.Generator, kind: str) -> Question | None:
        """color, shape, presence or absence; None where no question of the kind has an answer here."""
        if kind not in EasyVqaTask.all_kinds:
            raise ValueError(f"unknown kind of question {kind!r}; known: {', '.join(EasyVqaTask.all_kinds)}")
        answers = {text: self.answer(text) for text in self.questions if _kind_of(text) == kind}
        answered = [(text, answer) for text, answer in answers.items() if answer is not None]
        if not answered:
            return None
        text, answer = answered[rng.integers(len(answered))]
        return Question(text, self._reasoning(text, kind, answer), answer)

    def answer(self, question: str) -> str | None:
        """What the rule reads in the scene's description."""
        return answer_by_rule(describe(self.phrases()), question)

    def as_habit_has_it(self) -> "EasyVqaScene":
        """The shape in its usual colour."""
        return replace(self, color=_usual_colors()[self.shape])

    def _reasoning(self, question: str, kind: str, answer: str) -> str:
        """The key and what the scene has there; for yes or no, what is asked for, what is there and if they agree."""
        if kind == "color":
            return f"{self.shape} {self.color}"
        if kind == "shape":
            return f"shape {self.shape}"
        asked = _asked_for(question)
        there = self.shape if asked in SHAPES else self.color
        agreement = f"{asked} {there} {'yes' if asked == there else 'no'}"
        return agreement if kind == "presence" else f"{agreement} not {answer}"


def _kind_of(question: str) -> str:
    if question.startswith("what"):
        return "color" if "color" in question else "shape"
    return "absence" if _NEGATION.search(question) else "presence"


def _asked_for(question: str) -> str:
    """The shape or colour whose presence a question asks for."""
    found = _SHAPE.search(question) or _COLOR.search(question)
    if found is None:
        raise ValueError(f"{question!r} names no known shape and no known colour")
    return found[0]


@cache
def answer_by_rule(description: str, question: str) -> str | None:
    """Phrases are read as shape and colour, others are passed over.

    Two phrases that contradict each other on what is asked say nothing: None. So does a description without the shape
    or colour that the question takes for granted ("what is the blue shape?").
    """
    told = [match.groups() for phrase in description.split(";") if (match := _PHRASE.fullmatch(phrase.strip()))]

    def only(values: Iterable[str]) -> str | None:
        different = set(values)
        return different.pop() if len(different) == 1 else None

    kind, shape, color = _kind_of(question), _SHAPE.search(question), _COLOR.search(question)
    if kind == "color":
        return only(seen for of, seen in told if shape is None or of == shape[0])
    if kind == "shape":
        return only(of for of, seen in told if color is None or seen == color[0])
    if not told:
        return None
    return "yes" if any(_asked_for(question) in phrase for phrase in told) == (kind == "presence") else "no"


@cache
def _pool(held_out: bool) -> tuple[EasyVqaScene, ...]:
    """Images of the data set's training half or of its test half, in the order of their numbers.

    Left out are images whose answers do not determine shape and colour: where the rule gives all of them from no
    description, or from more than one.

    Raises:
        UserError: the package `easy-vqa` is not installed.
    """
    try:
        import easy_vqa
    except ImportError as error:
        raise UserError(
            "the task easy_vqa needs the package easy-vqa, which is not installed: pip install '.[easy-vqa]'"
        ) from error
    questions = easy_vqa.get_test_questions() if held_out else easy_vqa.get_train_questions()
    files = easy_vqa.get_test_image_paths() if held_out else easy_vqa.get_train_image_paths()
    asked: dict[int, dict[str, str]] = defaultdict(dict)
    for text, answer, image in zip(*questions, strict=True):
        asked[image][text] = answer
    scenes = []
    for image, answers in sorted(asked.items()):
        fitting = [
            scene
            for shape in SHAPES
            for color in COLORS
            if (scene := EasyVqaScene(files[image], shape, color, tuple(answers)))
            and all(scene.answer(text) == answer for text, answer in answers.items())
        ]
        if len(fitting) == 1:
            scenes += fitting
    return tuple(scenes)


@cache
def _usual_colors() -> dict[str, str]:
    """The most frequent colour of each shape among the training images."""
    colors: dict[str, Counter[str]] = defaultdict(Counter)
    for scene in _pool(held_out=False):
        colors[scene.shape][scene.color] += 1
    return {shape: counted.most_common(1)[0][0] for shape, counted in colors.items()}


@cache
def _usual_answers() -> dict[str, str]:
    """The most frequent answer to each question about the training images."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for scene in _pool(held_out=False):
        for text in scene.questions:
            answers[text][scene.answer(text) or ""] += 1
    return {text: counted.most_common(1)[0][0] for text, counted in answers.items()}


@cache
def _counter_prior_pool() -> tuple[EasyVqaScene, ...]:
    """Held-out images with those of their questions that neither the habit nor the most frequent answer gets right."""
    scenes = []
    for scene in _pool(held_out=True):
        by_habit, usual = scene.as_habit_has_it(), _usual_answers()
        unusual = [
            text for text in scene.questions if scene.answer(text) not in (by_habit.answer(text), usual.get(text))
        ]
        if unusual:
            scenes.append(replace(scene, questions=tuple(unusual)))
    return tuple(scenes)


class EasyVqaTask:
    """Training scenes are of the data set's training half, held-out scenes of its test half."""

    name = "easy_vqa"
    all_kinds: tuple[str, ...] = ("color", "shape", "presence", "absence")
    kinds: Mapping[str, float] = {"color": 1.0, "shape": 1.0, "presence": 3.0, "absence": 3.0}  # as in the data set
    counter_prior_kinds: Mapping[str, float] = {"color": 4.0, "shape": 1.0, "presence": 1.0, "absence": 1.0}

    own_splits: Mapping[str, Callable[[np.random.Generator], EasyVqaScene]] = {}
    answer_by_rule = staticmethod(answer_by_rule)

    def draw(self, rng: np.random.Generator) -> EasyVqaScene:
        """An image of the training half."""
        return self._one_of(_pool(held_out=False), rng)

    def draw_held_out(self, rng: np.random.Generator) -> EasyVqaScene:
        """An image of the test half."""
        return self._one_of(_pool(held_out=True), rng)

    def draw_counter_prior(self, rng: np.random.Generator) -> EasyVqaScene:
        """An image of the test half, with those of its questions for which neither habit nor guessing is enough."""
        return self._one_of(_counter_prior_pool(), rng)

    @staticmethod
    def _one_of(pool: tuple[EasyVqaScene, ...], rng: np.random.Generator) -> EasyVqaScene:
        return pool[rng.integers(len(pool))]
