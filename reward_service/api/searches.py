"""What traces and groups are searched for by, as query parameters."""

from dataclasses import fields
from typing import Annotated, Any, Self

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from reward_service.store import SEARCHED, GroupFilter, TraceFilter
from reward_service.store.groups import of_requery
from vision_sr1.client.models import GroupOrder
from vision_sr1.client.models import Pattern as PatternName
from vision_sr1.client.models import Purpose as PurposeName
from vision_sr1.config import LearnerConfig

Run = Annotated[str | None, Query(description="Default: the run that this service serves.")]
Purpose = Annotated[PurposeName | None, Query()]
Version = Annotated[int | None, Query(ge=-1, le=2**31 - 1)]
Bound = Annotated[float | None, Query(ge=-1e9, le=1e9)]
Pattern = Annotated[
    PatternName | None,
    Query(description="Answer and description: `shortcut` is a right answer whose description does not suffice."),
]
Count = Annotated[int | None, Query(ge=0, le=100_000)]


class TraceFilters(BaseModel):
    """What traces and groups are searched for by; another parameter is refused."""

    model_config = ConfigDict(extra="forbid")

    run: Run = None
    purpose: Purpose = None
    data_source: str | None = None
    min_version: Version = None
    max_version: Version = None
    pattern: Pattern = None
    missing: bool | None = Field(None, description="Whether some reward is missing.")
    truncated: bool | None = Field(None, description="Whether the response ended at its token limit.")
    min_format: Bound = None
    max_format: Bound = None
    min_accuracy: Bound = None
    max_accuracy: Bound = None
    min_visual: Bound = None
    max_visual: Bound = None
    q: str | None = Field(
        None, max_length=1000, description="Parts of words, all of which occur in question, answer or responses."
    )

    @model_validator(mode="after")
    def _ranges_are_some(self) -> Self:
        for name in type(self).model_fields:
            least, greatest = getattr(self, name), getattr(self, name.replace("min_", "max_", 1))
            if name.startswith("min_") and None not in (least, greatest) and least > greatest:
                raise ValueError(f"{name}={least:g} is more than {name.replace('min_', 'max_', 1)}={greatest:g}")
        return self

    def wanted(self, run: str) -> TraceFilter:
        """For the store, in the run that is meant."""
        bounds = {
            end: {name: value for name in SEARCHED if (value := getattr(self, f"{end}_{name}")) is not None}
            for end in ("min", "max")
        }
        return TraceFilter(
            run=run,
            purpose=self.purpose,
            data_source=self.data_source,
            min_version=self.min_version,
            max_version=self.max_version,
            outcome=self.pattern,
            missing=self.missing,
            truncated=self.truncated,
            words=self.q,
            min_rewards=bounds["min"],
            max_rewards=bounds["max"],
        )


class TraceSearch(TraceFilters):
    """A page of single answers."""

    cursor: str | None = None
    limit: int = Field(50, ge=1, le=200)


class GroupSearch(TraceFilters):
    """A page of prompts with all their answers: some answer fits all filters of single answers."""

    cursor: str | None = None
    step: int | None = Field(None, ge=1, le=2**31 - 1, description="Batch that learned from the prompt.")
    min_right: Count = Field(None, description="Right answers of the group.")
    max_right: Count = None
    has_signal: bool | None = Field(
        None,
        description="Whether answers of a training group differ in a reward of the run's objective; without, all "
        "advantages are 0 and nothing is learned from it.",
    )
    order: GroupOrder = Field("newest", description="Newest: by the newest trace. Of equals the newest comes first.")
    limit: int = Field(20, ge=1, le=100)

    def wanted_groups(self, run: str, settings: LearnerConfig, group_ids: list[str] | None) -> GroupFilter:
        """For the store, in the run that is meant.

        Args:
            settings: the run's objective.
            group_ids: those of the step.
        """
        of_traces = self.wanted(run)
        given: dict[str, Any] = {field.name: getattr(of_traces, field.name) for field in fields(of_traces)}
        return GroupFilter(
            **given | {"group_ids": group_ids},
            min_right=self.min_right,
            max_right=self.max_right,
            has_signal=self.has_signal,
            objective=_rewards_used(settings),
            order=self.order,
        )


def _rewards_used(settings: LearnerConfig) -> list[str]:
    """By the objective, as a group's row calls them."""
    components = [component for component in settings.components if component.weight]
    names = {name for component in components for name in component.reward}
    of_requeries = {
        of_requery(name) for component in components if component.trains_requery for name in component.reward
    }
    return sorted(names | of_requeries)
