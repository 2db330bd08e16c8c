"""What an evaluation leaves behind for people: results.json, results.md beside the paper's numbers, failures.html."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vision_sr1.cli.evaluation.benchmarks import SUITES, benchmark
from vision_sr1.cli.evaluation.failures import write_failures
from vision_sr1.cli.evaluation.paper_results import PAPER
from vision_sr1.cli.evaluation.results import Interval, Result, average, mean_rate, result
from vision_sr1.config import Config
from vision_sr1.pipeline.answer_record import Record


@dataclass(frozen=True)
class Evaluated:
    """What was evaluated.

    Attributes:
        model: the run's or the model's folder, or a hub name.
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
        "Percent, greedy, with 95 % bootstrap intervals. *Visual*: right by the description alone, in the policy's own "
        "judgement. *Shortcut*: right although the description does not lead to it, of all.",
        "",
        f"| benchmark | questions | score | 95 % | visual | shortcut | format | tokens | {' | '.join(PAPER)} |",
        "|---|" + "---:|" * (7 + len(PAPER)),
    ]
    for found in done.results:
        cells = [found.title, str(found.questions), *_scored(found.score), *_rates(found.means)]
        cells += [f"{paper.scores[found.name]:.1f}" if found.name in paper.scores else "" for paper in PAPER.values()]
        lines.append(f"| {' | '.join(cells)} |")
    of_paper = [found for found in done.results if found.name in SUITES["paper"]]
    is_papers = done.paper_average is not None and len(of_paper) == len(done.results)
    if done.average is not None and len(done.results) > 1 and not is_papers:
        lines.append(_average_row("average", done.average, done.results, [""] * len(PAPER)))
    if done.paper_average is not None:
        averages = [f"{paper.average:.1f}" for paper in PAPER.values()]
        lines.append(_average_row("average of the paper's seven", done.paper_average, of_paper, averages))
    lines += [
        "",
        "The paper's columns are Table 2 of arXiv 2508.19652 v2, which grades open answers by a judge. There, "
        + "; ".join(
            f"{size} has a language shortcut rate of {paper.shortcut:.1f}, and Vision-R1 on the same data "
            f"{paper.baseline:.1f} on average"
            for size, paper in PAPER.items()
        )
        + ".",
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
    for column in ("questions", "score", "95 %", "visual", "shortcut", "format", "tokens"):
        table.add_column(column, justify="right")
    for found in done.results:
        table.add_row(found.title, str(found.questions), *_scored(found.score), *_rates(found.means))
    if done.average is not None and len(done.results) > 1:
        table.add_row("average", "", *_scored(done.average))
    console.print(table)
    for found in done.results:
        for note in _notes(found):
            console.print(f"{found.title}: {note}", highlight=False)


def _average_row(name: str, score: Interval, results: Sequence[Result], papers: Sequence[str]) -> str:
    rates = {rate: mean_rate(results, rate) for rate in ("visual", "shortcut", "format", "response_tokens")}
    shown = _rates({rate: value for rate, value in rates.items() if value is not None})
    return f"| {' | '.join([f'**{name}**', '', *_scored(score), *shown, *papers])} |"


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
    rates = {
        "fidelity": "description fidelity",
        "cut_off": "cut off at sampling.max_tokens",
        "judge_shortcut": "shortcut, by the judge",
    }
    lines += [f"- {what}: {100 * found.means[name]:.1f}" for name, what in rates.items() if found.means.get(name)]
    for tag, values in found.by.items():
        shown = ", ".join(f"{value} {100 * right:.1f} ({count})" for value, (count, right) in values.items())
        lines.append(f"- by {tag}: {shown}")
    return [f"## {found.title}", "", *lines, ""] if lines else []
