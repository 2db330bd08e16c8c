"""The figures of all runs as tables and plots, put between the markers of docs/claims.md."""

import re
from pathlib import Path
from statistics import fmean, stdev

from bench.claims.judges import JUDGES, Verdict

Verdicts = dict[str, dict[str, list[Verdict]]]  # by variant and split, one per seed
Curves = dict[str, list[list[dict[str, float]]]]  # by variant, one per seed: what the run has logged

JUDGE_LABELS = {"self": "policy itself", "reader": "base model", "rule": "rule"}


def write_report(file: Path, verdicts: Verdicts, curves: Curves, facts: str) -> None:
    """Replaces what stands between `<!-- results -->` and `<!-- /results -->`, and draws docs/claims.png beside."""
    tables = [f"{facts}\n"]
    for split in next(iter(verdicts.values())):
        tables += [f"### Held out: {split.replace('_', '-')}\n", _table(verdicts, split)]
    tables += [f"![training curves]({file.with_suffix('.png').name})\n"]
    _plot(file.with_suffix(".png"), curves)
    text = file.read_text(encoding="utf-8")
    between = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)
    if not between.search(text):
        raise SystemExit(f"{file} has no <!-- results --> markers")
    results = "\n".join(tables)
    file.write_text(between.sub(lambda found: f"{found[1]}\n{results}\n{found[2]}", text), encoding="utf-8")


def spread(values: list[float]) -> str:
    """Mean and deviation over the seeds."""
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _table(verdicts: Verdicts, split: str) -> str:
    heads = ["answer right", *(f"sufficient: {JUDGE_LABELS[j]}" for j in JUDGES)]
    heads += [*(f"shortcut: {JUDGE_LABELS[j]}" for j in JUDGES), "fidelity", "format", "answer leak"]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for variant, splits in verdicts.items():
        rows = splits[split]
        cells = [[v.accuracy for v in rows], *([v.sufficient[j] for v in rows] for j in JUDGES)]
        cells += [*([v.shortcut[j] for v in rows] for j in JUDGES)]
        cells += [[v.fidelity for v in rows], [v.format for v in rows], [v.answer_leak for v in rows]]
        lines.append(f"| `{variant}` | " + " | ".join(spread(values) for values in cells) + " |")
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
