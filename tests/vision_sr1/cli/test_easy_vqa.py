"""The task of a public data set: what is derived from its answers, and what is held out."""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import easy_vqa
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import ImageColor
from typer.testing import CliRunner

from vision_sr1.cli.main import app
from vision_sr1.cli.tasks.distributions import write_task
from vision_sr1.cli.tasks.easy_vqa import COLORS, EasyVqaScene, EasyVqaTask, _pool, answer_by_rule
from vision_sr1.cli.tasks.task import describe

RGB = {color: ImageColor.getrgb({"green": "lime"}.get(color, color)) for color in COLORS}
FILL = {"triangle": (0.49, 0.68), "circle": (0.68, 0.82), "rectangle": (1.0, 1.0)}  # of the bounding box


def drawn(scene: EasyVqaScene) -> tuple[set[str], float]:
    """Colours that an image has pixels of, and the share that the scene's own fills of its bounding box."""
    pixels = np.array(scene.image())
    masks = {color: (pixels == rgb).all(-1) for color, rgb in RGB.items()}
    rows, columns = np.nonzero(masks[scene.color])
    fill = len(rows) / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1)) if len(rows) else 0.0
    return {color for color, mask in masks.items() if mask.any()}, float(fill)


def test_descriptions_derived_from_answers_are_true_of_the_images():
    scenes = _pool(held_out=True)
    assert len(scenes) > 850, "of 1,000 images"
    for scene in scenes:
        colors, fill = drawn(scene)
        least, most = FILL[scene.shape]
        assert colors == {scene.color}, scene
        assert least <= fill <= most, scene


def test_the_rule_answers_every_question_as_the_data_set_does():
    scenes = {scene.file: scene for scene in _pool(held_out=False)}
    files = easy_vqa.get_train_image_paths()
    used = 0
    for question, answer, image in zip(*easy_vqa.get_train_questions(), strict=True):
        if scene := scenes.get(files[image]):
            assert answer_by_rule(describe(scene.phrases()), question) == answer
            used += 1
    assert used > 35_000, "of 38,575"


def test_no_held_out_image_is_trained_on(tmp_path: Path):
    files = write_task(EasyVqaTask(), tmp_path, seed=0, base=300, cold_start=300, train=300, held_out=100)

    def images(name: str) -> set[bytes]:
        column = pq.read_table(files[name])["images"].to_pylist()
        return {image["bytes"] for shown in column for image in shown}

    held_out = images("normal") | images("counter_prior")
    assert len(held_out) > 150
    for name in ("base", "cold_start", "cold_start_think", "cold_start_shortcut", "train"):
        assert not held_out & images(name), name


def test_neither_habit_nor_the_most_frequent_answer_is_right_on_the_counter_prior_split(tmp_path: Path):
    texts, answers, images = easy_vqa.get_train_questions()
    files = easy_vqa.get_train_image_paths()
    scenes = {scene.file: scene for scene in _pool(held_out=False)}
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    colors: dict[str, Counter[str]] = defaultdict(Counter)
    for text, answer, image in zip(texts, answers, images, strict=True):
        if files[image] in scenes:
            counted[text][answer] += 1
    for scene in scenes.values():
        colors[scene.shape][scene.color] += 1
    written = write_task(EasyVqaTask(), tmp_path, seed=0, base=1, cold_start=1, train=1, held_out=300)
    for row in pq.read_table(written["counter_prior"]).to_pylist():
        question, shape = row["problem"].removeprefix("<image>"), row["scene"].split()[0]
        (usual, times), *_ = counted[question].most_common()
        assert row["answer"] != usual or list(counted[question].values()).count(times) > 1
        assert answer_by_rule(f"{shape} {colors[shape].most_common(1)[0][0]}", question) != row["answer"]


@pytest.mark.parametrize(
    ("description", "question", "answer"),
    [
        ("circle teal", "what color is the shape?", "teal"),
        ("circle teal", "what is the color of the circle?", "teal"),
        ("circle teal", "what color is the rectangle?", None),
        ("circle teal", "what shape does the image contain?", "circle"),
        ("circle teal", "what is the teal shape?", "circle"),
        ("circle teal", "what is the red shape?", None),
        ("circle teal", "is a teal shape present?", "yes"),
        ("circle teal", "does the image contain a triangle?", "no"),
        ("circle teal", "is there not a circle in the image?", "no"),
        ("circle teal", "is no triangle present?", "yes"),
        ("circle teal", "does the image not contain a red shape?", "yes"),
        ("circle teal ; circle red", "what color is the circle?", None),
        ("circle teal ; it is red", "is there a red shape?", "no"),
        ("teal", "is there not a red shape?", None),
    ],
)
def test_the_rule_reads_what_is_there_and_nothing_else(description: str, question: str, answer: str | None):
    assert answer_by_rule(description, question) == answer


def test_reasoning_ends_with_the_answer():
    rng = np.random.default_rng(0)
    for scene in _pool(held_out=True)[:100]:
        for kind in EasyVqaTask.all_kinds:
            if question := scene.ask(rng, kind):
                assert question.reasoning.split()[-1] == question.answer


@pytest.mark.parametrize("line", ["data easy_vqa {}/data", "demo --examples examples/easy_vqa --root {}/demo"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    _pool.cache_clear()
    result = CliRunner().invoke(app, line.format(tmp_path).split())
    assert result.exit_code == 2
    assert "pip install '.[easy-vqa]'" in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())
