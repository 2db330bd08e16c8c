"""Benchmarks of knowledge, by text alone."""

from collections.abc import Iterable

from vision_sr1.cli.evaluation.benchmarks.benchmark import Benchmark
from vision_sr1.cli.evaluation.benchmarks.rows import Item, Row, choice


def _mmlu_pro(row: Row) -> Iterable[Item]:
    tags = row.tags(category="category")
    return [choice(row.text("question"), row.options("options"), row.text("answer"), [], tags, row.where)]


def _super_gpqa(row: Row) -> Iterable[Item]:
    tags = row.tags(discipline="discipline", difficulty="difficulty")
    return [choice(row.text("question"), row.options("options"), row.text("answer_letter"), [], tags, row.where)]


KNOWLEDGE = (
    Benchmark(
        "mmlu_pro", "MMLU-Pro", ("TIGER-Lab/MMLU-Pro@test",), ("question", "options", "answer", "category"), _mmlu_pro
    ),
    Benchmark(
        "supergpqa",
        "SuperGPQA",
        ("m-a-p/SuperGPQA@train",),
        ("question", "options", "answer_letter", "discipline"),
        _super_gpqa,
    ),
)
