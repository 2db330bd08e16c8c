"""The demo's report: a table, summary.json, curves, and one image as both objectives have it described."""

import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vision_sr1.cli.tasks.task import Task
from vision_sr1.config import Config
from vision_sr1.data import Questions
from vision_sr1.pipeline.answer_record import is_shortcut, means
from vision_sr1.prompting.prompt_template import IMAGE_MARKER
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.names import EVALUATION, SCALARS

ANSWER_ONLY, VISION_SR1 = "answer-only RL", "Vision-SR1"
METRICS = {
    "accuracy": "answer right",
    "visual": "re-query right",
    "format": "valid format",
    "shortcut": "shortcuts",
    "shortcut_by_rule": "… by a rule",
    "fidelity": "fidelity",
}
CURVES = {"accuracy": "answer right", "shortcut": "language shortcut rate", "fidelity": "description fidelity"}
COLORS = {ANSWER_ONLY: "tab:orange", VISION_SR1: "tab:blue"}

Answer = dict[str, Any]
Summary = dict[str, dict[str, dict[str, float]]]


def write_report(root: Path, task: Task, base: Config, runs: Mapping[str, Config], console: Console) -> Summary:
    """Writes summary.json, learning_curves.png and an example to `root`, prints the table and the example.

    Args:
        base: whose run evaluated the base model. `guessing` stands beside the policies: how often the most frequent
            training answer to the same question is right.
        runs: `ANSWER_ONLY` and `VISION_SR1`, from the same cold start.
    """
    first = next(iter(runs.values()))
    policies = {"base": (base, 0), "cold start": (first, 0)}
    policies |= {name: (run, _evaluated_versions(run)[-1]) for name, run in runs.items()}
    guesses = _most_frequent_answers(first)
    summary: Summary = {
        "guessing": {split: _guessed(guesses, _answers(first, 0, split)) for split in first.data.evaluation}
    } | {
        name: {split: _shares(task, _answers(run, version, split)) for split in run.data.evaluation}
        for name, (run, version) in policies.items()
    }
    (root / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    console.print(_table(summary, list(first.data.evaluation)))
    _plot(root / "learning_curves.png", runs)
    _show_example(root, {name: _answers_by_index(*policies[name]) for name in runs}, first, console)
    for name in ("summary.json", "learning_curves.png", "example.png"):
        if (root / name).is_file():
            console.print(f"wrote {root / name}", highlight=False)
    return summary


def _evaluated_versions(run: Config) -> list[int]:
    split = next(iter(run.data.evaluation))
    return [int(line["policy/version"]) for line in _scalars(run) if f"eval_accuracy/{split}" in line]


def _scalars(run: Config) -> list[dict[str, float]]:
    return jsonl.read(run.run.path / SCALARS)


def _answers(run: Config, version: int, split: str) -> list[Answer]:
    return jsonl.read(run.run.path / EVALUATION / f"v{version}-{split}.jsonl")


def _most_frequent_answers(run: Config) -> dict[str, str]:
    """The most frequent answer of the training set to each of its questions."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for source in run.data.train:
        questions = Questions(source.path, run.data)
        for row in (questions[index] for index in range(len(questions))):
            answers[row.question][row.answer] += 1
    return {question: counted.most_common(1)[0][0] for question, counted in answers.items()}


def _guessed(guesses: Mapping[str, str], answers: list[Answer]) -> dict[str, float]:
    """How often a guess is right: the answer without the image. A question that training never asks is not guessed."""
    return {"accuracy": fmean(guesses.get(answer["question"]) == answer["reference"] for answer in answers)}


def _shares(task: Task, answers: list[Answer]) -> dict[str, float]:
    """Means over a split's answers, with shortcuts also as a rule finds them that takes every word literally."""

    def judged(answer: Answer) -> Answer:
        question = answer["question"].replace(IMAGE_MARKER, "")
        said = task.answer_by_rule(answer.get("description", ""), question)
        return answer | {"rule": float(said == answer["reference"])}

    by_rule = fmean(is_shortcut(judged(answer), "rule") for answer in answers)
    found = means(answers) | {"shortcut_by_rule": by_rule}
    return {name: found[name] for name in METRICS if name in found}


def _table(summary: Summary, splits: list[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)  # within 80 columns
    for heading in ("held out", "split"):
        table.add_column(heading, no_wrap=True)
    for policy in summary:
        table.add_column(policy, justify="right", width=max(map(len, policy.split())))
    for name, label in METRICS.items():
        for split in splits:
            values = [shares[split].get(name) for shares in summary.values()]
            shown = ["-" if value is None else f"{value:.2f}" for value in values]
            table.add_row(label if split == splits[0] else "", split.replace("_", "-"), *shown)
    return table


def _plot(path: Path, runs: Mapping[str, Config]) -> None:
    """Of both runs: training rewards as lines, held-out splits as points."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(CURVES), figsize=(5 * len(CURVES), 4), sharey=True)
    for axis, (name, title) in zip(axes, CURVES.items(), strict=True):
        for objective, run in runs.items():
            lines, color = _scalars(run), COLORS[objective]
            curves = {f"reward/{name}": ("", "-", f"{objective}, training")}
            for marker, style, split in zip("osv", ("--", ":", "-."), run.data.evaluation, strict=False):
                curves[f"eval_{name}/{split}"] = (marker, style, f"{objective}, {split.replace('_', '-')}")
            for scalar, (marker, style, label) in curves.items():
                points = [(line["step"], line[scalar]) for line in lines if scalar in line]
                if points:
                    axis.plot(*zip(*points, strict=True), style, marker=marker, color=color, label=label)
        axis.set(title=title, xlabel="batch", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _answers_by_index(run: Config, version: int) -> dict[int, Answer]:
    return {answer["index"]: answer for answer in _answers(run, version, _example_split(run))}


def _example_split(run: Config) -> str:
    return "counter_prior" if "counter_prior" in run.data.evaluation else next(iter(run.data.evaluation))


def _show_example(root: Path, answers: dict[str, dict[int, Answer]], run: Config, console: Console) -> None:
    """A held-out image that both answer rightly: one with a wrong description, the other with a true one."""
    without, with_reward = answers[ANSWER_ONLY], answers[VISION_SR1]
    telling = [
        index
        for index in sorted(without.keys() & with_reward.keys())
        if without[index]["accuracy"] and not without[index].get("visual") and (without[index]["fidelity"] or 0) < 1
        and with_reward[index]["accuracy"] and with_reward[index].get("visual") and with_reward[index]["fidelity"] == 1
    ]  # fmt: skip
    if not telling:
        console.print(f"no held-out image was described wrongly by {ANSWER_ONLY} and rightly by {VISION_SR1}")
        return
    index = min(telling, key=lambda i: without[i]["fidelity"])
    split = _example_split(run)
    image = Image.open(io.BytesIO(Questions(run.data.evaluation[split], run.data)[index].images[0])).convert("RGB")
    question = without[index]["question"].replace(IMAGE_MARKER, "")
    told = {name: _answer(by_index[index]) for name, by_index in answers.items()}
    panels = [Panel(text, title=name, width=38) for name, text in told.items()]
    if console.is_terminal:  # in colour; elsewhere the picture is in the file
        panels.insert(0, Panel(_blocks(image), title="held-out image", subtitle=question))
    console.print(f"a held-out image, asked: {question}")
    console.print(Columns(panels))
    _draw_example(root / "example.png", image, question, {name: text.plain for name, text in told.items()})


def _answer(answer: Answer) -> Text:
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


def _draw_example(path: Path, image: Image.Image, question: str, told: Mapping[str, str]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 1 + len(told), figsize=(12, 4), width_ratios=[1, *[1.4] * len(told)])
    axes[0].imshow(image, interpolation="nearest")
    axes[0].set_title(question)
    for axis, (name, lines) in zip(axes[1:], told.items(), strict=True):
        axis.text(0, 0.95, lines, va="top", family="monospace", fontsize=9, transform=axis.transAxes)
        axis.set_title(name)
    for axis in axes:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
