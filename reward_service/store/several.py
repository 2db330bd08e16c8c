"""Several stores read as one: each run from the store that has it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reward_service.store.filters import TraceFilter
from reward_service.store.reader import TraceReader
from reward_service.store.tables import StoredImage


@dataclass(frozen=True)
class StoredRun:
    """A run as its store calls it."""

    reader: TraceReader
    name: str


class TraceReaders:
    """What a TraceReader offers, for runs of several stores.

    Args:
        runs: by the names that they are asked for by.
    """

    def __init__(self, runs: Mapping[str, StoredRun]) -> None:
        self._runs = runs

    def runs(self) -> list[str]:
        """All of them."""
        return sorted(self._runs)

    def newest_run(self) -> str | None:
        """The run of the newest trace."""
        spans = {name: run.reader.span(run.name) for name, run in self._runs.items()}
        return max(spans, key=lambda name: span[1] if (span := spans[name]) else 0.0, default=None)

    def image(self, sha256: str) -> StoredImage | None:
        """One image, from whichever store has it."""
        found = (run.reader.image(sha256) for run in self._runs.values())
        return next((image for image in found if image is not None), None)

    def check(self) -> None:
        """Raises SQLAlchemyError where a store does not answer."""
        for run in self._runs.values():
            run.reader.check()

    def close(self) -> None:
        """Closes all connections."""
        for run in self._runs.values():
            run.reader.close()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """All else is of one run, which the first argument names or filters by."""

        def of_one_run(asked: str | TraceFilter, *arguments: Any, **options: Any) -> Any:
            run = self._runs[asked if isinstance(asked, str) else asked.run]
            own = run.name if isinstance(asked, str) else replace(asked, run=run.name)
            return getattr(run.reader, method)(own, *arguments, **options)

        return of_one_run
