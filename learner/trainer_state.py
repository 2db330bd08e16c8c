"""What the RL loop keeps from batch to batch, besides weights and optimizer: part of every checkpoint."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from learner.groups.feeder import FeederState


@dataclass(frozen=True)
class UnfinishedBatch:
    """A batch in whose midst the learner was stopped: its prompts in its own order, and the steps already taken."""

    prompts: list[str]
    steps: int


@dataclass
class TrainerState:
    """Where a run stands.

    Attributes:
        policy_version: of the weights: 0 before the first batch.
        batch: how many batches were learned from.
        feeder: which prompts come next, and which are outstanding.
        unfinished: the batch in whose midst it was stopped, if it was.
        best: the best score by `learner.keep_best` that a checkpoint has held.
        in_a_row: how often limits of `learner.stop_when` were exceeded in a row, by name.
        evaluating: whether this version is to be evaluated, or its evaluation is under way: that of the policy which a
            run begins with is.
    """

    policy_version: int = 0
    batch: int = 0
    feeder: FeederState = field(default_factory=FeederState)
    unfinished: UnfinishedBatch | None = None
    best: float | None = None
    in_a_row: dict[str, int] = field(default_factory=dict)
    evaluating: bool = True

    def state_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Self:
        """From a checkpoint's manifest, one of an earlier release too."""
        unfinished = state["unfinished"]
        return cls(
            policy_version=state["policy_version"],
            batch=state["batch"],
            feeder=FeederState(**state["feeder"]),
            unfinished=UnfinishedBatch(**unfinished) if unfinished else None,
            best=state["best"],
            in_a_row=state.get("in_a_row", {}),
            evaluating=state.get("evaluating", False),
        )
