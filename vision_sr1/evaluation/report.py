"""What an evaluation leaves behind for people: results.json, results.md beside the paper's numbers, failures.html."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vision_sr1.config import Config
from vision_sr1.evaluation.answers import Record
from vision_sr1.evaluation.benchmarks import SUITES, benchmark
from vision_sr1.evaluation.failures import write_failures
from vision_sr1.evaluation.results import Interval, Result, average, mean_rate, result

# Table 2 of arXiv 2508.19652 v2, in percent, and the rate of language shortcuts that it reports.
PAPER: dict[str, dict[str, float]] = {
    "Vision-SR1 3B": dict(zip(SUITES["paper"], (40.8, 49.6, 66.1, 41.9, 45.8, 29.3, 68.3), strict=True)),
    "Vision-SR1 7B": dict(zip(SUITES["paper"], (40.7, 52.2, 69.2, 43.5, 54.5, 36.2, 68.9), strict=True)),
}
PAPER_AVERAGE = {"Vision-SR1 3B": 48.8, "Vision-SR1 7B": 52.2}
PAPER_BASELINE = {"Vision-SR1 3B": 47.1, "Vision-SR1 7B": 50.7}  # Vision-R1 on the same data
PAPER_SHORTCUT = {"Vision-SR1 3B": 9.4, "Vision-SR1 7B": 9.8}


@dataclass(frozen=True)
class Evaluated:
    """What was evaluated.

    Attributes:
        model: folder or hub name.
        version: of the policy.
        weights: SHA-256 of its weight files, where they are here.
    """

    model: str
    version: int
    weights: dict[str, str]


@dataclass(frozen=True)
class Report:
    """All numbers of an evaluation; `average` is over all benchmarks, `paper_average` over those of the paper."""

    evaluated: Evaluated
    results: list[Result]
    average: Interval | None
    paper_average: Interval | None


def report(config: Config, evaluated: Evaluated, records: Mapping[str, list[Record]]) -> Report:
    """The numbers of these answers.

    Args:
        records: by benchmark.
    """
    found = {name: result(benchmark(name), answers, config.evaluation.resamples) for name, answers in records.items()}
    of_paper = [found[name] for name in SUITES["paper"] if name in found]
    return Report(
        evaluated=evaluated,
        results=[one for one, _ in found.values()],
        average=average(list(found.values())),
        paper_average=average(of_paper) if len(of_paper) == len(SUITES["paper"]) else None,
    )


def write_report(folder: Path, config: Config, done: Report, records: Mapping[str, list[Record]]) -> None:
    """Writes all three files; the same answers give the same files."""
    settings = {
        "data.prompt_template": config.data.prompt_template,
        "reward.requery.template": config.reward.requery.template,
        "sampling.max_tokens": config.sampling.max_tokens,
        "model.min_pixels": config.model.min_pixels,
        "model.max_pixels": config.model.max_pixels,
        "evaluation.rows": config.evaluation.rows,
        "judge": config.reward.judge.model or None,
    }
    (folder / "results.json").write_text(
        json.dumps(asdict(done) | {"settings": settings}, indent=1) + "\n", encoding="utf-8"
    )
    (folder / "results.md").write_text(markdown(done, settings), encoding="utf-8")
    title = f"{done.evaluated.model}, version {done.evaluated.version}: failures"
    write_failures(folder / "failures.html", title, config, records)


def markdown(done: Report, settings: Mapping[str, Any]) -> str:
    """The table beside the paper's, and what else there is to say of each benchmark."""
    lines = [
        f"# {done.evaluated.model}, version {done.evaluated.version}",
        "",
        "Percent, greedy, with 95 % bootstrap intervals. *By description*: right by the description alone, by the "
        "policy's own judgement. *Shortcut*: right although the description does not lead to it, of all.",
        "",
        f"| benchmark | questions | score | 95 % | by description | shortcut | format | tokens | {' | '.join(PAPER)} |",
        "|---|" + "---:|" * (7 + len(PAPER)),
    ]
    for found in done.results:
        cells = [found.title, str(found.questions), *_scored(found.score), *_rates(found.means)]
        cells += [f"{PAPER[size][found.name]:.1f}" if found.name in PAPER[size] else "" for size in PAPER]
        lines.append(f"| {' | '.join(cells)} |")
    overall = {name: mean_rate(done.results, name) for name in ("visual", "shortcut", "format", "response_tokens")}
    rates = _rates({name: value for name, value in overall.items() if value is not None})
    rows = [("average", done.average, {}), ("average of the paper's seven", done.paper_average, PAPER_AVERAGE)]
    for name, score, paper in rows:
        if score is not None and (paper or len(done.results) > 1):
            cells = [
                f"**{name}**",
                "",
                *_scored(score),
                *rates,
                *(f"{paper[s]:.1f}" if s in paper else "" for s in PAPER),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "The paper's columns are Table 2 of arXiv 2508.19652 v2, where Vision-R1 on the same data has "
        f"{' and '.join(f'{PAPER_BASELINE[size]:.1f} ({size[-2:]})' for size in PAPER)} on average; its language shortcut "
        f"rate is {' and '.join(f'{PAPER_SHORTCUT[size]:.1f}' for size in PAPER)}. It grades open answers by a judge.",
        "",
    ]
    for found in done.results:
        lines += _details(found)
    lines += ["## Settings", "", *(f"- `{key}`: {value}" for key, value in settings.items() if value is not None)]
    lines += [f"- `{name}`: {digest}" for name, digest in done.evaluated.weights.items()]
    return "\n".join(lines) + "\n"


def print_report(console: Console, done: Report) -> None:
    """The same in short, on a terminal."""
    table = Table("benchmark", title=f"{done.evaluated.model}, version {done.evaluated.version}")
    for column in ("questions", "score", "95 %", "by description", "shortcut", "format", "tokens"):
        table.add_column(column, justify="right")
    for found in done.results:
        table.add_row(found.title, str(found.questions), *_scored(found.score), *_rates(found.means))
    if done.average is not None and len(done.results) > 1:
        table.add_row("average", "", *_scored(done.average))
    console.print(table)
    for found in done.results:
        for note in _notes(found):
            console.print(f"{found.title}: {note}", highlight=False)


def _scored(score: Interval | None) -> tuple[str, str]:
    if score is None:
        return "", ""
    return f"{100 * score.score:.1f}", f"{100 * score.low:.1f} to {100 * score.high:.1f}"


def _rates(rates: Mapping[str, float]) -> list[str]:
    shown = [f"{100 * rates[name]:.1f}" if name in rates else "" for name in ("visual", "shortcut", "format")]
    return [*shown, f"{rates['response_tokens']:.0f}" if "response_tokens" in rates else ""]


def _notes(found: Result) -> list[str]:
    notes = [
        (found.refused, "rows could not be used and are left out"),
        (found.unanswered, "questions were answered by no actor and count as wrong"),
        (found.unscored, "answers could not be graded and are left out; the same command asks them again"),
    ]
    return [f"{count} {what}" for count, what in notes if count]


def _details(found: Result) -> list[str]:
    lines = [f"- {note}" for note in _notes(found)]
    lines += [f"- {name}: {100 * value:.1f}" for name, value in found.also.items()]
    rates = {"cut_off": "cut off at sampling.max_tokens", "judge_shortcut": "shortcut, by the judge"}
    lines += [f"- {what}: {100 * found.means[name]:.1f}" for name, what in rates.items() if found.means.get(name)]
    for tag, values in found.by.items():
        shown = ", ".join(f"{value} {100 * right:.1f} ({count})" for value, (count, right) in values.items())
        lines.append(f"- by {tag}: {shown}")
    return [f"## {found.title}", "", *lines, ""] if lines else []
