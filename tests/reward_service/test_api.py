"""The REST API over real stores."""

import asyncio
import base64
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from reward_service.api import ApiContext, create_app
from reward_service.api.statistics import DIFFERENCES
from reward_service.api.word_diff import word_diff
from reward_service.scoring import open_scorer
from reward_service.store.several import StoredRun, TraceReaders
from tests.reward_service.conftest import RUN, Store
from tests.reward_service.serving import serving
from tests.reward_service.test_store import scored, write
from vision_sr1.config import Config, ConfigError, load_config
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.pipeline.response_parts import parse_parts
from vision_sr1.prompting.response import TokenBytes
from vision_sr1.run_folder.ledger import Ledger
from vision_sr1.runtime.reward_api import check_closed
from vision_sr1.streams import Blobs, Keys, Output, Stream, check_takes_writes, connect
from vision_sr1.streams.embedded import EmbeddedRedis
from vision_sr1.v1 import pipeline_pb2 as pb

NESTED = base64.urlsafe_b64encode(b"[" * 30_000).decode()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(None, [f"run.name={RUN}", f"run.dir={tmp_path}"], environment={}).config


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/traces.sqlite")
    yield store
    store.engine.dispose()


@contextlib.asynccontextmanager
async def asking(config: Config, store: Store, **parts: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(ApiContext(**{"config": config, "reader": store.reader, **parts}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture
async def api(config: Config, store: Store) -> AsyncIterator[httpx.AsyncClient]:
    """Ten traces in five groups; answers of odd number are right though their descriptions do not suffice."""
    await write(store, *(scored(index, version=index, accuracy=float(index % 2)) for index in range(10)))
    async with asking(config, store) as client:
        yield client


async def get(api: httpx.AsyncClient, path: str, **params: Any) -> dict[str, Any]:
    reply = await api.get(path, params=params)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_pages_of_traces_and_groups(api: httpx.AsyncClient):
    page = await get(api, "/v1/traces", limit=4)
    assert [trace["policy_version"] for trace in page["traces"]] == [9, 8, 7, 6]
    page = await get(api, "/v1/traces", limit=4, cursor=page["next_cursor"])
    assert [trace["policy_version"] for trace in page["traces"]] == [5, 4, 3, 2]
    page = await get(api, "/v1/groups", limit=3)
    assert [group["id"] for group in page["groups"]] == ["0/4", "0/3", "0/2"]
    page = await get(api, "/v1/groups", limit=3, cursor=page["next_cursor"])
    assert [group["id"] for group in page["groups"]] == ["0/1", "0/0"]
    assert page["next_cursor"] is None


@pytest.mark.parametrize(
    ("filters", "versions"),
    [
        ({"min_version": 3, "max_version": 5}, [5, 4, 3]),
        ({"pattern": "shortcut", "max_version": 4}, [3, 1]),
        ({"max_accuracy": 0.5, "min_version": 6}, [8, 6]),
        ({"q": "number 7", "min_accuracy": 1}, [7]),
        ({"data_source": "digits"}, []),
        ({"purpose": "train", "min_version": 9}, [9]),
        ({"missing": True}, []),
        ({"truncated": False, "min_version": 9}, [9]),
    ],
)
async def test_filters(api: httpx.AsyncClient, filters: dict[str, Any], versions: list[int]):
    page = await get(api, "/v1/traces", **filters)
    assert [trace["policy_version"] for trace in page["traces"]] == versions


async def test_a_trace_shows_what_its_rewards_saw_and_why_they_are_what_they_are(config: Config, store: Store):
    trace = scored(3, visual=None)
    trace.explanations.update({"accuracy": "'red' is 'red'", "visual": "no actor answered"})
    trace.description.CopyFrom(pb.TokenSpan(start=0, end=3))
    await write(store, trace, scored(2))
    async with asking(config, store) as api:
        shown = await get(api, "/v1/traces/0/1/1")
        assert shown["rewards"] == {
            "accuracy": {"value": 1.0, "explanation": "'red' is 'red'"},
            "format": {"value": 0.0, "explanation": ""},
            "visual": {"value": None, "explanation": "no actor answered"},
        }
        (requery,) = shown["requeries"]
        assert requery["prompt"] == "100% red. what?"
        assert requery["same_weights"] is False
        assert shown["description"] == {"start": 0, "end": 3}
        assert (await get(api, "/v1/traces/0/1/0"))["requeries"] == []


async def test_a_group_has_its_rollouts_in_order_with_their_advantages_and_the_step_that_learned_from_it(
    config: Config, store: Store
):
    await write(store, scored(5, accuracy=0.0), scored(4, accuracy=1.0, visual=None), scored(6))
    Ledger(config.run.path).record(7, 7, {"0/2": 2})
    async with asking(config, store) as api:
        group = await get(api, "/v1/groups/0/2")
        assert [trace["id"] for trace in group["traces"]] == ["0/2/0", "0/2/1"]
        assert group["step"] == 7
        assert group["advantages"]["answer"] == pytest.approx([0.5**0.5, -(0.5**0.5)], rel=1e-4)
        assert group["advantages"]["description"] == [None, 0.0]
        assert [group["id"] for group in (await get(api, "/v1/groups", step=7))["groups"]] == ["0/2"]
        assert (await get(api, "/v1/groups", step=8))["groups"] == []
        assert (await get(api, "/v1/groups/0/3"))["step"] is None


@pytest.mark.parametrize(
    ("filters", "groups"),
    [
        ({}, ["0/3", "0/2", "0/1", "0/0"]),
        ({"has_signal": False}, ["0/3", "0/0"]),
        ({"has_signal": True}, ["0/2", "0/1"]),
        ({"order": "most_right"}, ["0/3", "0/2", "0/1", "0/0"]),
        ({"order": "most_wrong"}, ["0/0", "0/2", "0/1", "0/3"]),
        ({"missing": True}, ["0/2"]),
        ({"truncated": True, "order": "oldest"}, ["0/1", "0/3"]),
        ({"min_right": 1, "max_right": 1, "truncated": True}, ["0/1"]),
    ],
)
async def test_groups_say_how_many_are_right_and_whether_something_is_learned_from_them(
    config: Config, store: Store, filters: dict[str, Any], groups: list[str]
):
    right = [(0.0, 0.0), (0.0, 1.0), (0.0, 1.0), (1.0, 1.0)]
    traces = [scored(2 * group + place, accuracy=right[group][place]) for group in range(4) for place in range(2)]
    traces[4].missing.append("judge")
    for index in (2, 6):
        traces[index].rollout.sample.finish_reason = "length"
    evaluated = scored(9)
    evaluated.rollout.prompt.purpose = pb.PURPOSE_EVALUATION
    await write(store, *traces, evaluated)
    async with asking(config, store) as api:
        page = await get(api, "/v1/groups", purpose="train", limit=1, **filters)
        found = page["groups"]
        assert page["count"] == len(groups)
        while page["next_cursor"]:
            page = await get(api, "/v1/groups", purpose="train", limit=1, cursor=page["next_cursor"], **filters)
            assert page["count"] is None
            found += page["groups"]
        assert [group["id"] for group in found] == groups
        for group in found:
            number = int(group["id"][2:])
            assert (group["right"], group["has_signal"]) == (sum(right[number]), sum(right[number]) == 1)
            assert group["members"][0]["truncated"] == (number in (1, 3))
        assert (await get(api, "/v1/groups/0/4"))["has_signal"] is None


async def test_a_prompt_is_shown_at_every_version_that_answered_it(config: Config, store: Store):
    def said(index: int, version: int, description: str, question: str = "what?") -> pb.ScoredRollout:
        trace = scored(index, version=version, question=question)
        trace.response = f"<description>{description}</description>"
        return trace

    evaluated = said(8, 3, "a red square")
    evaluated.rollout.prompt.purpose = pb.PURPOSE_EVALUATION
    await write(
        store,
        said(0, 1, "a blue circle"),
        said(1, 1, "a circle"),
        said(4, 3, "a red circle"),
        evaluated,
        said(6, 5, "one red square"),
        said(2, 2, "nothing", question="what else?"),
        *(said(index, 7, "a square") for index in range(100, 170)),
    )
    async with asking(config, store) as api:
        key = (await get(api, "/v1/traces/0/0/0"))["prompt_key"]
        whole = await get(api, f"/v1/prompts/{key}")
        assert (whole["question"], whole["reference_answer"], whole["next_cursor"]) == ("what?", "red", None)
        shown = [(v["policy_version"], v["count"], [a["description"] for a in v["answers"]]) for v in whole["versions"]]
        assert shown[:3] == [
            (1, 2, ["a blue circle", "a circle"]),
            (3, 2, ["a red square", "a red circle"]),
            (5, 1, ["one red square"]),
        ]
        assert (shown[3][0], shown[3][1], len(shown[3][2])) == (7, 70, 64)
        changes = [[(p["kind"], p["text"]) for p in v["changes"] or []] for v in whole["versions"]]
        assert changes[:3] == [
            [],
            [("same", "a"), ("removed", " blue circle"), ("added", " red square")],
            [("removed", "a"), ("added", "one"), ("same", " red square")],
        ]
        assert whole["versions"][1]["answers"][0]["purpose"] == "evaluation"
        pages: list[dict[str, Any]] = []
        cursor = None
        while cursor is not None or not pages:
            page = await get(api, f"/v1/prompts/{key}", limit=1, **({"cursor": cursor} if cursor else {}))
            cursor = page["next_cursor"]
            pages += page["versions"]
        assert pages == whole["versions"]
        held_out = await get(api, f"/v1/prompts/{key}", purpose="evaluation")
        assert [version["policy_version"] for version in held_out["versions"]] == [3]
        assert (await get(api, f"/v1/prompts/{key}", cursor=7))["versions"] == []
        assert (await api.get(f"/v1/prompts/{key}", params={"cursor": 8})).status_code == 404


async def test_a_prompt_is_shown_as_the_policy_received_it(config: Config, store: Store, tiny_model: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    trace = scored(1)
    text = (
        "<|im_start|>user\n<|vision_start|>"
        + 9 * "<|image_pad|>"
        + "<|vision_end|>what color is the square<|im_end|>\n"
    )
    trace.rollout.sample.prompt_token_ids.extend(tokenizer(text).input_ids)
    trace.requeries[0].sample.prompt_token_ids.extend(tokenizer("<|im_start|>top left red<|im_end|>").input_ids)
    await write(store, trace, scored(0))
    async with asking(config, store, tokens=TokenBytes(tokenizer)) as api:
        shown = await get(api, "/v1/traces/0/0/1/prompt")
        parts = [(part["text"], part["count"]) for part in shown["prompt"]["parts"]]
        assert parts[2:5] == [("<|vision_start|>", 1), ("<|image_pad|>", 9), ("<|vision_end|>", 1)]
        assert "".join(part * count for part, count in parts) == text
        assert shown["prompt"]["tokens"] == len(trace.rollout.sample.prompt_token_ids)
        (requery,) = shown["requeries"]
        assert [(part["text"], part["is_control"]) for part in requery["parts"]] == [
            ("<|im_start|>", True),
            ("top left red", False),
            ("<|im_end|>", True),
        ]
        earlier = await get(api, "/v1/traces/0/0/0/prompt")
        assert earlier == {"id": "0/0/0", "prompt": {"tokens": 0, "parts": []}, "requeries": []}


async def test_the_words_in_which_two_responses_differ(config: Config, store: Store):
    one, other = scored(0), scored(1)
    one.response, other.response = "a red  square\non top", "a blue square\non top of it"
    await write(store, one, other)
    async with asking(config, store) as api:
        shown = await get(api, "/v1/traces/0/0/1/diff", base="0/0/0")
        assert [(part["kind"], part["text"]) for part in shown["parts"]] == [
            ("same", "a"),
            ("removed", " red"),
            ("added", " blue"),
            ("same", " square\non top"),
            ("added", " of it"),
        ]
        same = (await get(api, "/v1/traces/0/0/1/diff", base="0/0/1"))["parts"]
        assert same == [{"kind": "same", "text": other.response}]


def test_the_words_of_long_texts_differ_where_they_do():
    same = " red blue green" * 100
    parts = [(part.kind, part.text) for part in word_diff(f"a{same} c red", f"b{same} d red")]
    assert parts == [
        ("removed", "a"),
        ("added", "b"),
        ("same", same),
        ("removed", " c"),
        ("added", " d"),
        ("same", " red"),
    ]
    assert word_diff("red " * 4000 + "a", "blue " * 4000 + "a")[-1].text == " a"
    began = time.monotonic()
    word_diff("a b c d " * 1000, "d c b a " * 1000)
    assert time.monotonic() - began < 5


async def test_steps_are_what_each_batch_learned_from_as_it_was_learned_last(config: Config, store: Store):
    ledger = Ledger(config.run.path)
    async with asking(config, store) as api:
        assert await get(api, "/v1/steps") == {"steps": [], "next_cursor": None}
        for step in (1, 2, 3):
            ledger.record(step, step + 10, {f"0/{step}": 4, f"1/{step}": 3})
        ledger.record(3, 13, {"0/9": 4})
        page = await get(api, "/v1/steps", limit=2)
        assert page["steps"][0] == {"step": 3, "policy_version": 13, "groups": ["0/9"], "rollouts": 4}
        assert page["steps"][1] == {"step": 2, "policy_version": 12, "groups": ["0/2", "1/2"], "rollouts": 7}
        page = await get(api, "/v1/steps", limit=2, cursor=page["next_cursor"])
        assert [step["step"] for step in page["steps"]] == [1]
        assert page["next_cursor"] is None


async def test_tokens_come_with_their_log_probabilities_versions_and_segments(
    config: Config, store: Store, tiny_model: Path
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    trace = scored(0)
    ids = tokenizer("<description> red </description> \\boxed{red}").input_ids
    sample = trace.rollout.sample
    del sample.response_token_ids[:], sample.versions[:]
    sample.response_token_ids.extend(ids)
    sample.logprobs.extend([-0.25] * len(ids))
    sample.versions.add(policy_version=3, start=0, end=2)
    sample.versions.add(policy_version=4, start=2, end=len(ids))
    trace.description.CopyFrom(pb.TokenSpan(start=0, end=3))
    await write(store, trace)
    async with asking(config, store) as api:
        assert (await api.get("/v1/traces/0/0/0/tokens")).status_code == 503
    async with asking(config, store, tokens=TokenBytes(tokenizer)) as api:
        tokens = (await get(api, "/v1/traces/0/0/0/tokens"))["tokens"]
    assert "".join(token["text"] for token in tokens) == "<description> red </description> \\boxed{red}"
    assert [token["policy_version"] for token in tokens[:4]] == [3, 3, 4, 4]
    assert [token["segment"] for token in tokens[:4]] == ["description"] * 3 + [""]
    assert tokens[0]["logprob"] == -0.25


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/v1/traces/none/such", 404, "no trace 'none/such' in run 'r'"),
        ("/v1/groups/none", 404, "no group 'none' in run 'r'"),
        ("/v1/images/00", 404, "no image '00'"),
        ("/v1/nothing", 404, "Not Found"),
        ("/v1/traces?cursor=nonsense", 400, "is not one of this service's for these filters; start again without it"),
        (f"/v1/traces?cursor={NESTED}", 400, "is not one of this service's for these filters; start again without it"),
        ("/v1/traces?limit=0", 422, "query.limit: Input should be greater than or equal to 1 (got '0')"),
        ("/v1/traces?pattern=all", 422, "query.pattern: Input should be 'both_wrong'"),
        ("/v1/traces?missing=perhaps", 422, "query.missing: Input should be a valid boolean"),
        ("/v1/traces?min_version=3&max_version=2", 422, "min_version=3 is more than max_version=2"),
        ("/v1/groups?min_visual=0.5&max_visual=0.25", 422, "min_visual=0.5 is more than max_visual=0.25"),
        ("/v1/groups?min_right=2&max_right=1", 422, "min_right=2 is more than max_right=1"),
        ("/v1/groups?patern=shortcut", 422, "query.patern: there is no parameter of this name"),
        ("/v1/live?step=1", 422, "query.step: there is no parameter of this name"),
        ("/v1/groups?min_accuracy=much", 422, "query.min_accuracy: Input should be a valid number"),
        ("/v1/groups?order=best", 422, "query.order: Input should be 'newest', 'oldest', 'most_right'"),
        ("/v1/prompts/none", 404, "no prompt 'none' in run 'r'; a trace names its own as prompt_key"),
        ("/v1/prompts/none?limit=101", 422, "query.limit: Input should be less than or equal to 100"),
        ("/v1/traces/0/0/0/diff?base=none", 404, "no trace 'none' in run 'r'"),
        ("/v1/traces/0/0/0/diff", 422, "query.base: Field required"),
        ("/v1/traces/0/0/0/prompt", 503, "the tokenizer of"),
        ("/v1/traces?q=a%00b", 422, "a NUL character"),
        ("/v1/traces/0%00", 422, "a NUL character"),
        ("/v1/pipeline", 503, "the run is over"),
    ],
)
async def test_an_error_is_a_problem_that_says_what_to_do(api: httpx.AsyncClient, path: str, status: int, detail: str):
    reply = await api.get(path)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["status"] == status
    assert detail in reply.json()["detail"]


async def test_statistics_are_distributions_and_curves_by_data_source(config: Config, store: Store):
    await write(
        store,
        scored(0, version=0, accuracy=1.0, visual=0.0),
        scored(1, version=0, accuracy=1.0, visual=1.0),
        scored(2, version=1, accuracy=0.0, visual=1.0, source="digits"),
        scored(3, version=1, accuracy=1.0, visual=None, source="digits"),
    )
    async with asking(config, store) as api:
        shown = await get(api, "/v1/statistics")
        overall, (digits, shapes) = shown["overall"], shown["data_sources"]
        assert (digits["data_source"], shapes["data_source"]) == ("digits", "shapes")
        assert overall["rewards"]["accuracy"]["mean"] == 0.75
        assert (overall["rewards"]["visual"]["count"], overall["rewards"]["visual"]["missing"]) == (3, 1)
        bars = overall["rewards"]["accuracy"]["distribution"]
        assert [(round(bar["low"], 2), bar["count"]) for bar in bars] == [(0.0, 1), (0.95, 3)]
        assert overall["outcomes"] == {"both_wrong": 0, "sufficient_only": 1, "shortcut": 1, "both_right": 1}
        assert overall["shortcut_rate"] == pytest.approx(1 / 3)
        assert shapes["disagreement"] == 0.5
        curve = overall["curve"]
        assert curve["policy_versions"] == [0, 1]
        assert curve["rewards"]["accuracy"] == [1.0, 0.5]
        assert curve["rewards"]["response_tokens"] == [10.0, 10.0]
        assert curve["shortcut_rate"] == [0.5, 0.0]
        assert curve["rollouts"] == [2, 2]
        only = await get(api, "/v1/statistics", data_source="digits")
        assert [source["data_source"] for source in only["data_sources"]] == ["digits"]
        (run,) = (await api.get("/v1/runs")).json()
        assert (run["name"], run["is_served"], run["rollouts"], run["policy_versions"]) == (RUN, True, 4, [0, 1])


async def test_the_learners_curves_are_those_of_its_file_as_it_grows(config: Config, store: Store):
    config.run.path.mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": 1, "time": 0.0, "kl/answer": 0.5},
        {"step": 2, "time": 1.0, "kl/answer": 0.25, "loss/answer": 1.0},
    ]
    file = config.run.path / "scalars.jsonl"
    async with asking(config, store) as api:
        assert (await get(api, "/v1/scalars"))["steps"] == []
        file.write_text(json.dumps(lines[0]) + "\n" + '{"step": 2, "tim')
        assert (await get(api, "/v1/scalars"))["scalars"] == {"kl/answer": [0.5]}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        shown = await get(api, "/v1/scalars")
        assert shown["steps"] == [1, 2]
        assert shown["scalars"] == {"kl/answer": [0.5, 0.25], "loss/answer": [None, 1.0]}
        assert (await get(api, "/v1/scalars", names="loss/answer"))["scalars"] == {"loss/answer": [None, 1.0]}


async def test_two_runs_are_compared_on_the_prompts_that_both_were_asked(config: Config, store: Store):
    await write(store, *(scored(index, accuracy=float(index < 2)) for index in range(6)))
    await write(store, *(scored(index, run="other", accuracy=1.0) for index in range(2, 10)))
    async with asking(config, store) as api:
        shown = await get(api, "/v1/comparison", other="other")
    assert shown["runs"] == [RUN, "other"]
    assert shown["prompts"] == 2
    assert shown["means"]["accuracy"] == [0.0, 1.0]
    assert shown["better"]["accuracy"] == [0, 2]
    assert sorted(difference["groups"] for difference in shown["differences"]) == [["0/1", "0/1"], ["0/2", "0/2"]]
    assert [shown[f"{kind}_in_second"] for kind in ("better", "worse", "mixed")] == [2, 0, 0]
    assert {said["group_id"] for said in shown["differences"][0]["said"]} <= {"0/1", "0/2"}
    assert sum(source["prompts"] for source in shown["data_sources"].values()) == 2


async def test_each_kind_of_difference_is_listed_answers_first(config: Config, store: Store):
    worse = 2 * DIFFERENCES
    rollouts = range(0, 2 * (worse + 1), 2)  # the first of each group
    await write(store, *(scored(index, accuracy=0.0 if index == 0 else 1.0, visual=1.0) for index in rollouts))
    await write(store, *(scored(index, run="other", accuracy=1.0, visual=float(index == 0)) for index in rollouts))
    async with asking(config, store) as api:
        shown = await get(api, "/v1/comparison", other="other")
    assert [shown[f"{kind}_in_second"] for kind in ("better", "worse", "mixed")] == [1, worse, 0]
    gains = [difference["rewards"]["accuracy"] for difference in shown["differences"]]
    assert gains == [[0.0, 1.0]] + [[1.0, 1.0]] * DIFFERENCES


async def test_a_reward_that_one_run_lacks_does_not_tell_two_runs_apart(config: Config, store: Store):
    await write(store, *(scored(index, visual=1.0) for index in range(2)))
    await write(store, *(scored(index, run="other", visual=None) for index in range(2)))
    async with asking(config, store) as api:
        shown = await get(api, "/v1/comparison", other="other")
    assert (shown["prompts"], shown["differences"]) == (1, [])


async def test_a_run_has_the_name_that_it_is_asked_for_by(config: Config, store: Store):
    await write(store, scored(0))
    name = f"again/{RUN}"
    readers = TraceReaders({one: StoredRun(store.reader, RUN) for one in (RUN, name)})
    async with asking(config, store, reader=readers) as api:
        (group,) = (await get(api, "/v1/groups", run=name))["groups"]
        (trace,) = (await get(api, "/v1/traces", run=name))["traces"]
        (row,) = (await get(api, "/v1/rows", run=name))["rows"]
        one = await get(api, f"/v1/traces/{trace['id']}", run=name)
        whole = await get(api, f"/v1/groups/{group['id']}", run=name)
    assert {found["run"] for found in (group, trace, row, one, whole, *whole["traces"])} == {name}


@pytest.mark.parametrize(
    ("response", "answer"),
    [(r"\boxed{red}. Done", "red"), (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"), (r"\boxed{red", ""), ("red", "")],
)
async def test_an_answer_is_shown_as_it_is_graded(config: Config, store: Store, response: str, answer: str):
    earlier, parsed = scored(0), scored(1)
    for one in (earlier, parsed):
        one.response = response
    parsed.rollout.parts.CopyFrom(parse_parts([response.encode()]))
    await write(store, earlier, parsed)
    async with asking(config, store) as api:
        (group,) = (await get(api, "/v1/groups"))["groups"]
        traces = (await get(api, "/v1/traces"))["traces"]
    assert [member["answer"] for member in group["members"]] == [answer, answer]
    assert [trace["answer_text"] for trace in traces] == [answer, answer]


@pytest.mark.parametrize("path", ["traces", "groups", "steps", "statistics", "scalars", "traces/0/0/0", "groups/0/0"])
async def test_a_run_that_is_not_there_is_not_found(api: httpx.AsyncClient, path: str):
    answer = await api.get(f"/v1/{path}", params={"run": "nobody"})
    assert answer.status_code == 404
    assert answer.json()["detail"] == f"no run 'nobody' in this store; it has {RUN}"


async def test_of_runs_that_share_a_service_the_newest_is_meant(config: Config, store: Store):
    config.streams.name = config.run.name = "services"
    async with asking(config, store) as api:
        assert (await get(api, "/v1/groups"))["groups"] == []
        for run in ("first", "second"):
            await write(store, scored(0, run=run))
            assert (await get(api, "/v1/groups"))["groups"][0]["run"] == run
        assert (await get(api, "/v1/groups", run="first"))["groups"][0]["run"] == "first"


async def test_what_has_not_changed_is_not_sent_again_and_large_answers_are_compressed(api: httpx.AsyncClient):
    first = await api.get("/v1/traces")
    assert first.headers["content-encoding"] == "gzip"
    again = await api.get("/v1/traces", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = await api.get("/v1/traces", params={"limit": 1}, headers={"If-None-Match": first.headers["etag"]})
    assert other.status_code == 200


async def test_a_token_is_asked_for_and_other_origins_are_let_in_by_name_only(config: Config, store: Store):
    config.reward.api = type(config.reward.api)(token="geheim", cors_origins=["https://lab.example"])
    async with asking(config, store) as api:
        for headers in ({}, {"Authorization": "Bearer falsch"}, {"Authorization": "geheim"}):
            reply = await api.get("/v1/traces", headers=headers)
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer TOKEN" in reply.json()["detail"]
        token = {"Authorization": "Bearer geheim"}
        assert (await api.get("/v1/traces", headers=token)).status_code == 200
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await api.get(path)).status_code == 200
        asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
        allowed = await api.options("/v1/traces", headers={"Origin": "https://lab.example", **asked})
        assert allowed.headers["access-control-allow-origin"] == "https://lab.example"
        refused = await api.options("/v1/traces", headers={"Origin": "https://evil.example", **asked})
        assert "access-control-allow-origin" not in refused.headers


def test_an_api_without_a_token_listens_on_loopback_only():
    for host, token, closed in (("127.0.0.1", None, True), ("0.0.0.0", "geheim", True), ("0.0.0.0", None, False)):
        environment = {"VISION_SR1_API_TOKEN": token} if token else {}
        config = load_config(None, [f"reward.host={host}"], environment=environment).config
        with contextlib.nullcontext() if closed else pytest.raises(ConfigError, match="set VISION_SR1_API_TOKEN"):
            check_closed(config)


async def test_too_much_and_too_often_is_refused(config: Config, store: Store):
    config.reward.api = type(config.reward.api)(max_request_bytes=100, requests_per_minute=5)
    async with asking(config, store) as api:
        reply = await api.post("/v1/score", content=b"x" * 101)
        assert (reply.status_code, reply.json()["detail"]) == (413, "bodies have 100 bytes at most")

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b"x" * 10

        with contextlib.suppress(httpx.HTTPError):  # the connection is closed
            assert (await api.post("/v1/score", content=endless())).status_code >= 400
        replies = [await api.get("/v1/traces") for _ in range(5)]
        assert [reply.status_code for reply in replies] == [200] * 3 + [429] * 2
        assert replies[-1].headers["retry-after"] == "5"
        assert (await api.get("/healthz")).status_code == 200
        kinds = [[(await api.get(path)).status_code for _ in range(6)] for path in ("/v1/images/none", "/")]
        assert kinds == [[404] * 5 + [429], [200] * 5 + [429]], "images and the page are counted apart"


async def test_every_answer_has_headers_that_keep_browsers_from_harm(api: httpx.AsyncClient):
    for path in ("/v1/traces", "/v1/nothing", "/healthz"):
        headers = (await api.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'self'" in headers["content-security-policy"]


async def test_traces_come_live_and_go_on_where_a_reader_was_interrupted(config: Config, store: Store):
    other = Store(store.url)
    await write(store, scored(0))

    async def events(url: str, count: int, search: str = "", **headers: str) -> list[tuple[str, dict[str, Any]]]:
        found, event = [], {}
        client = httpx.AsyncClient(base_url=url, timeout=20)
        async with client, client.stream("GET", f"/v1/live?{search}", headers=headers) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                event[name] = value
                if not line and "data" in event:
                    found.append((event["id"], json.loads(event["data"])))
                    event = {}
                if len(found) == count:
                    break
        return found

    async with serving(create_app(ApiContext(config=config, reader=store.reader))) as url:
        reading = asyncio.create_task(events(url, 2))
        await asyncio.sleep(1.0)
        await write(store, scored(1))
        await write(other, scored(2))
        first, second = await reading
        assert [first[1]["id"], second[1]["id"]] == ["0/0/1", "0/1/0"]
        (missed,) = await events(url, 1, **{"Last-Event-ID": first[0]})
        assert missed[1]["id"] == "0/1/0"
        (wanted,) = await events(url, 1, "q=number 2", **{"Last-Event-ID": "0"})
        assert wanted[1]["id"] == "0/1/0"
    other.engine.dispose()


async def test_a_response_is_scored_now_and_a_recorded_one_again(
    config: Config, store: Store, redis_config: Config, tiny_model: Path
):
    config.model.path = str(tiny_model)
    redis = await connect(redis_config.streams)
    async with open_scorer(config, Fleet(redis, Keys(RUN)), Blobs(redis, Keys(RUN), 60)) as scorer:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        recorded = scored(1, accuracy=1.0, visual=1.0)
        recorded.rewards["politeness"] = 1.0
        ids = tokenizer("<description> red </description> <think> red </think> \\boxed{blue}").input_ids
        recorded.rollout.prompt.question = "<image>what color is the square"
        del recorded.rollout.sample.response_token_ids[:]
        recorded.rollout.sample.response_token_ids.extend(ids)
        asked = tokenizer("<think> red </think> \\boxed{red}").input_ids
        recorded.requeries[0].sample.response_token_ids.extend(asked)
        await write(store, recorded)
        async with asking(config, store, scorer=scorer, redis=redis.without_retries, tokens=scorer.tokens) as api:
            response = "<think> red </think> \\boxed{red}"
            reply = await api.post("/v1/score", json={"reference_answer": "red", "response": response})
            rewards = reply.json()["rewards"]
            assert rewards["accuracy"] == {"value": 1.0, "explanation": "mathruler: 'red' is 'red'"}
            assert rewards["format"]["value"] == 0.0
            assert rewards["visual"] == {"value": 0.0, "explanation": "no description: nothing to ask about"}
            again = (await api.post("/v1/traces/0/0/1/rescore")).json()
            assert again["changed"] == ["accuracy", "format", "politeness"]
            assert again["rewards"]["politeness"]["now"] is None
            assert again["rewards"]["accuracy"]["before"]["value"] == 1.0
            assert again["rewards"]["accuracy"]["now"] == {
                "value": 0.0,
                "explanation": "mathruler: 'blue' is not 'red'",
            }
            assert again["rewards"]["visual"]["now"]["value"] == 1.0
            assert again["rewards"]["repetition"]["before"] is None
            assert (await api.post("/v1/traces/0/9/9/rescore")).status_code == 404
            invalid = await api.post("/v1/score", json={"response": "red"})
            assert (invalid.status_code, "reference_answer" in invalid.json()["detail"]) == (422, True)
    async with asking(config, store) as api:
        over = await api.post("/v1/score", json={"reference_answer": "red", "response": "red"})
        assert (over.status_code, "nothing is scored here" in over.json()["detail"]) == (503, True)
    await redis.aclose()


async def test_the_pipeline_shows_queues_actors_and_dead_letters(config: Config, store: Store, redis_config: Config):
    redis = await connect(redis_config.streams)
    keys = Keys(RUN)
    prompts = Stream(redis, keys, "prompts", redis_config.streams, group="actors", consumer="one")
    await prompts.open()
    await prompts.append([Output("prompts", f"0/{index}", b"x") for index in range(2)])
    (entry, _) = await prompts.read(2, 0.1)
    await prompts.dead_letter(entry, "no such image")
    fleet = Fleet(redis, keys)
    await fleet.announce(pb.ActorInfo(schema_version=1, id="a-1", address="h:1", device="cpu", policy_version=4), 60)
    async with asking(config, store, redis=redis.without_retries) as api:
        shown = await get(api, "/v1/pipeline")
    depths = {stream["name"]: (stream["depth"], stream["pending"], stream["dead"]) for stream in shown["streams"]}
    assert depths["prompts"] == (2, 2, 1)
    assert shown["actors"] == [{"id": "a-1", "address": "h:1", "device": "cpu", "policy_version": 4}]
    (letter,) = shown["dead_letters"]
    assert (letter["name"], letter["error"]) == ("prompts/0/0", "no such image")
    assert shown["published_version"] is None
    await redis.aclose()


@pytest.mark.parametrize("fault", ["frozen", "full"])
async def test_readiness_is_that_of_the_streams(
    config: Config, store: Store, redis_config: Config, embedded_redis: EmbeddedRedis, fault: str
):
    redis = await connect(redis_config.streams)
    async with asking(config, store, ping=lambda: check_takes_writes(redis, "probe", 0.5)) as api:
        assert (await api.get("/readyz")).status_code == 200
        if fault == "frozen":
            embedded_redis.process.send_signal(signal.SIGSTOP)
        else:
            await redis.config_set("maxmemory", 1)
        reply = await api.get("/readyz")
        assert reply.status_code == 503
        assert reply.json()["detail"].startswith("not ready: ")
        assert (await api.get("/healthz")).status_code == 200
        if fault == "frozen":
            embedded_redis.process.send_signal(signal.SIGCONT)
        else:
            await redis.config_set("maxmemory", 0)
        assert (await api.get("/readyz")).status_code == 200
    await redis.aclose()


async def test_a_store_that_does_not_answer_is_said(config: Config, tmp_path: Path):
    from reward_service.store import TraceReader, connect_store
    from vision_sr1.config import TracesConfig

    url = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    reader = TraceReader(connect_store(TracesConfig(), url))
    app = create_app(ApiContext(config=config, reader=reader))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as api:
        reply = await api.get("/v1/traces")
        assert (reply.status_code, reply.headers["content-type"]) == (503, "application/problem+json")
        assert "scoring goes on" in reply.json()["detail"]
        assert (await api.get("/readyz")).status_code == 503


async def test_images_are_served_for_good(config: Config, store: Store, redis_config: Config):
    from reward_service.store import TraceWriter
    from tests.reward_service.conftest import RANGE
    from vision_sr1.config import TracesConfig
    from vision_sr1.streams import Blobs

    redis = await connect(redis_config.streams)
    blobs = Blobs(redis, Keys(RUN), 60)
    ref = await blobs.put(b"\x89PNG...")
    with_image = scored(0)
    with_image.rollout.prompt.images.append(ref)
    await write(store, with_image, writer=TraceWriter(store.engine, blobs, TracesConfig(), RANGE))
    async with asking(config, store) as api:
        reply = await api.get(f"/v1/images/{ref.sha256}")
    assert reply.content == b"\x89PNG..."
    assert reply.headers["content-type"] == "image/png"
    assert "immutable" in reply.headers["cache-control"]
    await redis.aclose()


async def test_the_openapi_document_and_metrics_are_served(api: httpx.AsyncClient):
    document = (await api.get("/openapi.json")).json()
    assert {"/v1/traces", "/v1/groups", "/v1/statistics", "/v1/comparison", "/v1/live"} <= document["paths"].keys()
    assert "ValidationError" not in json.dumps(document)
    assert "vision_sr1_reward_traces_total" in (await api.get("/metrics")).text


async def test_a_re_query_shows_its_question_where_it_is_not_the_rollouts_own_and_its_advantage(
    config: Config, store: Store
):
    traces = [scored(2, accuracy=1.0, visual=0.5), scored(3, accuracy=1.0, visual=0.0)]
    for trace, right in zip(traces, (1.0, 0.0), strict=True):
        trace.rollout.prompt.further_questions.add(question="how many squares", answer="two")
        trace.rewards["visual_own"] = 0.0
        del trace.requeries[:]
        for question, value in ((0, 0.0), (1, right)):
            trace.requeries.add(prompt="?", response="so", question=question, rewards={"visual": value})
    await write(store, *traces)
    async with asking(config, store) as api:
        group = await get(api, "/v1/groups/0/1")
        own, further = group["traces"][0]["requeries"]
        assert (own["question"], own["reference_answer"]) == (None, None)
        assert (further["question"], further["reference_answer"]) == ("how many squares", "two")
        better = 0.5**0.5
        assert group["requery_advantages"].keys() == {"requery"}
        for shown, expected in zip(group["requery_advantages"]["requery"], (better, -better), strict=True):
            assert shown == pytest.approx([0.0, expected], rel=1e-4)
        assert len((await get(api, "/v1/traces", q="squares"))["traces"]) == 2
        assert len((await get(api, "/v1/traces", pattern="shortcut"))["traces"]) == 2, "of the own question"
