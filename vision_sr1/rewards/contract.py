"""What a user's reward function is given and gives back (docs/rewards.md)."""

from dataclasses import dataclass

from vision_sr1.prompting.response import ResponseFormat


@dataclass(frozen=True)
class Reward:
    """A reward and, for whoever reads the trace, why it is what it is."""

    value: float
    explanation: str = ""


@dataclass(frozen=True)
class Missing:
    """A reward that could not be given, and why: it is left out of its component's advantage."""

    reason: str


@dataclass(frozen=True)
class Answered:
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
        was_cut_off: whether it ended there.
        requeries: what the policy answered from the description alone.
        rewards: those given so far, by name; missing ones are not there.
        sees: whether the question has images; without any, no description is asked for.
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
    was_cut_off: bool
    requeries: tuple[str, ...]
    rewards: dict[str, float]
    sees: bool = True
    images: tuple[bytes, ...] = ()
