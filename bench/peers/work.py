"""The work that both do: a cold-started policy, questions with images, and the sizes of a batch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoProcessor

from bench.claims.runs import EXAMPLES, Study, run_command
from vision_sr1.cli.dataset.schemas import CONVERSATIONS
from vision_sr1.cli.tasks.distributions import TASKS, corpus, write_task
from vision_sr1.cli.tasks.tiny_model import make_tiny_model
from vision_sr1.families.family import Family

STAGE_TIMEOUT_S = 3600.0
PROMPT_TOKENS = 64  # without image tokens, at most
MIDDLE: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1408, "layers": 8, "heads": 8}
MIDDLE |= {"vision_hidden_size": 256, "vision_layers": 6}  # 32 million parameters together


@dataclass(frozen=True)
class Work:
    """One row of the table.

    Attributes:
        side: of an image, pixels; 28 x 28 of them are a token.
        described: length of a description in the cold start, words; 0: the demo's own.
        tokens: of a response, at most.
        steps: optimizer steps of a batch.
        sizes: of the model; None: the demo's.
        cold_start: optimizer steps of 16 conversations; of the demo's model, None: as in the demo.
        micro_batch: of this system's learner, at most, tokens.
        beside: learner ranks where they learn while the actor answers; otherwise, 2.
        dtype: `float32`, or `bfloat16`: this system's weights with float32 copies of them for the optimizer, and TRL's
            mixed precision.
    """

    name: str
    side: int
    described: int
    tokens: int
    prompts: int
    group_size: int
    steps: int
    sizes: dict[str, Any] | None
    cold_start: int | None
    micro_batch: int = 4096
    beside: int = 2
    dtype: str = "float32"

    @property
    def rollouts(self) -> int:
        """Of a batch."""
        return self.prompts * self.group_size

    @property
    def pixels(self) -> int:
        """Of an image, for the model."""
        return self.side**2

    @property
    def max_model_len(self) -> int:
        """Tokens of a prompt and its response, at most."""
        return self.pixels // 28**2 + PROMPT_TOKENS + self.tokens


@dataclass(frozen=True)
class Run:
    """What was measured of a run.

    Attributes:
        seconds: of each batch, from the end of the one before it.
        learning: seconds of each in optimizer steps; None where that is not known.
        peak_mb: of all processes together.
        learner_mb: of the learner's ranks together, at their peak; None without such.
    """

    seconds: list[float]
    peak_mb: float
    learning: list[float] | None = None
    learner_mb: float | None = None


WORKS = {
    work.name: work
    for work in (
        Work("demo", 56, 0, 64, prompts=32, group_size=8, steps=4, sizes=None, cold_start=None, beside=1),
        Work("middle", 448, 30, 48, prompts=16, group_size=8, steps=2, sizes=MIDDLE, cold_start=60, micro_batch=2048),
        Work("long", 896, 230, 256, prompts=2, group_size=8, steps=1, sizes=MIDDLE, cold_start=60),
    )
}


def make(work: Work, folder: Path, rows: int) -> tuple[Path, Path]:
    """The policy and its questions, at least `rows`; what is in the folder already is taken as it is."""
    if work.sizes is None:
        study = Study(folder, batches=1, sft_steps=work.cold_start)
        study.make_cold_start(0)
        return study.model(0, "cold_start"), study.data(0) / "train.parquet"
    policy = folder / "policy"
    paths = write_task(TASKS["shapes"], folder / "data", seed=0, base=1, cold_start=512, train=rows, held_out=1)
    if not policy.is_dir():
        texts = corpus(TASKS["shapes"], rows=300)
        make_tiny_model(folder / "random", texts, max_model_len=work.max_model_len, **work.sizes)
        _supervise(work, folder, _lengthened(paths["cold_start"], work.described), policy)
    processor = AutoProcessor.from_pretrained(policy)  # TRL takes an image's size from here
    processor.image_processor.size = {"shortest_edge": work.pixels, "longest_edge": work.pixels}
    processor.save_pretrained(policy)
    return policy, paths["train"]


def _lengthened(conversations: Path, words: int) -> Path:
    """The same conversations; a description is repeated until it has so many words."""
    rows = pq.read_table(conversations).to_pylist()
    for row in rows:
        before, tag, rest = row["messages"][-1]["content"].partition("<description> ")
        if tag:
            description, end, after = rest.partition("</description>")
            repeated = " ; ".join([description] * (1 + words // len(description.split())))
            shortened = " ".join(repeated.split()[:words])
            row["messages"][-1]["content"] = f"{before}{tag}{shortened}{end}{after}"
    target = conversations.with_name("lengthened.parquet")
    pq.write_table(pa.Table.from_pylist(rows, schema=CONVERSATIONS), target)
    return target


def _supervise(work: Work, folder: Path, conversations: Path, output: Path) -> None:
    """On small images: what a response looks like is learned from few image tokens."""
    run_command(
        "sft",
        EXAMPLES / "cold_start.yaml",
        f"run.dir={folder}",
        "run.name=cold_start",
        f"model.path={folder / 'random'}",
        f"model.max_model_len={work.max_model_len}",
        f"model.min_pixels={Family.tiny_pixels}",
        f"model.max_pixels={Family.tiny_pixels}",
        f"data.sft={conversations}",
        f"learner.sft.steps={work.cold_start}",
        "learner.sft.sequences_per_step=16",
        f"learner.sft.output={output}",
    )
