"""Rows of groups: what the answers to a prompt are together, kept beside the traces as these come."""

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, tuple_, update

from reward_service.store.database import upsert
from reward_service.store.rows import trace_row
from reward_service.store.tables import OUTCOMES, SEARCHED, Trace, TraceBody, TraceGroup
from vision_sr1.v1 import pipeline_pb2 as pb

_ADDED = ("answers", "right", "wrong", "shortcuts", "missing", "truncated")
_AT_ONCE = 200  # groups in one statement

Row = dict[str, Any]
GroupKey = tuple[str, str]  # run and group


def group_row(sequence: int, scored: pb.ScoredRollout) -> Row:
    """Columns of TraceGroup, of a single answer."""
    trace = trace_row(scored)
    accuracy, outcome = trace["accuracy"], trace["outcome"]
    return _with_derived(
        {
            "run": trace["run"],
            "id": trace["group_id"],
            "sequence": sequence,
            "purpose": trace["purpose"],
            "data_source": trace["data_source"],
            "min_version": trace["policy_version"],
            "max_version": trace["policy_version"],
            "answers": 1,
            "right": int(accuracy is not None and accuracy > 0),
            "wrong": int(accuracy is not None and accuracy <= 0),
            "shortcuts": int(outcome is not None and OUTCOMES[outcome] == "shortcut"),
            "outcomes": 0 if outcome is None else 1 << outcome,
            "missing": int(trace["missing"] > 0),
            "truncated": trace["truncated"],
        },
        {name: (value, value) for name, value in scored.rewards.items()} | _requery_ranges(scored),
    )


def of_requery(name: str) -> str:
    """What a reward of single re-queries is called in a group's row: answers to one description may differ in it."""
    return f"requery:{name}"


def _requery_ranges(scored: pb.ScoredRollout) -> dict[str, tuple[float, float]]:
    names = {name for requery in scored.requeries for name in requery.rewards}
    values = {name: [r.rewards[name] for r in scored.requeries if name in r.rewards] for name in names}
    return {of_requery(name): (min(given), max(given)) for name, given in values.items()}


def merged(one: Row, other: Row) -> Row:
    """The row of the answers of both."""
    row = {**one, **{name: one[name] + other[name] for name in _ADDED}}
    row["sequence"] = max(one["sequence"], other["sequence"])
    row["outcomes"] = one["outcomes"] | other["outcomes"]
    row["min_version"] = min(one["min_version"], other["min_version"])
    row["max_version"] = max(one["max_version"], other["max_version"])
    ends: dict[str, tuple[float, float]] = {}
    for name, (least, greatest) in (*json.loads(one["ranges"]).items(), *json.loads(other["ranges"]).items()):
        known = ends.get(name, (least, greatest))
        ends[name] = min(known[0], least), max(known[1], greatest)
    return _with_derived(row, ends)


def _with_derived(row: Row, ranges: dict[str, tuple[float, float]]) -> Row:
    for name in SEARCHED:
        row[f"min_{name}"], row[f"max_{name}"] = ranges.get(name, (None, None))
    varied = [name for name, (least, greatest) in sorted(ranges.items()) if least != greatest]
    return {
        **row,
        "ranges": json.dumps(ranges, sort_keys=True),
        "varied": "".join(f"{name}," for name in ("", *varied)),
    }


def add_to_groups(connection: Connection, rows: Iterable[Row]) -> None:
    """Adds answers to their groups. Replicas may do so at once: a group's row is locked until the transaction ends."""
    added: dict[GroupKey, Row] = {}
    for row in rows:
        key = row["run"], row["id"]
        added[key] = merged(added[key], row) if key in added else row
    if not added:
        return
    in_order = [added[key] for key in sorted(added)]  # so that replicas do not block each other
    statement = upsert(connection, TraceGroup).on_conflict_do_nothing().returning(TraceGroup.run, TraceGroup.id)
    fresh = {(run, group) for run, group in connection.execute(statement, in_order)}
    known = sorted(added.keys() - fresh)
    changed: list[Row] = []
    for first in range(0, len(known), _AT_ONCE):
        there = select(TraceGroup.__table__).where(_is_one_of(known[first : first + _AT_ONCE]))
        found = connection.execute(there.order_by(TraceGroup.run, TraceGroup.id).with_for_update()).mappings()
        changed += [merged(dict(held), added[held["run"], held["id"]]) for held in found]
    _update(connection, changed)


def count_again(connection: Connection, groups: Iterable[GroupKey]) -> None:
    """Makes the rows of groups anew, from the traces that are there: some that they counted are gone."""
    keys = sorted(set(groups))
    if not keys:
        return
    connection.execute(delete(TraceGroup).where(_is_one_of(keys)))
    answers = select(Trace.sequence, TraceBody.message).join(TraceBody, TraceBody.sequence == Trace.sequence)
    found = connection.execute(answers.where(tuple_(Trace.run, Trace.group_id).in_(keys)))
    add_to_groups(
        connection, [group_row(sequence, pb.ScoredRollout.FromString(message)) for sequence, message in found]
    )


def _update(connection: Connection, rows: list[Row]) -> None:
    if not rows:
        return
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in rows[0] if name not in ("run", "id")}
    is_row = (TraceGroup.run == bindparam("new_run"), TraceGroup.id == bindparam("new_id"))
    statement = update(TraceGroup).where(*is_row).values(values)
    connection.execute(statement, [{f"new_{name}": value for name, value in row.items()} for row in rows])


def _is_one_of(keys: list[GroupKey]) -> Any:
    return tuple_(TraceGroup.run, TraceGroup.id).in_(keys)
