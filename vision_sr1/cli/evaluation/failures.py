"""A page to read an evaluation's failures: what was asked and seen, what was answered, why it does not count."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision_sr1.cli.evaluation.benchmarks import Item, benchmark, questionnaire
from vision_sr1.cli.pages import thumbnail, write_page
from vision_sr1.config import Config
from vision_sr1.data import DataError
from vision_sr1.pipeline.answer_record import Record, is_shortcut

SHOWN = 100  # of each benchmark


def kind_of(answer: Record) -> str | None:
    """What is wrong with an answer; None where nothing is."""
    if answer.get("unanswered"):
        return "unanswered"
    if "accuracy" not in answer:
        return "not graded"
    if not answer["accuracy"]:
        return "cut off" if answer.get("cut_off") else "wrong"
    return "shortcut" if is_shortcut(answer) else None


def write_failures(path: Path, title: str, config: Config, records: Mapping[str, list[Record]]) -> None:
    """Writes the page with the first failures of each benchmark.

    Args:
        records: by benchmark.
    """
    counts: Counter[str] = Counter()
    benchmarks = []
    for name, answers in records.items():
        failed = {a["index"]: a for a in answers if "refused" not in a and kind_of(a) is not None}
        shown = dict(sorted(failed.items())[:SHOWN])
        counts.update(str(kind_of(answer)) for answer in shown.values())
        failures = [_failure(shown[index], item) for index, item in _items(name, config, shown)]
        benchmarks.append(
            {"name": name, "title": benchmark(name).title, "failures": failures, "all": len(failed)},
        )
    about = (
        "Wrong answers, answers cut off at sampling.max_tokens, and shortcuts: right answers that the description "
        f"alone does not lead to. Of each benchmark the first {SHOWN}; all of them are in answers/."
    )
    write_page(path, "failures", title=title, about=about, kinds=dict(counts.most_common()), benchmarks=benchmarks)


def _items(name: str, config: Config, wanted: Mapping[int, Record]) -> list[tuple[int, Item]]:
    """The questions of these numbers, read again for their images."""
    if not wanted:
        return []
    found = questionnaire(name, config).items(lambda index: index not in wanted)
    return [(index, item) for index, item in found if not isinstance(item, DataError)]


def _failure(answer: Record, item: Item) -> dict[str, Any]:
    explanations = answer.get("explanations", {})
    texts = [
        ("question", answer["question"]),
        ("reference", answer["reference"]),
        ("response", answer.get("response", "")),
        ("why", explanations.get("accuracy", "")),
        ("from the description alone", answer.get("requery_response", "")),
        ("why", explanations.get("visual", "")),
    ]
    return {
        "index": answer["index"],
        "kind": kind_of(answer),
        "tags": {tag: value for tag, value in answer.get("tags", {}).items() if tag != "set"},
        "pictures": [thumbnail(image) for image in item.images],
        "texts": [(name, text) for name, text in texts if text],
    }
