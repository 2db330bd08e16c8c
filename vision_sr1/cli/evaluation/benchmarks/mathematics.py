"""Benchmarks of mathematics, with figures and without."""

import re
from collections.abc import Iterable

from vision_sr1.cli.evaluation.benchmarks.benchmark import Benchmark
from vision_sr1.cli.evaluation.benchmarks.rows import Item, Row, behind, choice, opened, placed
from vision_sr1.data import DataError


def _math_verse(row: Row) -> Iterable[Item]:
    tags = row.tags(version="problem_version")
    images, answer = row.images("image"), row.text("answer").strip()
    asked = str(row.get("question") or "").strip() or "Answer the question that the image shows."
    question = behind(images, asked)
    if row.get("question_type") == "multi-choice":
        return [Item(question, answer, images, "choice", tags | {"form": "choice"})]
    return [opened(question, answer, images, "math_verify", tags)]


def _math_vision(row: Row) -> Iterable[Item]:
    images = {str(n): image for n, image in enumerate(row.images("decoded_image"), 1)}
    question, used = placed(row.text("question"), r"<image(\d+)>", images)
    tags = row.tags(subject="subject", level="level")
    if options := row.options("options"):
        return [choice(question, options, row.get("answer"), used, tags, row.where)]
    return [opened(question, row.text("answer"), used, "math_verify", tags)]


def _gsm8k(row: Row) -> Iterable[Item]:
    solution = row.text("answer")
    found = re.search(r"####\s*(\S+)\s*$", solution)
    if found is None:
        raise DataError(f"{row.where}: the answer ends with no `#### number`", "row")
    return [opened(row.text("question"), found.group(1), [], "numeric", {})]


def _math_500(row: Row) -> Iterable[Item]:
    tags = row.tags(subject="subject", level="level")
    return [opened(row.text("problem"), row.text("answer"), [], "math_verify", tags)]


MATHEMATICS = (
    Benchmark(
        "mathverse",
        "MathVerse",
        ("AI4Math/MathVerse:testmini@testmini",),
        ("question", "answer", "image", "problem_version", "question_type"),
        _math_verse,
        open_grader="math_verify",
    ),
    Benchmark(
        "math_vision",
        "MATH-Vision",
        ("MathLLMs/MathVision@test",),
        ("question", "options", "decoded_image", "answer"),
        _math_vision,
        open_grader="math_verify",
    ),
    Benchmark("gsm8k", "GSM8K", ("openai/gsm8k:main@test",), ("question", "answer"), _gsm8k, open_grader="numeric"),
    Benchmark(
        "math_500",
        "MATH-500",
        ("HuggingFaceH4/MATH-500@test",),
        ("problem", "answer", "solution"),
        _math_500,
        open_grader="math_verify",
    ),
)
