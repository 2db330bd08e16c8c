"""The figures of the runs as tables and plots, put between markers of docs/claims.md."""

import re
from pathlib import Path
from statistics import fmean, stdev

from bench.claims.judges import JUDGES, Verdict

Verdicts = dict[str, dict[str, list[Verdict]]]  # by variant and split, one per seed
Curves = dict[str, list[list[dict[str, float]]]]  # by variant, one per seed: what the run has logged

REPORT = Path(__file__).parents[2] / "docs" / "claims.md"
JUDGE_LABELS = {"self": "policy itself", "base": "base model", "rule": "rule"}


def write_results(verdicts: Verdicts, curves: Curves, facts: str) -> None:
    """Puts a table per split into the report and draws docs/claims.png beside it."""
    tables = [f"{facts}\n"]
    for split in next(iter(verdicts.values())):
        title = split.replace("_", "-")
        tables += [f"### Held out: {title}\n", table({name: splits[split] for name, splits in verdicts.items()})]
    plot = REPORT.with_suffix(".png")
    _plot(plot, curves)
    write_between("results", "\n".join([*tables, f"![training curves]({plot.name})\n"]))


def write_between(marker: str, text: str) -> None:
    """Replaces what stands between `<!-- marker -->` and `<!-- /marker -->` in the report."""
    report = REPORT.read_text(encoding="utf-8")
    between = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not between.search(report):
        raise SystemExit(f"{REPORT} has no <!-- {marker} --> markers")
    REPORT.write_text(between.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", report), encoding="utf-8")


def spread(values: list[float]) -> str:
    """Mean and deviation over the seeds."""
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def table(verdicts: dict[str, list[Verdict]]) -> str:
    """A row by name with the mean over the seeds."""
    heads = ["answer right", *(f"sufficient: {JUDGE_LABELS[j]}" for j in JUDGES)]
    heads += [*(f"shortcut: {JUDGE_LABELS[j]}" for j in JUDGES), "reading", "fidelity", "format", "answer leak"]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, seeds in verdicts.items():
        cells = [[v.accuracy for v in seeds], *([v.sufficient[j] for v in seeds] for j in JUDGES)]
        cells += [*([v.shortcut[j] for v in seeds] for j in JUDGES)]
        cells += [[v.reading for v in seeds], [v.fidelity for v in seeds], [v.format for v in seeds]]
        cells += [[v.answer_leak for v in seeds]]
        lines.append(f"| `{name}` | " + " | ".join(spread(values) for values in cells) + " |")
    return "\n".join(lines) + "\n"


def _plot(path: Path, curves: Curves) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = {
        "reward/accuracy": "answer right",
        "reward/visual": "right from the description alone (self)",
        "reward/shortcut": "right answer, insufficient description (self)",
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 4.5))
    for axis, (name, title) in zip(axes, panels.items(), strict=True):
        for variant, seeds in curves.items():
            points = [[line[name] for line in run if name in line] for run in seeds]
            length = min(map(len, points), default=0)
            if length:
                axis.plot(range(1, length + 1), [fmean(p[i] for p in points) for i in range(length)], label=variant)
        axis.set(title=f"{title}, training, mean over seeds", xlabel="batch")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
