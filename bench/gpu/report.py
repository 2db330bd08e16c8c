"""Results as JSON and as Markdown."""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.gpu.findings import LIMITS, Figure
from bench.gpu.step import Result, Step

BAR = "\\|"  # in a cell
FILES = ("results.json", "results.md")


def write_report(folder: Path, steps: Sequence[Step], results: Sequence[Result], limits: dict[str, float]) -> str:
    """Writes both into the folder, and returns the Markdown."""
    rows = [{**vars(result), "checks": checks(steps, result)} for result in results]
    text = markdown(steps, results, limits)
    (folder / FILES[0]).write_text(json.dumps({"limits": limits, "steps": rows}, indent=2) + "\n")
    (folder / FILES[1]).write_text(text)
    return text


def markdown(steps: Sequence[Step], results: Sequence[Result], limits: dict[str, float]) -> str:
    """A table of verdicts, the figures of each step, and what they were held to."""
    lines = ["| step | verdict | on | seconds | checks |", "|---|---|---|---|---|"]
    lines += [
        f"| {result.step} | {result.verdict} | {result.on} | {result.seconds:g} | {checks(steps, result)} |"
        for result in results
    ]
    for result in results:
        lines += ["", f"## {result.step}: {result.verdict} (on {result.on})"]
        if result.reasons:
            lines += ["", *(f"- {reason}" for reason in result.reasons)]
        if result.figures:
            lines += ["", "| figure | value |", "|---|---|"]
            lines += [f"| {name} | {_shown(value)} |" for name, value in result.figures.items()]
    lines += ["", "## Limits", "", "| limit | value | of |", "|---|---|---|"]
    lines += [f"| {name} | {limits[name]:g} | {limit.meaning.replace('|', BAR)} |" for name, limit in LIMITS.items()]
    return "\n".join(lines) + "\n"


def checks(steps: Sequence[Step], result: Result) -> str:
    """What the result's step checks."""
    return next(step.checks for step in steps if step.name == result.step)


def _shown(value: Figure) -> str:
    if isinstance(value, list):
        return "<br>".join(value)
    return "not measured here" if value is None else str(value).replace("|", BAR)
