"""The figures of the runs as tables and plots, put between markers of docs/claims.md."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev

from bench.claims.judges import Verdict

Verdicts = dict[str, dict[str, list[Verdict]]]  # by objective and split, one per seed
Curves = dict[str, list[list[dict[str, float]]]]  # by objective, one per seed: what the run has logged

REPORT = Path(__file__).parents[2] / "docs" / "claims.md"
COMPARED = ("see_think", "vision_sr1")  # the baseline, and the paper's objective
PANELS = {  # of a plot: their titles by scalar
    "reward/accuracy": "answer right",
    "reward/visual": "right from the description alone",
    "reward/shortcut": "right, though the description does not suffice",
}
JUDGE_LABELS = {"self": "policy itself", "base": "base model", "rule": "rule"}


def write_results(report: Path, verdicts: Verdicts, curves: Curves, facts: str) -> str:
    """Puts a table per split into the report and draws a plot beside it, of the same name; returns the tables."""
    tables = [f"{facts}\n"]
    for split in next(iter(verdicts.values())):
        title = split.replace("_", "-")
        tables += [f"### Held out: {title}\n", table({name: splits[split] for name, splits in verdicts.items()})]
    plot = report.with_suffix(".png")
    plot_curves(plot, curves, PANELS)
    text = "\n".join(tables)
    write_between(report, "results", f"{text}\n![training curves]({plot.name})\n")
    return text


def write_between(report: Path, marker: str, text: str) -> None:
    """Replaces what stands between `<!-- marker -->` and `<!-- /marker -->` in the report."""
    content = report.read_text(encoding="utf-8")
    between = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not between.search(content):
        raise SystemExit(f"{report} has no <!-- {marker} --> markers")
    report.write_text(between.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", content), encoding="utf-8")


def shortcut_result(name: str, verdicts: Mapping[str, list[Verdict]]) -> str:
    """The benchmark's last line: the language shortcut rate by the rule, of the objectives that are compared."""
    see_think, vision_sr1 = (fmean(verdict.shortcut["rule"] for verdict in verdicts[name]) for name in COMPARED)
    return json.dumps(
        {
            "name": name,
            "value": round(vision_sr1, 4),
            "unit": "share",
            "baseline": round(see_think, 4),
            "ratio": round(vision_sr1 / see_think, 3) if see_think else None,
        }
    )


def spread(values: list[float]) -> str:
    """Mean and deviation over the seeds."""
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def table(verdicts: dict[str, list[Verdict]], more: Mapping[str, Mapping[str, list[float]]] | None = None) -> str:
    """A row by name with the mean over the seeds.

    Args:
        more: further columns by title, each with its values by row, one per seed; a row that is not there has none.
    """
    every = [verdict for seeds in verdicts.values() for verdict in seeds]
    columns, more = _columns(every[0]).keys(), more or {}
    lines = ["| | " + " | ".join([*columns, *more]) + " |", "|---" * (len(columns) + len(more) + 1) + "|"]
    for name, seeds in verdicts.items():
        figures = [_columns(verdict) for verdict in seeds]
        cells = [spread([of_seed[column] for of_seed in figures]) for column in columns]
        cells += [spread(values[name]) if name in values else "" for values in more.values()]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    lines.append(
        f"\nValid format: at least {min(v.format for v in every):.3f}; answer leaks: at most "
        f"{max(v.answer_leak for v in every):.3f}, in every row."
    )
    return "\n".join(lines) + "\n"


def _columns(verdict: Verdict) -> dict[str, float]:
    return {
        "answer right": verdict.accuracy,
        **{f"sufficient: {label}": verdict.sufficient[judge] for judge, label in JUDGE_LABELS.items()},
        **{f"shortcut: {label}": verdict.shortcut[judge] for judge, label in JUDGE_LABELS.items()},
        "reading": verdict.reading,
        "fidelity": verdict.fidelity,
    }


def plot_curves(path: Path, curves: Curves, panels: Mapping[str, str]) -> None:
    """Draws a panel for each scalar, with a line for each objective that logs it: the means over its seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 5), layout="constrained")
    for axis, (name, title) in zip(axes, panels.items(), strict=True):
        for objective, seeds in curves.items():
            points = [[line[name] for line in run if name in line] for run in seeds]
            means = [fmean(batch) for batch in zip(*points, strict=True)]
            axis.plot(range(1, len(means) + 1), means, label=objective)
        axis.set(title=title, xlabel="batch")
        axis.grid(alpha=0.3)
    figure.suptitle("The answers learned from, by the policy's own judgement; means over the seeds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves))
    figure.savefig(path, dpi=80)
    plt.close(figure)
