"""Queries for traces, by parts of words too: each kind of database has an index of its own for them."""

import re
from typing import Any

from sqlalchemy import ColumnElement, Engine, column, inspect, literal_column, select, table

from reward_service.store.filters import EarlierStoreError, Place, TraceFilter
from reward_service.store.tables import Trace, TraceBody, TraceGroup

UPDATE = "a store that a reward service of this version has opened once"

_PARTS = table("trace_parts", column("rowid"), column("text"))  # SQLite's index of trigrams
_ROWID: ColumnElement[int] = literal_column("+trace_parts.rowid")  # + has SQLite ask the index once, not once a trace
_TRIGRAM = 3  # characters; shorter parts are looked for in the texts themselves
_ESCAPE = "\\"


class TraceQueries:
    """What can be asked of a store. One of an earlier version is read as it is, and lacks tables."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._has_index = self._has_groups = False

    @property
    def has_groups(self) -> bool:
        """Whether the store has rows of groups."""
        if not self._has_groups:
            self._has_groups = inspect(self._engine).has_table(TraceGroup.__tablename__)
        return self._has_groups

    def selected(self, wanted: TraceFilter, *columns: Any) -> Any:
        """A query for columns of the traces that fit.

        Raises:
            EarlierStoreError: the store has no columns for what is wanted.
        """
        if (wanted.missing, wanted.truncated) != (None, None) and not self.has_groups:
            raise EarlierStoreError(f"the trace store is of an earlier version: missing and truncated need {UPDATE}")
        query = select(*columns).where(*wanted.conditions())
        indexed = self._indexed_parts(wanted)
        if indexed:  # without ESCAPE, which the index does not take
            query = query.select_from(Trace).join(_PARTS, Trace.sequence == _ROWID)
            query = query.where(*(_PARTS.c.text.like(f"%{part}%") for part in indexed))
        scanned = [part for part in wanted.parts if part not in indexed or set(part) & set("%_")]
        if not scanned:
            return query
        if TraceBody.message not in columns:
            query = query.join(TraceBody, TraceBody.sequence == Trace.sequence)
        return query.where(*(self._contains(part) for part in scanned))

    def place(self, wanted: TraceFilter) -> Place:
        """What pages are cut by: what an index has in this order already."""
        if self._indexed_parts(wanted):
            return Place(_PARTS.c.rowid)
        several = (wanted.min_version, wanted.max_version) != (None, None) and wanted.version is None
        return Place(Trace.policy_version, Trace.sequence) if several else Place(Trace.sequence)

    def is_indexed(self, wanted: TraceFilter) -> bool:
        """Whether words are found by SQLite's index."""
        return bool(self._indexed_parts(wanted))

    def _contains(self, part: str) -> ColumnElement[bool]:
        literal = "".join(_ESCAPE + character if character in f"%_{_ESCAPE}" else character for character in part)
        like = TraceBody.text.like if self._engine.dialect.name == "sqlite" else TraceBody.text.ilike
        return like(f"%{literal}%", escape=_ESCAPE)

    def _indexed_parts(self, wanted: TraceFilter) -> list[str]:
        """Words that SQLite's index finds; of few groups, or one version, the texts are read.

        PostgreSQL uses its own index for the same condition as a scan.
        """
        long = [part for part in wanted.parts if any(len(run) >= _TRIGRAM for run in re.split("[%_]", part))]
        are_few = wanted.group_ids is not None or wanted.version is not None
        if not long or are_few or self._engine.dialect.name != "sqlite":
            return []
        if not self._has_index:  # a store of version 0001, which is read as it is, has none
            self._has_index = inspect(self._engine).has_table(_PARTS.name)
        return long if self._has_index else []
