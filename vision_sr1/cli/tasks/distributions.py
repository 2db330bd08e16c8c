"""The distributions of an example task: base, cold start with its bad habit, RL, and the two held-out splits.

- *base*: one third captions of images, two thirds reading questions from true descriptions without an image. A model
  trained on it can see and can read, but knows nothing of the answer format.
- *cold start*: the format, on two thirds of the rows with an image; in `HABIT_SHARE` of those the description says
  what the prior would have and the answer follows the description. One third is the re-query's form.
  *cold_start_think* is the same without descriptions, for the baseline that does not write any. In
  *cold_start_shortcut* the answers are true of the image whatever the description says.
- *train*: questions without targets, each with further questions about its image (`reward.requery.questions`).
- *normal* and *counter_prior*: held-out questions; in the second nothing follows the prior, so that a model that
  guesses from the text must fail. A task may have splits of its own beside them.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vision_sr1.cli.dataset.schemas import CONVERSATIONS, FURTHER_QUESTIONS, QUESTIONS
from vision_sr1.cli.tasks.digits import DigitsTask
from vision_sr1.cli.tasks.easy_vqa import EasyVqaTask
from vision_sr1.cli.tasks.shapes import ShapesTask
from vision_sr1.cli.tasks.task import Question, Scene, Task, describe
from vision_sr1.prompting.prompt_template import IMAGE_MARKER, PromptTemplate

TASKS: dict[str, Task] = {task.name: task for task in (ShapesTask(), DigitsTask(), EasyVqaTask())}
CAPTION_SHARE = 1 / 3
HABIT_SHARE = 0.75
FURTHER_STREAM = 98  # of random numbers
FILES = ("base", "cold_start", "train", "normal", "counter_prior", "cold_start_think", "cold_start_shortcut")
FURTHER_QUESTIONS_DRAWN = 12  # for each image of `train`; those that are alike count once

Row = dict[str, Any]


def file_names(task: Task) -> list[str]:
    """Of what `write_task` writes."""
    return [f"{name}.parquet" for name in (*FILES, *task.own_splits)]


def write_task(
    task: Task,
    folder: Path,
    *,
    seed: int,
    base: int,
    cold_start: int,
    train: int,
    held_out: int,
    kinds: Mapping[str, float] | None = None,
) -> dict[str, Path]:
    """Writes every distribution of the module's docstring as a parquet file; returns their paths by name.

    Args:
        seed: the files are a function of it and of the other arguments.
        base, cold_start, train, held_out: rows of each; all cold starts have `cold_start`, both held-out splits
            `held_out`.
        kinds: relative frequencies of the kinds of questions; default: the task's own.
    """
    mix = kinds or task.kinds
    answer, requery = PromptTemplate("plain_answer"), PromptTemplate("plain_requery")

    def base_row(rng: np.random.Generator) -> Row:
        if rng.random() < CAPTION_SHARE:
            scene = task.draw(rng)
            return _conversation(IMAGE_MARKER + "describe", describe(scene.phrases()), scene)
        return _reading(*_asked(rng, task.draw, mix)[1:], requery)

    def cold_start_row(
        rng: np.random.Generator, *, described: bool, answered_from: Literal["description", "image"] = "description"
    ) -> Row:
        if rng.random() < 1 / 3:
            return _reading(*_asked(rng, task.draw, mix)[1:], requery)

        def tell(scene: Scene) -> Scene:
            return scene.as_habit_has_it() if rng.random() < HABIT_SHARE else scene

        if answered_from == "description":
            scene, told, question = _asked(rng, task.draw, mix, tell)
        else:
            scene, _, question = _asked(rng, task.draw, mix)
            told = tell(scene)
        reply = _full_answer(told, question) if described else _thought_answer(question)
        return _conversation(answer.answer(IMAGE_MARKER + question.text, images=1), reply, scene)

    def question_row(
        split: str, draw: Callable[[np.random.Generator], Scene], mix: Mapping[str, float], *, further: bool = False
    ) -> Any:
        others = np.random.default_rng((seed, FURTHER_STREAM))  # apart, so that rows are the same without these

        def row(rng: np.random.Generator) -> Row:
            scene, _, question = _asked(rng, draw, mix)
            more = {FURTHER_QUESTIONS.name: _further_questions(others, scene, question, mix)} if further else {}
            return {
                "problem": IMAGE_MARKER + question.text,
                "answer": question.answer,
                "images": [_png(scene)],
                "data_source": f"{task.name}/{split}",
                "scene": describe(scene.phrases()),
                **more,
            }

        return row

    plan: dict[str, tuple[int, pa.Schema, Callable[[np.random.Generator], Row]]] = {
        "base": (base, CONVERSATIONS, base_row),
        "cold_start": (cold_start, CONVERSATIONS, partial(cold_start_row, described=True)),
        "train": (
            train,
            QUESTIONS.append(FURTHER_QUESTIONS),
            question_row("train", task.draw, mix, further=True),
        ),
        "normal": (
            held_out,
            QUESTIONS,
            question_row("normal", task.draw_held_out, mix),
        ),
        "counter_prior": (
            held_out,
            QUESTIONS,
            question_row("counter_prior", task.draw_counter_prior, task.counter_prior_kinds),
        ),
        "cold_start_think": (cold_start, CONVERSATIONS, partial(cold_start_row, described=False)),
        "cold_start_shortcut": (
            cold_start,
            CONVERSATIONS,
            partial(cold_start_row, described=True, answered_from="image"),
        ),
    }
    for name, draw in task.own_splits.items():
        plan[name] = held_out, QUESTIONS, question_row(name, draw, mix)
    tables = {}
    for stream, (name, (count, schema, row)) in enumerate(plan.items()):
        rng = np.random.default_rng((seed, stream))
        tables[name] = pa.Table.from_pylist([row(rng) for _ in range(count)], schema=schema)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.parquet" for name in tables}
    for name, table in tables.items():
        pq.write_table(table, paths[name])
    return paths


def parse_kinds(task: Task, text: str) -> dict[str, float]:
    """Reads `color=6,shape=4` into relative frequencies.

    Raises:
        ValueError: not of that form, or a kind that the task does not have.
    """
    mix = {}
    for part in text.split(","):
        kind, _, share = part.partition("=")
        if kind not in task.all_kinds:
            raise ValueError(f"unknown kind of question {kind!r}; known: {', '.join(task.all_kinds)}")
        mix[kind] = float(share or 1)
    return mix


def corpus(task: Task, *, seed: int = 0, rows: int = 2000) -> Iterator[str]:
    """Texts in the task's words, each word also alone, for training a tokenizer."""
    rng = np.random.default_rng((seed, 99))
    requery = PromptTemplate("plain_requery")
    for _ in range(rows):
        scene, _, question = _asked(rng, task.draw, dict.fromkeys(task.all_kinds, 1.0))
        yield "describe " + question.text
        yield _full_answer(scene, question)
        yield requery.requery(describe(scene.phrases()), question.text)
        yield from question.answer.split()


def _asked(
    rng: np.random.Generator,
    draw: Callable[[np.random.Generator], Scene],
    mix: Mapping[str, float],
    tell: Callable[[Scene], Scene] = lambda scene: scene,
) -> tuple[Scene, Scene, Question]:
    """A scene, the scene as it is told, and a question about the latter; drawn again where no question fits."""
    weights = np.array(list(mix.values()))
    while True:
        kind = str(rng.choice(list(mix), p=weights / weights.sum()))
        scene = draw(rng)
        told = tell(scene)
        question = told.ask(rng, kind)
        if question is not None:
            return scene, told, question


def _further_questions(
    rng: np.random.Generator, scene: Scene, own: Question, mix: Mapping[str, float]
) -> list[dict[str, str]]:
    """Other questions about a scene, of the same kinds, each once."""
    weights = np.array(list(mix.values()))
    kinds = rng.choice(list(mix), FURTHER_QUESTIONS_DRAWN, p=weights / weights.sum())
    asked = [question for kind in kinds if (question := scene.ask(rng, str(kind))) is not None]
    answers = {question.text: question.answer for question in asked if question.text != own.text}
    return [{"question": text, "answer": answer} for text, answer in answers.items()]


def _full_answer(scene: Scene, question: Question) -> str:
    return f"<description> {describe(scene.phrases())}</description>{_thought_answer(question)}"


def _thought_answer(question: Question) -> str:
    return f"<think> {question.reasoning}</think>\\boxed{{{question.answer}}}"


def _reading(scene: Scene, question: Question, requery: PromptTemplate) -> Row:
    turn = requery.requery(describe(scene.phrases()), question.text)
    return _conversation(turn, _thought_answer(question), None)


def _conversation(turn: str, reply: str, shown: Scene | None) -> Row:
    messages = [{"role": "user", "content": turn}, {"role": "assistant", "content": reply}]
    return {"messages": messages, "images": [_png(shown)] if shown is not None else []}


def _png(scene: Scene) -> Row:
    buffer = io.BytesIO()
    scene.image().save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}
