"""A run that is over, as the API serves it."""

from dataclasses import dataclass
from pathlib import Path

from reward_service.scoring import Scorer
from vision_sr1.prompting.response import TokenBytes


@dataclass(frozen=True)
class PastRun:
    """One of several runs that are served together, each with what is its own.

    Attributes:
        tokens: None where the policy's tokenizer is not to be had.
        scorer: None where its answers cannot be scored again.
    """

    folder: Path
    tokens: TokenBytes | None
    scorer: Scorer | None
