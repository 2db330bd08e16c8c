"""The demo's report: a table, summary.json, learning curves, and one image described before and after RL."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vision_sr1.config import Config
from vision_sr1.data import Questions
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.names import EVALUATION, SCALARS

METRICS = {
    "accuracy": "answer right",
    "visual": "right by description",
    "format": "valid format",
    "shortcut": "language shortcut rate",
    "fidelity": "description fidelity",
}

Summary = dict[str, dict[str, dict[str, float]]]


def write_report(root: Path, base: Config, rl: Config, console: Console) -> Summary:
    """Writes summary.json, learning_curves.png and before_after.png to `root`, prints the table and the example."""
    base_log, rl_log = _scalars(base), _scalars(rl)
    splits = list(rl.data.evaluation)
    evaluations = [line for line in rl_log if f"eval_accuracy/{splits[0]}" in line]
    summary: Summary = {
        "base": _phase(next(line for line in base_log if f"eval_accuracy/{splits[0]}" in line), splits),
        "after cold start": _phase(evaluations[0], splits),
        "after RL": _phase(evaluations[-1], splits),
    }
    (root / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    console.print(_table(summary, splits))
    _plot(root / "learning_curves.png", rl_log, evaluations, splits)
    _show_example(root, rl, int(evaluations[-1]["policy/version"]), console)
    for name in ("summary.json", "learning_curves.png", "before_after.png"):
        console.print(f"wrote {root / name}", highlight=False)
    return summary


def _scalars(config: Config) -> list[dict[str, float]]:
    return jsonl.read(config.run.path / SCALARS)


def _phase(evaluation: dict[str, float], splits: list[str]) -> dict[str, dict[str, float]]:
    return {
        split: {name: evaluation[f"eval_{name}/{split}"] for name in METRICS if f"eval_{name}/{split}" in evaluation}
        for split in splits
    }


def _table(summary: Summary, splits: list[str]) -> Table:
    table = Table("held-out examples", "split")
    for phase in summary:
        table.add_column(phase, justify="right")
    for name, label in METRICS.items():
        for split in splits:
            values = [summary[phase][split].get(name) for phase in summary]
            shown = ["-" if value is None else f"{value:.2f}" for value in values]
            table.add_row(label if split == splits[0] else "", split.replace("_", "-"), *shown)
    return table


def _plot(path: Path, log: list[dict[str, float]], evaluations: list[dict[str, float]], splits: list[str]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels: list[tuple[str, list[tuple[str, str]], list[dict[str, float]]]] = [
        ("training rewards", [(f"reward/{n}", n) for n in ("accuracy", "visual", "format", "shortcut")], log)
    ]
    panels += [
        (
            f"held out: {split.replace('_', '-')}",
            [(f"eval_{n}/{split}", label) for n, label in METRICS.items()],
            evaluations,
        )
        for split in splits
    ]
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4), sharey=True)
    for axis, (title, curves, lines) in zip(axes, panels, strict=True):
        for name, label in curves:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 20 else None)
        axis.set(title=title, xlabel="batch", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _show_example(root: Path, rl: Config, last_version: int, console: Console) -> None:
    """The held-out image whose description improved most: wrong before RL, right after it."""
    split = "counter_prior" if "counter_prior" in rl.data.evaluation else next(iter(rl.data.evaluation))
    before, after = (_answers(rl, version, split) for version in (0, last_version))
    improved = [
        (index, before[index], after[index])
        for index in sorted(before.keys() & after.keys())
        if (before[index]["fidelity"] or 0) < 1 and after[index]["fidelity"] == 1 and after[index]["accuracy"]
    ]
    if not improved:
        console.print("no held-out description went from wrong to right")
        return
    index, old, new = min(improved, key=lambda item: (item[1]["accuracy"], item[1]["fidelity"]))
    row = Questions(rl.data.evaluation[split], rl.data)[index]
    image = Image.open(io.BytesIO(row.images[0])).convert("RGB")
    question = old["question"].replace("<image>", "")
    panels = [Panel(_answer(old), title="after cold start", width=44), Panel(_answer(new), title="after RL", width=44)]
    if console.is_terminal:  # in colour; elsewhere the picture is in the file
        panels.insert(0, Panel(_blocks(image), title="held-out image", subtitle=question))
    console.print(f"a held-out image, asked: {question}")
    console.print(Columns(panels))
    _draw_example(root / "before_after.png", image, old, new)


def _answers(rl: Config, version: int, split: str) -> dict[int, dict[str, Any]]:
    answers = jsonl.read(rl.run.path / EVALUATION / f"v{version}-{split}.jsonl")
    return {answer["index"]: answer for answer in answers}


def _answer(answer: dict[str, Any]) -> Text:
    true = {phrase.strip() for phrase in answer["scene"].split(";")}
    text = Text()
    for phrase in answer["description"].split(";"):
        text.append(phrase.strip() + "\n", style="green" if phrase.strip() in true else "red")
    text.append(f"\nanswer: {answer['response'].rpartition('boxed{')[2].rstrip('}')}", style="bold")
    text.append(f" ({'right' if answer['accuracy'] else 'wrong, it is ' + answer['reference']})")
    text.append(f"\nfrom the description alone: {answer['requery_answer']}")
    return text


def _blocks(image: Image.Image, columns: int = 28) -> Text:
    """The image in half-block characters."""
    small = image.resize((columns, columns))
    text = Text()
    for y in range(0, columns, 2):
        for x in range(columns):
            upper, lower = small.getpixel((x, y)), small.getpixel((x, y + 1))
            text.append("▀", style=f"rgb({_rgb(upper)}) on rgb({_rgb(lower)})")
        text.append("\n")
    return text


def _rgb(pixel: Any) -> str:
    return ",".join(str(channel) for channel in pixel)


def _draw_example(path: Path, image: Image.Image, old: dict[str, Any], new: dict[str, Any]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4), width_ratios=[1, 1.4, 1.4])
    axes[0].imshow(image, interpolation="nearest")
    axes[0].set_title(old["question"].replace("<image>", ""))
    for axis, title, answer in ((axes[1], "after cold start", old), (axes[2], "after RL", new)):
        lines = _answer(answer).plain
        axis.text(0, 0.95, lines, va="top", family="monospace", fontsize=9, transform=axis.transAxes)
        axis.set_title(title)
    for axis in axes:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
