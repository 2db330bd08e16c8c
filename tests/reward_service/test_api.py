"""The REST API over a real SQLite store."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from reward_service.api import create_app
from reward_service.traces import TraceFilter, TraceStore
from vision_sr1.config import Config
from vision_sr1.streams import Blobs, Keys, check_takes_writes, connect
from vision_sr1.streams.embedded import EmbeddedRedis
from vision_sr1.v1 import pipeline_pb2 as pb


def scored(
    index: int, *, run: str = "r", version: int = 0, accuracy: float = 1.0, visual: float = 0.0
) -> pb.ScoredRollout:
    prompt = pb.Prompt(
        id=f"0/{index // 2}", run=run, question=f"what is number {index}", answer="red", data_source="shapes"
    )
    sample = pb.Sample(
        response_token_ids=[1, 2, 3],
        finish_reason="stop",
        versions=[pb.VersionSpan(policy_version=version, end=3)],
    )
    rollout = pb.Rollout(id=f"0/{index // 2}/{index % 2}", sample_index=index % 2, prompt=prompt, sample=sample)
    result = pb.ScoredRollout(
        rollout=rollout,
        response="<description>100% red</description>",
        rewards={"format": 0.0, "accuracy": accuracy, "visual": visual},
        explanations={"accuracy": "'red' is 'red'", "judge": "it was out"},
        missing=["judge"],
    )
    result.description.CopyFrom(pb.TokenSpan(start=0, end=3))
    if index % 2:
        result.requeries.add(prompt="100% red. what?", response="blue", policy_version=version + 1)
    return result


async def written(store: TraceStore, count: int) -> None:
    """Returns when the store holds so many traces."""
    for _ in range(200):
        if len(store.traces(TraceFilter(), None, 200)[0]) >= count:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"{count} traces were not written")


async def up() -> None: ...


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TraceStore]:
    store = TraceStore(f"sqlite:///{tmp_path}/traces.sqlite", None, buffer=100)
    for index in range(10):
        store.record(scored(index, version=index, accuracy=float(index % 2)))
    writing = asyncio.create_task(store.write_forever())
    await written(store, 10)
    yield store
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    store.close()


@pytest.fixture
async def api(store: TraceStore) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(store, up))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_a_cursor_leads_through_all_traces_once_newest_first(api: httpx.AsyncClient):
    seen, cursor = [], None
    while True:
        page = (await api.get("/v1/traces", params={"limit": 4} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [trace["policy_version"] for trace in page["traces"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == list(range(9, -1, -1))


@pytest.mark.parametrize(
    ("filters", "versions"),
    [
        ({"min_version": 3, "max_version": 5}, [5, 4, 3]),
        ({"min_accuracy": 0.5, "max_version": 4}, [3, 1]),
        ({"max_accuracy": 0.5, "min_version": 6}, [8, 6]),
        ({"q": "NUMBER 7"}, [7]),
        ({"q": "100%", "min_version": 9}, [9]),
        ({"q": "10_%"}, []),
        ({"run": "other"}, []),
        ({"data_source": "digits"}, []),
    ],
)
async def test_filters(api: httpx.AsyncClient, filters: dict, versions: list[int]):
    page = (await api.get("/v1/traces", params=filters)).json()
    assert [trace["policy_version"] for trace in page["traces"]] == versions


async def test_a_trace_shows_what_its_rewards_saw(api: httpx.AsyncClient):
    trace = (await api.get("/v1/traces/0/3/1")).json()
    assert trace["rewards"] == {
        "accuracy": {"value": 1.0, "explanation": "'red' is 'red'"},
        "format": {"value": 0.0, "explanation": ""},
        "judge": {"value": None, "explanation": "it was out"},
        "visual": {"value": 0.0, "explanation": ""},
    }
    (requery,) = trace["requeries"]
    assert requery["prompt"] == "100% red. what?"
    assert requery["same_weights"] is False
    assert trace["description"] == {"start": 0, "end": 3}
    assert (await api.get("/v1/traces/0/3/0")).json()["requeries"] == []


async def test_a_group_has_its_rollouts_in_order(api: httpx.AsyncClient):
    group = (await api.get("/v1/groups/0/2")).json()
    assert [trace["id"] for trace in group["traces"]] == ["0/2/0", "0/2/1"]


@pytest.mark.parametrize("path", ["/v1/traces/none/such", "/v1/groups/none", "/v1/images/00"])
async def test_what_is_not_there_is_404(api: httpx.AsyncClient, path: str):
    assert (await api.get(path)).status_code == 404


@pytest.mark.parametrize("params", [{"cursor": "nonsense"}, {"limit": 0}, {"min_accuracy": 2}])
async def test_bad_parameters_are_refused(api: httpx.AsyncClient, params: dict):
    assert (await api.get("/v1/traces", params=params)).status_code in (400, 422)


@pytest.mark.parametrize("fault", ["frozen", "full"])
async def test_readiness_is_that_of_the_streams(
    store: TraceStore, redis_config: Config, embedded_redis: EmbeddedRedis, fault: str
):
    redis = await connect(redis_config.streams)
    transport = httpx.ASGITransport(create_app(store, lambda: check_takes_writes(redis, "probe", 0.5)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/readyz")).status_code == 200
        if fault == "frozen":
            embedded_redis.process.send_signal(signal.SIGSTOP)
        else:
            await redis.config_set("maxmemory", 1)
        reply = await client.get("/readyz")
        assert reply.status_code == 503
        assert reply.json()["detail"].startswith("not ready: ")
        assert (await client.get("/healthz")).status_code == 200
        if fault == "frozen":
            embedded_redis.process.send_signal(signal.SIGCONT)
        else:
            await redis.config_set("maxmemory", 0)
        assert (await client.get("/readyz")).status_code == 200
    await redis.aclose()


async def test_the_openapi_document_and_metrics_are_served(api: httpx.AsyncClient):
    assert "/v1/traces" in (await api.get("/openapi.json")).json()["paths"]
    assert "vision_sr1_reward_traces_total" in (await api.get("/metrics")).text


async def test_images_are_kept_with_the_traces(redis_config: Config, tmp_path: Path):
    redis = await connect(redis_config.streams)
    blobs = Blobs(redis, Keys("r"), 60)
    ref = await blobs.put(b"\x89PNG...")
    store = TraceStore(f"sqlite:///{tmp_path}/t.sqlite", blobs, buffer=10)
    with_image = scored(0)
    with_image.rollout.prompt.images.append(ref)
    store.record(with_image)
    writing = asyncio.create_task(store.write_forever())
    await written(store, 1)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    transport = httpx.ASGITransport(create_app(store, up))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        reply = await client.get(f"/v1/images/{ref.sha256}")
    assert reply.content == b"\x89PNG..."
    assert reply.headers["content-type"] == "image/png"
    store.close()
    await redis.aclose()


async def test_a_full_buffer_drops_traces_and_counts_them(tmp_path: Path):
    from reward_service import metrics

    store = TraceStore(f"sqlite:///{tmp_path}/t.sqlite", None, buffer=2)
    before = metrics.TRACES.labels("dropped")._value.get()
    for index in range(5):
        store.record(scored(index))
    assert metrics.TRACES.labels("dropped")._value.get() == before + 3
    store.close()
