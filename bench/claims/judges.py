"""What the descriptions of a run are worth, judged three ways.

By the policy itself, as in training; by one fixed reader, the base model, which was taught to read and never trained by
RL; and by a rule that takes every word at its worth.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from reward_service.graders import mathruler
from reward_service.store import TraceFilter, TraceReader, open_store
from vision_sr1.cli.tasks.shapes import answer_by_rule
from vision_sr1.config import DataConfig, TracesConfig
from vision_sr1.data import Questions
from vision_sr1.pipeline.answer_record import answer_record
from vision_sr1.prompting.chat import Chat
from vision_sr1.prompting.prompt_template import IMAGE_MARKER, PromptTemplate
from vision_sr1.prompting.response import parse_response
from vision_sr1.rewards.names import own_visual
from vision_sr1.run_folder import jsonl

JUDGES = ("self", "base", "rule")
Answer = dict[str, object]


@dataclass(frozen=True)
class Verdict:
    """One split of one run, as shares of all its samples.

    Attributes:
        sufficient: by judge, descriptions that lead the judge to the right answer.
        shortcut: by judge, right answers with an insufficient description (language shortcut rate).
        reading: what the policy itself answers rightly from the true descriptions: how far its own judgement goes.
    """

    accuracy: float
    format: float
    fidelity: float
    answer_leak: float
    sufficient: dict[str, float]
    shortcut: dict[str, float]
    reading: float


class Reader:
    """A model that answers questions from descriptions, without an image."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        self._chat = Chat(self._tokenizer)
        self._model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
        self._template = PromptTemplate("plain_requery")

    def answers(self, descriptions: list[str], questions: list[str]) -> list[str | None]:
        """What it answers, greedily; None for nothing to read and where it boxes no answer."""
        turns = [self._template.requery(d, q) for d, q in zip(descriptions, questions, strict=True)]
        prompts = [self._chat.user_turn(turn, 0) for turn in turns]
        batch = self._tokenizer(prompts, return_tensors="pt", padding=True)
        with torch.no_grad():
            output = self._model.generate(**batch, max_new_tokens=24, do_sample=False)
        replies = self._tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return [
            parse_response(reply.encode()).answer if description else None
            for reply, description in zip(replies, descriptions, strict=True)
        ]


def evaluated_answers(file: Path) -> list[Answer]:
    """The answers that an evaluation has written."""
    return jsonl.read(file)


def training_answers(run: Path, data: Path, batches: range) -> list[Answer]:
    """The sampled answers of some batches, from a run's traces.

    Args:
        run: folder of a synchronous run: a batch was answered by the policy of the same number.
        data: folder of what it learned from.
    """
    questions = Questions(str(data / "train.parquet"), DataConfig())
    url = f"sqlite:///{run}/traces.sqlite"
    reader = TraceReader(open_store(TracesConfig(), url, read_only=True))
    wanted = TraceFilter(run=run.name, purpose="train", min_version=batches.start, max_version=batches.stop - 1)
    all_of_them = sys.maxsize - 1  # the store looks for one more than its limit, and SQLite counts no further
    newest_first, _ = reader.traces(wanted, None, limit=all_of_them)
    reader.close()
    by_id = {found.scored.rollout.id: found.scored for found in reversed(newest_first)}
    return [
        answer_record(rollout_id, questions[int(scored.rollout.prompt.id.rpartition("/")[2])], scored)
        for rollout_id, scored in sorted(by_id.items())
    ]


def judge(answers: list[Answer], policy: Reader, base: Reader) -> Verdict:
    """Means over the answers of a policy.

    Args:
        policy: the one that answered.
        base: the fixed reader.
    """
    descriptions = [str(a["description"]) for a in answers]
    questions = [str(a["question"]).replace(IMAGE_MARKER, "") for a in answers]
    said = {
        "base": base.answers(descriptions, questions),
        "rule": [answer_by_rule(d, q) for d, q in zip(descriptions, questions, strict=True)],
    }

    def right(by: list[str | None]) -> list[float]:
        return [said is not None and mathruler(said, str(a["reference"])) for said, a in zip(by, answers, strict=True)]

    own = [own_visual(a) or 0.0 for a in answers]  # the share of its samples, where the re-query has several
    enough: dict[str, list[float]] = {"self": own} | {name: right(by) for name, by in said.items()}

    def mean(name: str) -> float:
        return fmean(float(str(a[name])) for a in answers)

    return Verdict(
        accuracy=mean("accuracy"),
        format=mean("format"),
        fidelity=mean("fidelity"),
        answer_leak=mean("answer_leak"),
        sufficient={name: fmean(enough[name]) for name in JUDGES},
        shortcut={
            name: fmean(bool(a["accuracy"]) * (1.0 - ok) for a, ok in zip(answers, enough[name], strict=True))
            for name in JUDGES
        },
        reading=fmean(right(policy.answers([str(a["scene"]) for a in answers], questions))),
    )
