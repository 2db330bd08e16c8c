"""The trace store, on SQLite and on PostgreSQL alike."""

import asyncio
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import alembic.command
import psutil
import pytest
from sqlalchemy import create_engine, select, text, update

from reward_service import metrics
from reward_service.store import (
    CursorError,
    EarlierStoreError,
    GroupFilter,
    StoreError,
    Trace,
    TraceFilter,
    TraceReader,
    TraceWriter,
    open_store,
)
from reward_service.store.database import migrations, writing
from reward_service.store.retention import remove_old
from reward_service.store.tables import TraceGroup
from tests.reward_service.conftest import RANGE, RUN, Store
from vision_sr1.config import Config, ConfigError, TracesConfig
from vision_sr1.streams import Blobs, Keys, connect
from vision_sr1.v1 import pipeline_pb2 as pb

GROUP_SIZE = 2


def scored(
    index: int,
    *,
    run: str = RUN,
    version: int = 0,
    accuracy: float | None = 1.0,
    visual: float | None = 0.0,
    source: str = "shapes",
    question: str | None = None,
) -> pb.ScoredRollout:
    group, place = divmod(index, GROUP_SIZE)
    prompt = pb.Prompt(
        id=f"0/{group}", run=run, question=question or f"what is number {group}", answer="red", data_source=source
    )
    sample = pb.Sample(
        response_token_ids=range(10), finish_reason="stop", versions=[pb.VersionSpan(policy_version=version, end=10)]
    )
    rollout = pb.Rollout(id=f"0/{group}/{place}", sample_index=place, prompt=prompt, sample=sample)
    given = {"format": 0.0, "accuracy": accuracy, "visual": visual}
    result = pb.ScoredRollout(
        rollout=rollout,
        response=f"<description>100% red, answer {index}</description>",
        rewards={name: value for name, value in given.items() if value is not None},
        missing=[name for name, value in given.items() if value is None],
    )
    if place:
        result.requeries.add(prompt="100% red. what?", response="navy blue", policy_version=version + 1)
    return result


async def write(store: Store, *traces: pb.ScoredRollout, writer: TraceWriter | None = None) -> None:
    """Returns when the store has them."""
    stop = asyncio.Event()
    stop.set()
    for trace in traces:
        (writer or store.writer).record(trace)
    await (writer or store.writer).run(stop, drain_s=30)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = Store(store_url)
    yield store
    store.engine.dispose()


ALL = TraceFilter(run=RUN)
ALL_GROUPS = GroupFilter(run=RUN)


async def test_a_cursor_leads_through_all_traces_once_newest_first(store: Store):
    await write(store, *(scored(index, version=index) for index in range(10)))
    seen, cursor = [], None
    while True:
        page, cursor = store.reader.traces(ALL, cursor, 4)
        seen += [found.scored.rollout.sample.versions[-1].policy_version for found in page]
        if cursor is None:
            break
    assert seen == list(range(9, -1, -1))


@pytest.mark.parametrize(
    ("changes", "versions"),
    [
        ({"min_version": 3, "max_version": 5}, [5, 4, 3]),
        ({"min_version": 3, "max_version": 3}, [3]),
        ({"outcome": "shortcut"}, [9, 7, 5, 3, 1]),
        ({"outcome": "both_wrong", "max_version": 4}, [4, 2, 0]),
        ({"outcome": "both_right"}, []),
        ({"min_rewards": {"accuracy": 0.5}, "max_version": 4}, [3, 1]),
        ({"max_rewards": {"accuracy": 0.5}, "min_version": 6}, [8, 6]),
        ({"words": "NUMBER 7"}, [7]),
        ({"words": "100% 9"}, [9]),
        ({"words": "navy", "min_version": 7}, [9, 7]),
        ({"words": "avy b"}, [9, 7, 5, 3, 1]),
        ({"words": "NSWER</"}, []),
        ({"words": "scriptio 7"}, [7]),
        ({"words": "0% 9"}, [9]),
        ({"words": "100%red"}, []),
        ({"words": "nav_"}, []),
        ({"words": "an%wer"}, []),
        ({"words": "8"}, [8]),
        ({"words": " "}, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ({"words": '"OR NOT*'}, []),
        ({"run": "other"}, []),
        ({"data_source": "digits"}, []),
        ({"purpose": "evaluation"}, []),
        ({"group_ids": ["0/1", "0/3"]}, [7, 6, 3, 2]),
        ({"missing": True}, [4]),
        ({"missing": False, "min_version": 3, "max_version": 5}, [5, 3]),
        ({"truncated": True}, [8, 2]),
        ({"truncated": True, "words": "number 4"}, [8]),
        ({"truncated": False, "max_version": 2}, [1, 0]),
    ],
)
async def test_filters(store: Store, changes: dict[str, Any], versions: list[int]):
    traces = [scored(index, version=index, accuracy=float(index % 2)) for index in range(10)]
    traces[4].missing.append("judge")
    for index in (2, 8):
        traces[index].rollout.sample.finish_reason = "length"
    await write(store, *traces)
    page, cursor = store.reader.traces(replace(ALL, **changes), None, 50)
    assert [found.scored.rollout.sample.versions[-1].policy_version for found in page] == versions
    assert cursor is None
    first, cursor = store.reader.traces(replace(ALL, **changes), None, 1)
    assert len(first) == min(1, len(versions))
    if cursor:
        rest, _ = store.reader.traces(replace(ALL, **changes), cursor, 50)
        assert len(rest) == len(versions) - 1


@pytest.mark.slow
async def test_parts_of_words_are_indexed_where_postgresql_has_trigrams(postgres_with_trigrams: str):
    store = Store(postgres_with_trigrams)
    await write(store, *(scored(index, version=index) for index in range(40)))
    for words, found in (("umber 17", 3), ("UMBER 17", 3), ("nav_", 0), ("avy b", 20)):  # a description, a group
        assert len(store.reader.traces(replace(ALL, words=words), None, 50)[0]) == found, words
    with store.engine.connect() as connection:
        connection.execute(text("SET enable_seqscan = off"))  # which is cheaper for so few
        plan = connection.execute(text("EXPLAIN SELECT * FROM trace_bodies WHERE text ILIKE '%umber 17%'")).scalars()
        assert "trace_parts" in " ".join(plan)
    store.engine.dispose()


async def test_of_several_versions_the_newest_comes_first_whenever_its_traces_came(store: Store):
    await write(store, *(scored(index, version=7 * index % 10) for index in range(10)))
    several = replace(ALL, min_version=2, max_version=8)
    seen: list[int] = []
    cursor = None
    while cursor is not None or not seen:
        page, cursor = store.reader.traces(several, cursor, 2)
        seen += [found.scored.rollout.sample.versions[-1].policy_version for found in page]
    assert seen == [8, 7, 6, 5, 4, 3, 2]
    _, cursor = store.reader.traces(several, None, 2)
    with pytest.raises(CursorError, match="for these filters"):
        store.reader.traces(ALL, cursor, 2)


async def test_a_page_of_groups_shows_each_once_though_its_members_came_far_apart(store: Store):
    members = [scored(index, accuracy=float(index != 4)) for index in range(12)]
    late = members.pop(1)
    await write(store, *members)
    await write(store, late)
    pages, cursor = [], None
    while True:
        page, cursor = store.reader.group_ids(ALL_GROUPS, cursor, 2)
        pages.append(page)
        if cursor is None:
            break
    assert pages == [["0/0", "0/5"], ["0/4", "0/3"], ["0/2", "0/1"]]
    assert store.reader.group_ids(replace(ALL_GROUPS, outcome="both_wrong"), None, 5) == (["0/2"], None)
    groups = store.reader.groups(RUN, ["0/0", "0/2", "none"])
    assert {group: [f.scored.rollout.id for f in found] for group, found in groups.items()} == {
        "0/0": ["0/0/0", "0/0/1"],
        "0/2": ["0/2/0", "0/2/1"],
    }


GROUPS = [  # accuracies and visual rewards of both answers; None is missing
    ((1.0, 1.0), (0.0, 0.0)),
    ((1.0, 0.0), (0.0, 0.0)),
    ((0.0, 0.0), (0.0, 0.0)),
    ((1.0, 1.0), (1.0, 0.0)),
    ((0.0, None), (1.0, 0.0)),
]


def groups_of_all_kinds() -> list[pb.ScoredRollout]:
    traces = [
        scored(GROUP_SIZE * group + place, version=group, accuracy=accuracy[place], visual=visual[place])
        for group, (accuracy, visual) in enumerate(GROUPS)
        for place in range(GROUP_SIZE)
    ]
    traces[4].rollout.sample.finish_reason = "length"
    traces[5].rewards["format"] = 1.0
    return traces


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({}, [4, 3, 2, 1, 0]),
        ({"order": "oldest"}, [0, 1, 2, 3, 4]),
        ({"order": "most_right"}, [3, 0, 1, 4, 2]),
        ({"order": "most_wrong"}, [2, 4, 1, 3, 0]),
        ({"order": "most_shortcuts"}, [0, 3, 1, 4, 2]),
        ({"order": "most_right", "words": "number"}, [3, 0, 1, 4, 2]),
        ({"order": "most_right", "words": "answer 9"}, [4]),
        ({"min_right": 2}, [3, 0]),
        ({"max_right": 0}, [4, 2]),
        ({"min_right": 1, "max_right": 1}, [1]),
        ({"min_right": 1, "words": "number"}, [3, 1, 0]),
        ({"has_signal": False, "objective": ["accuracy", "visual"]}, [2, 0]),
        ({"has_signal": True, "objective": ["accuracy", "visual"]}, [4, 3, 1]),
        ({"has_signal": True, "objective": ["accuracy"]}, [1]),
        ({"has_signal": False, "objective": ["judge"]}, [4, 3, 2, 1, 0]),
        ({"has_signal": True, "objective": ["format", "judge"]}, [2]),
        ({"has_signal": True, "objective": ["visual"], "purpose": "evaluation"}, []),
        ({"missing": True}, [4]),
        ({"missing": False, "min_version": 3}, [4, 3]),
        ({"truncated": True}, [2]),
        ({"truncated": True, "min_rewards": {"format": 0.5}}, []),
        ({"min_rewards": {"format": 0.5}}, [2]),
        ({"max_rewards": {"visual": 0.5}, "min_rewards": {"visual": 0.5}}, []),
        ({"max_rewards": {"accuracy": 0.0}, "outcome": "sufficient_only"}, [4]),
        ({"outcome": "shortcut"}, [3, 1, 0]),
        ({"outcome": "both_right", "max_rewards": {"visual": 0.5}}, []),
        ({"min_version": 2, "max_version": 3}, [3, 2]),
        ({"group_ids": ["0/1", "0/2", "none"]}, [2, 1]),
        ({"data_source": "digits"}, []),
        ({"run": "other"}, []),
    ],
)
async def test_groups_are_found_by_what_their_answers_are_together(
    store: Store, changes: dict[str, Any], groups: list[int]
):
    await write(store, *groups_of_all_kinds())
    wanted = replace(ALL_GROUPS, **changes)
    found, cursor = [], None
    while True:
        page, cursor = store.reader.group_ids(wanted, cursor, 2)
        found += page
        if cursor is None:
            break
    assert found == [f"0/{group}" for group in groups]
    assert store.reader.count_groups(wanted, 100) == len(groups)
    assert store.reader.count_groups(wanted, 1) == min(1, len(groups))


def group_rows(store: Store) -> list[dict[str, Any]]:
    with store.engine.connect() as connection:
        return [
            dict(row) for row in connection.execute(select(TraceGroup.__table__).order_by(TraceGroup.id)).mappings()
        ]


async def test_a_group_is_the_same_however_its_answers_come(store: Store):
    traces = groups_of_all_kinds()
    await write(store, *traces)
    (whole, *others) = group_rows(store)
    assert len(others) == 4
    assert (whole["answers"], whole["right"], whole["wrong"], whole["shortcuts"]) == (2, 2, 0, 2)
    assert (whole["min_visual"], whole["max_visual"], whole["varied"]) == (0.0, 0.0, ",")
    one_by_one = Store(store.url)
    for trace in traces:
        trace.rollout.prompt.run = "other"
        await write(one_by_one, trace)
    rows = group_rows(store)
    apart = {"run", "sequence"}
    by_run = [
        [{k: v for k, v in row.items() if k not in apart} for row in rows if row["run"] == run]
        for run in (RUN, "other")
    ]
    assert by_run[0] == by_run[1]
    one_by_one.engine.dispose()


async def test_a_group_forgets_an_answer_that_was_sampled_anew_and_goes_with_its_last_trace(store: Store):
    await write(store, *groups_of_all_kinds())
    anew = scored(0, accuracy=0.0, visual=1.0)
    anew.rollout.sample.response_token_ids[0] = 99
    await write(store, anew)
    row = group_rows(store)[0]
    assert (row["answers"], row["right"], row["wrong"], row["shortcuts"]) == (2, 1, 1, 1)
    assert row["varied"] == ",accuracy,visual,"
    assert row["sequence"] == store.reader.last_sequence(RUN)
    remove_old(writing(store.engine), TracesConfig(keep_count=3))
    assert [row["id"] for row in group_rows(store)] == ["0/0", "0/4"]
    remove_old(writing(store.engine), TracesConfig(keep_days=1e-9))
    assert group_rows(store) == []


async def test_a_store_of_the_version_before_is_read_as_it_is_and_gets_its_groups(store: Store):
    await write(store, *groups_of_all_kinds())
    before = group_rows(store)
    with writing(store.engine).begin() as connection:
        alembic.command.downgrade(migrations(connection), "0002")
    earlier = open_store(TracesConfig(url=store.url), store.url, read_only=True)
    reader = TraceReader(earlier)
    assert reader.group_ids(replace(ALL_GROUPS, outcome="shortcut"), None, 2)[0] == ["0/3", "0/1"]
    assert reader.count_groups(replace(ALL_GROUPS, outcome="shortcut"), 9) == 3
    for changes in ({"order": "oldest"}, {"has_signal": True}, {"min_right": 1}, {"missing": True}):
        with pytest.raises(EarlierStoreError, match="of an earlier version: .*opened once"):
            reader.group_ids(replace(ALL_GROUPS, **changes), None, 2)
    earlier.dispose()
    open_store(TracesConfig(url=store.url), store.url).dispose()
    assert group_rows(store) == before
    assert store.reader.group_ids(replace(ALL_GROUPS, truncated=True), None, 5) == (["0/2"], None)
    assert [found.scored.rollout.id for found in store.reader.traces(replace(ALL, missing=True), None, 5)[0]] == [
        "0/4/1"
    ]


async def test_a_rollout_that_comes_twice_is_kept_and_counted_once(store: Store):
    await write(store, scored(0), scored(0))
    await write(store, scored(0), scored(1))
    page, _ = store.reader.traces(ALL, None, 50)
    assert [found.scored.rollout.id for found in page] == ["0/0/1", "0/0/0"]
    (bin_,) = store.reader.counts(RUN, names=["accuracy"])
    assert (bin_.count, bin_.total) == (2, 2.0)


async def test_a_rollout_that_was_sampled_anew_replaces_the_one_before(store: Store):
    await write(store, scored(0), scored(1))
    anew = scored(0, accuracy=0.0)
    anew.rollout.sample.response_token_ids[0] = 99
    await write(store, anew)
    page, _ = store.reader.traces(ALL, None, 50)
    assert [found.scored.rollout.id for found in page] == ["0/0/0", "0/0/1"]
    assert page[0].scored.rewards["accuracy"] == 0.0
    assert store.reader.traces(replace(ALL, words="answer 0"), None, 5)[0][0].scored.rewards["accuracy"] == 0.0
    assert sum(b.count for b in store.reader.counts(RUN, names=["accuracy"])) == 3


async def test_two_replicas_share_one_store_and_one_group(store: Store):
    other = Store(store.url)
    for first in range(0, 40, 8):
        mine = [scored(index) for index in range(first, first + 8, 2)]
        theirs = [scored(index) for index in range(first + 1, first + 8, 2)]
        await asyncio.gather(write(store, *mine), write(other, *theirs))
    assert len(store.reader.traces(ALL, None, 100)[0]) == 40
    assert all(len(found) == 2 for found in other.reader.groups(RUN, [f"0/{group}" for group in range(20)]).values())
    (bin_,) = store.reader.counts(RUN, names=["accuracy"])
    assert bin_.count == 40
    other.engine.dispose()


async def test_rewards_are_counted_by_version_source_and_value_missing_ones_apart(store: Store):
    await write(
        store,
        scored(0, accuracy=1.0, visual=0.5),
        scored(1, accuracy=None, visual=1.0),
        scored(2, accuracy=0.0, visual=0.0, version=1),
        scored(3, accuracy=1.0, visual=0.0, source="digits"),
    )
    bins = store.reader.counts(RUN, names=["accuracy", "visual", "outcome"])
    found = {(b.data_source, b.policy_version, b.name, b.is_missing, round(b.low, 2)): (b.count, b.total) for b in bins}
    assert found == {
        ("shapes", 0, "accuracy", True, -0.05): (1, 0.0),
        ("shapes", 0, "accuracy", False, 0.95): (1, 1.0),
        ("shapes", 0, "visual", False, 0.5): (1, 0.5),
        ("shapes", 0, "visual", False, 0.95): (1, 1.0),
        ("shapes", 0, "outcome", False, 3.0): (1, 3.0),
        ("shapes", 0, "outcome", True, -1.0): (1, 0.0),
        ("shapes", 1, "accuracy", False, 0.0): (1, 0.0),
        ("shapes", 1, "visual", False, 0.0): (1, 0.0),
        ("shapes", 1, "outcome", False, 0.0): (1, 0.0),
        ("digits", 0, "accuracy", False, 0.95): (1, 1.0),
        ("digits", 0, "visual", False, 0.0): (1, 0.0),
        ("digits", 0, "outcome", False, 2.0): (1, 2.0),
    }
    assert store.reader.runs() == [RUN]


async def test_prompts_of_two_runs_are_known_by_what_they_ask(store: Store):
    await write(store, scored(0, accuracy=1.0), scored(1, accuracy=0.0), scored(2))
    await write(store, *(scored(index, run="other", accuracy=1.0, question="what is number 0") for index in (6, 7)))
    mine, theirs = (store.reader.prompt_means(TraceFilter(run=run)) for run in (RUN, "other"))
    (shared,) = mine.keys() & theirs.keys()
    assert (mine[shared].group_id, mine[shared].answers, mine[shared].rewards["accuracy"]) == ("0/0", 2, 0.5)
    assert (theirs[shared].group_id, theirs[shared].answers, theirs[shared].rewards["accuracy"]) == ("0/3", 2, 1.0)


async def test_images_are_kept_with_the_traces_and_go_with_the_last(redis_config: Config, store: Store):
    redis = await connect(redis_config.streams)
    blobs = Blobs(redis, Keys(RUN), 60)
    writer = TraceWriter(store.engine, blobs, TracesConfig(), RANGE)
    refs = [await blobs.put(b"\x89PNG..." + bytes([index])) for index in range(2)]
    for index, ref in enumerate(refs):
        trace = scored(2 * index)
        trace.rollout.prompt.images.append(ref)
        await write(store, trace, writer=writer)
        await asyncio.sleep(0.01)
    kept = store.reader.image(refs[0].sha256)
    assert kept is not None
    assert (kept.data, kept.media_type) == (b"\x89PNG...\0", "image/png")
    remove_old(writing(store.engine), TracesConfig(keep_count=1))
    assert store.reader.image(refs[0].sha256) is None
    assert store.reader.image(refs[1].sha256) is not None
    await redis.aclose()


async def test_traces_are_kept_by_age_and_count(store: Store):
    await write(store, *(scored(index) for index in range(6)))
    with writing(store.engine).begin() as connection:
        old = update(Trace).where(Trace.id.in_(["0/0/0", "0/1/0"])).values(recorded_at=time.time() - 3 * 86_400)
        connection.execute(old)
    assert len(store.reader.traces(replace(ALL, words="0</desc"), None, 50)[0]) == 1
    assert remove_old(writing(store.engine), TracesConfig(keep_days=2)) == 2
    assert remove_old(writing(store.engine), TracesConfig(keep_count=3)) == 1
    page, _ = store.reader.traces(ALL, None, 50)
    assert [found.scored.rollout.id for found in page] == ["0/2/1", "0/2/0", "0/1/1"]
    assert store.reader.traces(replace(ALL, words="0</desc"), None, 50) == ([], None), "nothing is left of the others"
    (bin_,) = store.reader.counts(RUN, names=["accuracy"])
    assert bin_.count == 6, "statistics are of all"


async def test_a_sample_is_of_whole_groups_and_statistics_are_of_all(store: Store):
    writer = TraceWriter(store.engine, None, TracesConfig(sample=0.3), RANGE)
    await write(store, *(scored(index) for index in range(200)), writer=writer)
    page, _ = store.reader.traces(ALL, None, 200)
    groups = [found.scored.rollout.prompt.id for found in page]
    assert 30 < len(groups) < 100
    assert all(groups.count(group) == GROUP_SIZE for group in groups)
    (bin_,) = store.reader.counts(RUN, names=["accuracy"])
    assert bin_.count == 200


async def test_a_store_that_is_down_holds_up_nothing_and_gets_what_the_buffer_holds_when_it_is_back(store: Store):
    before = {outcome: metrics.TRACES.labels(outcome)._value.get() for outcome in ("dropped", "written")}
    writer = TraceWriter(store.engine, None, TracesConfig(buffer=5), RANGE)
    stop = asyncio.Event()
    with writing(store.engine).begin() as connection:
        connection.execute(text("ALTER TABLE trace_bodies RENAME TO away"))
    running = asyncio.create_task(writer.run(stop, drain_s=30))
    writer.record(scored(0))
    for _ in range(200):
        if metrics.STORE_UP._value.get() == 0:
            break
        await asyncio.sleep(0.05)
    for index in range(1, 10):
        writer.record(scored(index))
    assert metrics.TRACES.labels("dropped")._value.get() == before["dropped"] + 4
    with writing(store.engine).begin() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO trace_bodies"))
    stop.set()
    await running
    assert len(store.reader.traces(ALL, None, 50)[0]) == 6
    assert metrics.TRACES.labels("written")._value.get() == before["written"] + 6
    assert metrics.STORE_UP._value.get() == 1


async def test_a_trace_that_cannot_be_written_is_not_in_the_way_of_others(postgres):
    store = Store(f"postgresql+psycopg://postgres@/postgres?host={postgres.get_uri().partition('?host=')[2]}")
    before = metrics.TRACES.labels("dropped")._value.get()
    await write(store, scored(0, run="poison"), scored(1, run="poison", source="x" * 300), scored(2, run="poison"))
    page, _ = store.reader.traces(TraceFilter(run="poison"), None, 50)
    assert [found.scored.rollout.id for found in page] == ["0/1/0", "0/0/0"]
    assert metrics.TRACES.labels("dropped")._value.get() == before + 1
    store.engine.dispose()


async def test_a_server_that_freezes_holds_up_nothing_either(postgres):
    url = f"postgresql+psycopg://postgres@/postgres?host={postgres.get_uri().partition('?host=')[2]}"
    store = Store(url, buffer=3)
    server = psutil.Process(postgres.get_pid())
    frozen = [*server.children(recursive=True), server]
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    stop = asyncio.Event()
    running = asyncio.create_task(store.writer.run(stop, drain_s=0.2))
    started = time.monotonic()
    for index in range(10):
        store.writer.record(scored(index))
        await asyncio.sleep(0.01)
    stop.set()
    await running
    assert time.monotonic() - started < 20
    for process in frozen:
        process.send_signal(signal.SIGCONT)
    for thread in threading.enumerate():
        if thread.name == "trace-store":  # of the writer, which did not wait for it
            thread.join(30)
    store.engine.dispose()


def test_what_cannot_be_a_store_is_said(tmp_path: Path):
    config = TracesConfig()
    with pytest.raises(ConfigError, match=r"reward\.traces\.url: mysql is not known"):
        open_store(config, "mysql://localhost/traces")
    with pytest.raises(ConfigError, match=r"reward\.traces\.url: .*use sqlite:///FILE"):
        open_store(config, "traces.sqlite")
    with pytest.raises(StoreError, match="cannot be opened"):
        open_store(config, f"sqlite:///{tmp_path}/no/such/folder/traces.sqlite")
    with pytest.raises(StoreError, match="cannot be opened"):
        open_store(config, "postgresql+psycopg://nobody@127.0.0.1:1/none")
    with sqlite3.connect(tmp_path / "old.sqlite") as old:
        old.execute("CREATE TABLE traces (sequence INTEGER PRIMARY KEY)")
    with pytest.raises(StoreError, match="before the first release: move it away"):
        open_store(config, f"sqlite:///{tmp_path}/old.sqlite")
    with pytest.raises(StoreError, match="there are no traces: .*empty.sqlite is no file"):
        open_store(config, f"sqlite:///{tmp_path}/empty.sqlite", read_only=True)


def test_a_password_is_not_shown(tmp_path: Path):
    config = TracesConfig(password="geheim")
    with pytest.raises(StoreError) as raised:
        open_store(config, "postgresql+psycopg://nobody@127.0.0.1:1/none")
    assert "geheim" not in str(raised.value)


async def test_a_store_is_read_without_being_changed(store: Store):
    await write(store, scored(0))
    reading = open_store(TracesConfig(url=store.url), store.url, read_only=True)
    assert len(TraceReader(reading).traces(ALL, None, 5)[0]) == 1
    if store.url.startswith("sqlite"):
        with pytest.raises(Exception, match="readonly"), reading.begin() as connection:
            connection.execute(text("DELETE FROM traces"))
    reading.dispose()


async def test_a_store_of_the_first_version_is_searched_as_it_is_and_brought_up_to_date_by_a_service(store: Store):
    await write(store, *(scored(index) for index in range(4)))
    with writing(store.engine).begin() as connection:
        alembic.command.downgrade(migrations(connection), "0001")
    wanted = replace(ALL, words="scriptio 3")
    for read_only, version in ((True, "0001"), (False, "0003")):
        engine = open_store(TracesConfig(url=store.url), store.url, read_only=read_only)
        page, _ = TraceReader(engine).traces(wanted, None, 5)
        assert [found.scored.rollout.id for found in page] == ["0/1/1"]
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT version_num FROM alembic_version")) == version
        engine.dispose()


@pytest.mark.parametrize(
    "cursor", ["nonsense", "", "eyJiZWZvcmUiOiBbLTJdfQ==", "eyJiZWZvcmUiOiBbMWU0MF19", "eyJiZWZvcmUiOiAxfQ=="]
)
async def test_a_damaged_cursor_is_refused(store: Store, cursor: str):
    with pytest.raises(CursorError, match="start again without it"):
        store.reader.traces(ALL, cursor, 5)


async def test_migrations_lead_to_the_tables_that_the_code_has(store: Store):
    """`alembic check`, as a test: a changed table without its migration fails."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    from reward_service.store.tables import Base

    def is_ours(thing: object, name: str | None, kind: str, *_: object) -> bool:
        return not (kind in ("table", "index") and str(name).startswith("trace_parts"))

    engine = create_engine(store.url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": is_ours})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()
