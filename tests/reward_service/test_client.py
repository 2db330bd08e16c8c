"""The Python client against a running service, and against its OpenAPI document."""

import inspect
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import pytest

from reward_service.api import ApiContext, create_app
from tests.reward_service.conftest import RUN, Store
from tests.reward_service.serving import serving_in_thread
from tests.reward_service.test_store import scored, write
from vision_sr1.client import ApiError, Client
from vision_sr1.config import load_config

METHODS: dict[tuple[str, str], Callable[..., Any]] = {
    ("get", "/v1/runs"): Client.runs,
    ("get", "/v1/traces"): Client.traces,
    ("get", "/v1/rows"): Client.rows,
    ("get", "/v1/steps"): Client.steps,
    ("get", "/v1/traces/{trace_id}"): Client.trace,
    ("get", "/v1/traces/{trace_id}/tokens"): Client.tokens,
    ("get", "/v1/traces/{trace_id}/prompt"): Client.prompt,
    ("get", "/v1/traces/{trace_id}/diff"): Client.diff,
    ("get", "/v1/prompts/{prompt_key}"): Client.prompt_versions,
    ("post", "/v1/traces/{trace_id}/rescore"): Client.rescore,
    ("get", "/v1/groups"): Client.groups,
    ("get", "/v1/groups/{group_id}"): Client.group,
    ("get", "/v1/images/{sha}"): Client.image,
    ("get", "/v1/statistics"): Client.statistics,
    ("get", "/v1/scalars"): Client.scalars,
    ("get", "/v1/comparison"): Client.comparison,
    ("post", "/v1/score"): Client.score,
    ("get", "/v1/live"): Client.live,
    ("get", "/v1/pipeline"): Client.pipeline,
}
RENAMED = {"last-event-id": "last_event_id"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/traces.sqlite")
    yield store
    store.engine.dispose()


@pytest.fixture
def url(tmp_path: Path, store: Store) -> Iterator[str]:
    options = [f"run.name={RUN}", f"run.dir={tmp_path}", "reward.api.token=geheim"]
    app = create_app(ApiContext(config=load_config(None, options, environment={}).config, reader=store.reader))
    with serving_in_thread(app) as url:
        yield url


def test_every_route_has_a_method_that_takes_what_the_document_says(store: Store, tmp_path: Path):
    config = load_config(None, [f"run.dir={tmp_path}"], environment={}).config
    document = create_app(ApiContext(config=config, reader=store.reader)).openapi()
    routes = {
        (method, path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if path.startswith("/v1/")
    }
    assert routes.keys() == METHODS.keys()
    for route, operation in routes.items():
        taken = {RENAMED.get(parameter["name"], parameter["name"]) for parameter in operation.get("parameters", [])}
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            taken |= document["components"]["schemas"][schema]["properties"].keys()
        parameters = inspect.signature(METHODS[route]).parameters
        accepted = parameters.keys() - {"self", "filters"}
        if "filters" in parameters:
            accepted |= get_args(parameters["filters"].annotation)[0].__optional_keys__
        assert accepted == taken - {"cursor"}, route


def test_a_filter_that_is_none_is_refused():
    with (
        Client("http://127.0.0.1:1") as client,
        pytest.raises(TypeError, match="no filter patern; there are data_source"),
    ):
        next(client.traces(patern="shortcut"))  # type: ignore[call-arg]


@pytest.mark.usefixtures("dead_proxy")
async def test_pages_are_followed_and_answers_are_typed(store: Store, url: str):
    await write(store, *(scored(index, version=index, accuracy=float(index % 2)) for index in range(10)))
    with Client(url, token="geheim") as client:
        assert [trace.policy_version for trace in client.traces(limit=3)] == list(range(9, -1, -1))
        assert [trace.policy_version for trace in client.traces(pattern="shortcut", limit=2)] == [9, 7, 5, 3, 1]
        assert [group.id for group in client.groups(limit=2)] == ["0/4", "0/3", "0/2", "0/1", "0/0"]
        assert client.trace("0/1/1").rewards["accuracy"].value == 1.0
        better = client.group("0/1").advantages["answer"][1]
        assert better is not None
        assert better > 0
        assert client.runs()[0].rollouts == 10
        assert client.statistics().overall.shortcut_rate == 0.5
        assert client.scalars(names=["kl/answer"]).steps == []
        assert client.comparison(RUN).prompts == 5
        assert [group.id for group in client.groups(order="oldest", max_right=1, limit=2)][:2] == ["0/0", "0/1"]
        versions = client.prompt_versions(client.group("0/3").prompt_key, limit=1)
        assert [(version.policy_version, version.count) for version in versions] == [(6, 1), (7, 1)]
        assert [part.text for part in client.diff("0/3/1", "0/3/0").parts if part.kind == "added"] == [
            " 7</description>"
        ]
        first = next(islice(client.live(last_event_id=1), 1))
        assert first.id == "0/0/1"


async def test_ids_are_asked_for_whatever_their_split_is_called(store: Store, url: str):
    trace = scored(0)
    trace.rollout.prompt.id, trace.rollout.id = "hard#1 or a?b 100%@3/0", "hard#1 or a?b 100%@3/0/0"
    await write(store, trace)
    with Client(url, token="geheim") as client:
        (found,) = client.traces()
        assert client.trace(found.id).id == found.id
        assert client.diff(found.id, found.id).id == found.id
        assert client.group(found.group_id).id == found.group_id


async def test_a_frame_has_a_row_for_each_trace_that_fits(store: Store, url: str):
    await write(store, *(scored(index, version=index, accuracy=float(index % 2)) for index in range(10)))
    with Client(url, token="geheim") as client:
        frame = client.frame(limit=3)
        assert list(frame["policy_version"]) == list(range(9, -1, -1))
        assert list(frame["reward_accuracy"]) == [1.0, 0.0] * 5
        assert (frame["advantage_answer"] > 0).tolist() == [True, False] * 5
        assert frame["advantage_description"].tolist() == [0.0] * 10
        assert frame["step"].isna().all()
        chosen = client.frame(pattern="shortcut", images=True)
        assert list(chosen["policy_version"]) == [9, 7, 5, 3, 1]
        assert list(chosen["image_bytes"]) == [[]] * 5
        assert set(chosen) - set(frame) == {"image_bytes"}
        assert client.frame(q="nothing of that").empty


def test_a_frame_without_pandas_names_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with Client("http://127.0.0.1:1") as client, pytest.raises(ModuleNotFoundError, match="the extra `pandas`"):
        client.frame()


def test_a_refusal_says_why(url: str):
    with Client(url) as client, pytest.raises(ApiError, match="401: give the token of"):
        client.runs()
    with Client(url, token="geheim") as client:
        for ask, message in (
            (lambda: client.trace("none"), "404: no trace 'none'"),
            (lambda: list(client.traces(limit=0)), "422: query.limit"),
            (lambda: client.score("a", "b"), "503: nothing is scored here"),
            (lambda: client.rescore("0/0/0"), "503: nothing is scored here"),
            (lambda: client.pipeline(), "503: the run is over"),
            (lambda: client.tokens("none"), "404"),
            (lambda: client.image("00"), "404: no image"),
        ):
            with pytest.raises(ApiError, match=message):
                ask()
