"""Pages of groups: those with a trace that fits, in the order asked for, and how many there are."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, exists, false, func, literal, or_, select
from sqlalchemy.orm import Session

from reward_service.store.filters import EarlierStoreError, GroupFilter, Place
from reward_service.store.tables import OUTCOMES, Trace, TraceGroup
from reward_service.store.trace_queries import UPDATE, TraceQueries

SCANNED_AT_ONCE = 1000  # traces looked through for groups
SORTED_AT_MOST = 10_000  # traces with the words searched for, the newest, whose groups are sorted

_ORDERS = {
    "newest": Place(TraceGroup.sequence),
    "oldest": Place(TraceGroup.sequence, descending=False),
    "most_right": Place(TraceGroup.right, TraceGroup.sequence),
    "most_wrong": Place(TraceGroup.wrong, TraceGroup.sequence),
    "most_shortcuts": Place(TraceGroup.shortcuts, TraceGroup.sequence),
}


def group_page(
    session: Session, queries: TraceQueries, wanted: GroupFilter, cursor: str | None, limit: int
) -> tuple[list[str], str | None]:
    """Ids of groups that fit, and the cursor of the next page.

    Raises:
        CursorError: the cursor is damaged.
        EarlierStoreError: the store has no groups, and cannot be searched so without.
    """
    if _is_by_traces(queries, wanted):
        return _page_by_traces(session, queries, wanted, cursor, limit)
    place = _ORDERS[wanted.order]
    query = select(TraceGroup.id, *place.columns).where(*_conditions(queries, wanted)).order_by(*place.order)
    if cursor is not None:
        query = query.where(place.behind(place.decode(cursor)))
    rows = session.execute(query.limit(limit + 1)).all()
    return [row[0] for row in rows[:limit]], place.encode(tuple(rows[limit - 1][1:])) if len(rows) > limit else None


def count_groups(session: Session, queries: TraceQueries, wanted: GroupFilter, at_most: int) -> int:
    """How many groups fit, or `at_most`.

    Raises:
        EarlierStoreError: as in `group_page`.
    """
    if queries.has_groups and wanted.words is None:
        query = select(TraceGroup.id).where(*_conditions(queries, wanted)).limit(at_most)
    else:
        query = _of_groups(queries.selected(wanted, Trace.group_id), wanted).distinct().limit(at_most)
    return session.scalar(select(func.count()).select_from(query.subquery())) or 0


def _is_by_traces(queries: TraceQueries, wanted: GroupFilter) -> bool:
    """Words are found in traces; a store of an earlier version has nothing else."""
    if not queries.has_groups and (wanted.order != "newest" or _whole_conditions(wanted)):
        raise EarlierStoreError(
            f"the trace store is of an earlier version: order, min_right, max_right and has_signal need {UPDATE}"
        )
    return not queries.has_groups or (wanted.words is not None and wanted.order == "newest")


def _page_by_traces(
    session: Session, queries: TraceQueries, wanted: GroupFilter, cursor: str | None, limit: int
) -> tuple[list[str], str | None]:
    """From the newest trace on; a group stands where its newest trace that fits does."""
    place = queries.place(wanted)
    before = place.decode(cursor) if cursor is not None else None
    groups: dict[str, tuple[int, ...]] = {}  # by the place of its newest trace that fits
    at = before
    while len(groups) <= limit:
        query = _of_groups(queries.selected(wanted, Trace.group_id, *place.columns), wanted).order_by(*place.order)
        if at is not None:
            query = query.where(place.behind(at))
        rows = session.execute(query.limit(SCANNED_AT_ONCE)).all()
        fresh: dict[str, tuple[int, ...]] = {}
        for group_id, *found in rows:
            fresh.setdefault(group_id, tuple(found))
        shown = _shown_before(session, queries, wanted, list(fresh), before)
        for group_id, newest in fresh.items():
            if group_id not in shown:
                groups.setdefault(group_id, newest)
        if len(rows) < SCANNED_AT_ONCE:
            break
        at = tuple(rows[-1][1:])
    ids = list(groups)[:limit]
    return ids, place.encode(groups[ids[-1]]) if len(groups) > limit else None


def _of_groups(query: Any, wanted: GroupFilter) -> Any:
    """The traces of a query whose groups fit as a whole."""
    if not (conditions := _whole_conditions(wanted)):
        return query
    here = (TraceGroup.run == Trace.run) & (TraceGroup.id == Trace.group_id)
    return query.join(TraceGroup, here).where(*conditions)


def _shown_before(
    session: Session, queries: TraceQueries, wanted: GroupFilter, group_ids: list[str], before: tuple[int, ...] | None
) -> set[str]:
    """Which of these groups have a newer trace that fits, and were on an earlier page."""
    if before is None or not group_ids:
        return set()
    place = Place(Trace.sequence) if queries.is_indexed(wanted) else queries.place(wanted)
    query = queries.selected(replace(wanted, group_ids=group_ids), Trace.group_id)
    return set(session.scalars(query.where(place.not_behind(before)).distinct()))


def _conditions(queries: TraceQueries, wanted: GroupFilter) -> list[ColumnElement[bool]]:
    """On TraceGroup: what no group can do without, and that some trace of it has it all."""
    conditions: list[ColumnElement[bool]] = [TraceGroup.run == wanted.run]
    if wanted.purpose is not None:
        conditions.append(TraceGroup.purpose == wanted.purpose)
    if wanted.data_source is not None:
        conditions.append(TraceGroup.data_source == wanted.data_source)
    if wanted.group_ids is not None:
        conditions.append(TraceGroup.id.in_(wanted.group_ids))
    conditions += _whole_conditions(wanted) + _necessary_conditions(wanted)
    if wanted.words is not None:
        newest = queries.selected(wanted, Trace.group_id).order_by(*queries.place(wanted).order).limit(SORTED_AT_MOST)
        conditions.append(TraceGroup.id.in_(select(newest.subquery().c.group_id)))
    elif of_answers := wanted.unindexed_answer_conditions():
        here: Sequence[Any] = (Trace.run == TraceGroup.run, Trace.group_id == TraceGroup.id)
        conditions.append(exists(literal(1)).where(*here, *of_answers))
    return conditions


def _whole_conditions(wanted: GroupFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.min_right is not None:
        conditions.append(TraceGroup.right >= wanted.min_right)
    if wanted.max_right is not None:
        conditions.append(TraceGroup.right <= wanted.max_right)
    if wanted.has_signal is not None:
        varies = or_(false(), *(TraceGroup.varied.contains(f",{name},", autoescape=True) for name in wanted.objective))
        conditions += [TraceGroup.purpose == "train", varies if wanted.has_signal else ~varies]
    return conditions


def _necessary_conditions(wanted: GroupFilter) -> list[ColumnElement[bool]]:
    """What a group is found by before its traces are looked at."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.min_version is not None:
        conditions.append(TraceGroup.max_version >= wanted.min_version)
    if wanted.max_version is not None:
        conditions.append(TraceGroup.min_version <= wanted.max_version)
    if wanted.outcome is not None:
        conditions.append(TraceGroup.outcomes.bitwise_and(1 << OUTCOMES.index(wanted.outcome)) != 0)
    for is_wanted, count in ((wanted.missing, TraceGroup.missing), (wanted.truncated, TraceGroup.truncated)):
        if is_wanted is not None:
            conditions.append(count > 0 if is_wanted else count < TraceGroup.answers)
    conditions += [getattr(TraceGroup, f"max_{name}") >= value for name, value in wanted.min_rewards.items()]
    conditions += [getattr(TraceGroup, f"min_{name}") <= value for name, value in wanted.max_rewards.items()]
    return conditions
