"""What a user's reward function is given and gives back (docs/rewards.md)."""

import warnings
from dataclasses import dataclass

from vision_sr1.prompting.response import ResponseFormat


@dataclass(frozen=True)
class Reward:
    """A reward and, for whoever reads the trace, why it is what it is."""

    value: float
    explanation: str = ""


@dataclass(frozen=True)
class MissingReward:
    """A reward that could not be given, and why: it is left out of its component's advantage."""

    reason: str


@dataclass(frozen=True)
class ScoredResponse:
    """One answer to a prompt, as a reward function sees it.

    Attributes:
        id: of the rollout: `{prompt id}/{sample index}`.
        question: as in the data set, `<image>` markers included.
        reference: the data set's answer.
        data_source: the data set's name for where the question is from.
        response: all that the policy wrote.
        description: text of its description block; None without one.
        answer: content of its last box; None without one.
        format: the blocks that the response is; None where it is neither.
        token_ids: of the response.
        max_tokens: that it was allowed.
        is_truncated: whether it ended there.
        requeries: what the policy answered to the question from the description alone.
        rewards: those given so far, by name; missing ones are not there.
        has_images: whether the question has images; without any, no description is asked for.
        images: of the question, as encoded files; only for functions that ask for them (`images: true`).
    """

    id: str
    question: str
    reference: str
    data_source: str
    response: str
    description: str | None
    answer: str | None
    format: ResponseFormat | None
    token_ids: tuple[int, ...]
    max_tokens: int
    is_truncated: bool
    requeries: tuple[str, ...]
    rewards: dict[str, float]
    has_images: bool = True
    images: tuple[bytes, ...] = ()

    @property
    def sees(self) -> bool:
        """The name of `has_images` until version 0.1."""
        warnings.warn("sees is called has_images now", DeprecationWarning, stacklevel=2)
        return self.has_images

    @property
    def was_cut_off(self) -> bool:
        """The name of `is_truncated` until version 0.1."""
        warnings.warn("was_cut_off is called is_truncated now", DeprecationWarning, stacklevel=2)
        return self.is_truncated
