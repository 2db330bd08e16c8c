"""The page in a real browser: filter, open, read, follow what comes; with keys alone, small, dark."""

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, Route, expect
from transformers import AutoTokenizer

from reward_service.api import ApiContext, create_app
from tests.reward_service.conftest import RUN, Store
from tests.reward_service.serving import serving_in_thread
from tests.reward_service.test_store import write
from vision_sr1.config import load_config, save_config
from vision_sr1.config.loading import PRESETS
from vision_sr1.prompting.response import TokenBytes, TokenPlaces, parse_response
from vision_sr1.run_folder.ledger import Ledger
from vision_sr1.v1 import pipeline_pb2 as pb

pytestmark = pytest.mark.slow

TOKEN = "geheim"


def answered(
    tokenizer,
    group: int,
    index: int,
    *,
    right: bool,
    sufficient: bool,
    version: int = 3,
    run: str = RUN,
    evaluation: bool = False,
) -> pb.ScoredRollout:
    """An answer to `what color is the square`, with all that the service records."""
    said = "red" if right else "blue"
    text = f"<description> top left square {said} </description> <think> the square {said} </think> \\boxed{{{said}}}"
    token_bytes = TokenBytes(tokenizer).of(ids := tokenizer(text).input_ids)
    parsed = parse_response(b"".join(token_bytes))
    scored = pb.ScoredRollout(
        response=text,
        rewards={
            "accuracy": float(right),
            "visual": float(sufficient),
            "format": 1.0,
            "grader_disagreement": float(right and not sufficient),
        },
        explanations={
            "grader_disagreement": f"mathruler: '{said}' is 'red'; exact: '{said}' is not 'red'",
            "accuracy": f"mathruler: '{said}' is {'' if right else 'not '}'red'",
            "visual": f"mathruler: '{'red' if sufficient else 'green'}' is {'' if sufficient else 'not '}'red'",
        },
    )
    prompt = scored.rollout.prompt
    prompt.id, prompt.run, prompt.question, prompt.answer = f"0/{group}", run, "<image>what color is the square", "red"
    prompt.purpose = pb.PURPOSE_EVALUATION if evaluation else pb.PURPOSE_TRAIN
    prompt.data_source = "shapes"
    scored.rollout.id, scored.rollout.sample_index = f"0/{group}/{index}", index
    sample = scored.rollout.sample
    sample.response_token_ids.extend(ids)
    sample.logprobs.extend([-0.1 * (place % 20) for place in range(len(ids))])
    sample.versions.add(policy_version=version, end=len(ids))
    sample.finish_reason = "stop"
    for name, span in (("description", parsed.description_span), ("think", parsed.think_span)):
        assert span is not None
        start, end = TokenPlaces(token_bytes).span(span)
        getattr(scored, name).CopyFrom(pb.TokenSpan(start=start, end=end))
    scored.requeries.add(
        prompt=f"top left square {said} . what color is the square",
        response=f"<think> the square {'red' if sufficient else 'green'} </think>",
        answer="red" if sufficient else "green",
        policy_version=version,
        rewards={"visual": float(sufficient)},
    )
    return scored


class Served:
    """A running service with groups of which the second has a shortcut."""

    def __init__(self, url: str, folder: Path, add: Callable[..., None]) -> None:
        self.url = url
        self.folder = folder
        self.add = add


@pytest.fixture
def served(tmp_path: Path, tiny_model: Path) -> Iterator[Served]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    store = Store(f"sqlite:///{tmp_path}/traces.sqlite")
    options = [f"run.name={RUN}", f"run.dir={tmp_path}", f"reward.api.token={TOKEN}"]
    config = load_config(None, options, environment={}).config
    config.run.path.mkdir()
    (config.run.path / "scalars.jsonl").write_text(
        "".join(f'{{"step": {step}, "time": 0, "kl/answer": {0.01 * step}}}\n' for step in (1, 2, 3))
    )
    Ledger(config.run.path).record(4, 4, {"0/1": 2})

    def add(*traces: dict[str, Any]) -> None:
        """In a thread: this one has the loop of the browser's driver."""
        made = [answered(tokenizer, **trace) for trace in traces]
        thread = threading.Thread(target=lambda: asyncio.run(write(store, *made)))
        thread.start()
        thread.join()

    add(
        {"group": 0, "index": 0, "right": True, "sufficient": True},
        {"group": 0, "index": 1, "right": False, "sufficient": False},
        {"group": 1, "index": 0, "right": True, "sufficient": False},
        {"group": 1, "index": 1, "right": True, "sufficient": True, "version": 4},
    )
    app = create_app(ApiContext(config=config, reader=store.reader, tokens=TokenBytes(tokenizer)))
    with serving_in_thread(app) as url:
        yield Served(f"{url}/", tmp_path, add)
    store.engine.dispose()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """At the service, past its token; an error in the page fails the test."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith((served.url, "blob:")) else errors.append(request.url)
    )
    page.goto(served.url)
    page.get_by_label("This service asks for its token").fill(TOKEN)
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#main .list > li")).to_have_count(2)
    yield page
    page.close()
    assert errors == []


def test_from_the_list_to_a_shortcut_and_what_its_re_query_saw(page: Page):
    page.get_by_label("Reward pattern").select_option("shortcut")
    expect(page.locator(".list > li")).to_have_count(1)
    assert page.url.endswith("#/groups?pattern=shortcut")
    expect(page.locator(".list > li")).to_contain_text("step 4")
    page.get_by_role("link", name="what color is the square").click()
    expect(page.get_by_role("heading", name="Group 0/1")).to_be_visible()
    answers = page.locator("article")
    expect(answers).to_have_count(2)
    first = answers.nth(0)
    expect(first).to_contain_text("answer right, description insufficient (shortcut)")
    expect(first.get_by_role("heading")).to_contain_text("graders differ")
    expect(first).to_contain_text("mathruler: 'red' is 'red'; exact: 'red' is not 'red'")
    expect(answers.nth(1)).not_to_contain_text("graders differ")
    expect(first).to_contain_text("Re-query: answered green from the description alone")
    expect(first).to_contain_text("top left square red . what color is the square")
    expect(first).to_contain_text("mathruler: 'green' is not 'red'")
    expect(first.locator(".segment-description").first).to_be_visible()
    expect(first.get_by_role("row", name="A answer")).to_be_visible()
    first.get_by_role("button", name="log-probability").click()
    token = first.locator(".response span").nth(5)
    expect(token).to_have_attribute("style", re.compile(r"rgba\(220, 70, 50"))
    expect(token).to_have_attribute("title", re.compile("version 3"))
    expect(first.get_by_role("button", name="Score again")).to_have_count(0)  # without a scorer


@pytest.fixture
def other_run(served: Served) -> str:
    """A run beside the served one, with the same held-out prompt, its own curves and another objective."""
    served.add(
        {"group": 7, "index": 0, "right": True, "sufficient": False, "evaluation": True},
        {"group": 7, "index": 0, "right": True, "sufficient": False, "evaluation": True, "run": "other", "version": 2},
        {"group": 7, "index": 1, "right": True, "sufficient": True, "evaluation": True, "run": "other", "version": 9},
        {"group": 5, "index": 0, "right": True, "sufficient": True, "run": "other"},
        {"group": 5, "index": 1, "right": False, "sufficient": True, "run": "other"},
    )
    folder = served.folder / "other"
    folder.mkdir()
    (folder / "scalars.jsonl").write_text('{"step": 1, "time": 0, "kl/response": 0.5}\n')
    return "other"


def test_two_runs_are_looked_at_one_by_one_and_side_by_side(page: Page, served: Served, other_run: str):
    page.reload()
    page.get_by_label("Run", exact=True).select_option(other_run)
    expect(page.locator(".list > li")).to_have_count(1)
    expect(page).to_have_url(re.compile("run=other"))
    page.get_by_role("link", name="what color is the square").click()
    expect(page.get_by_role("heading", name="Group 0/5")).to_be_visible()
    page.get_by_role("link", name="Curves").click()
    expect(page.get_by_role("img", name="KL to the reference by step")).to_be_visible()
    page.get_by_role("link", name="Comparison").click()
    expect(page.locator("#main")).to_contain_text(
        f"1 prompts were put to both; other at version 9; {RUN} at version 3."
    )
    worse = page.get_by_role("list", name=f"Worse in {RUN}").locator("li")
    expect(worse).to_have_count(1)
    expect(worse).to_contain_text("from the description alone: green")
    page.get_by_label("Run", exact=True).select_option(RUN)
    expect(page.get_by_role("list", name="Better in other").locator("li")).to_have_count(1)
    page.get_by_role("link", name="other", exact=True).click()
    expect(page.get_by_role("heading", name="Group 0/7")).to_be_visible()
    expect(page.locator("article")).to_have_count(2)


def test_a_run_that_is_not_there_is_said(page: Page, served: Served):
    page.goto(f"{served.url}#/groups?run=nobody")
    expect(page.locator("#main")).to_contain_text(f"no run 'nobody' in this store; it has {RUN}")


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_an_advantage_colours_the_tokens_that_its_component_trains(
    page: Page, served: Served, tiny_model: Path, preset: str
):
    folder = served.folder / preset
    folder.mkdir()
    judge = ["reward.judge.url=http://127.0.0.1:1", "reward.judge.model=m"] if preset == "external_judge" else []
    config = load_config(None, [f"run.name={preset}", f"learner.preset={preset}", *judge], environment={}).config
    given = answered(AutoTokenizer.from_pretrained(tiny_model), 0, 0, right=True, sufficient=True).rewards.keys()
    save_config(config, folder / "config.yaml")
    served.add(
        {"group": 0, "index": 0, "right": True, "sufficient": True, "run": preset},
        {"group": 0, "index": 1, "right": False, "sufficient": False, "run": preset},
    )
    page.goto(f"{served.url}#/group/0/0?run={preset}")
    first = page.locator("article").first
    painted = "span[style*=background]"
    shown = 0
    for component in config.learner.components:
        if not component.reward.keys() <= given:
            continue
        first.get_by_role("button", name=f"advantage {component.name}", exact=True).click()
        response = first.get_by_label("Response", exact=True)
        texts = "".join(response.locator(painted).all_text_contents())
        sets = set(component.tokens)
        assert ("top left" in texts) == bool(sets & {"response", "description"}), component.name
        assert ("boxed" in texts) == bool(sets & {"response", "reasoning"}), component.name
        requery = first.get_by_label("Response to the re-query").get_attribute("style") or ""
        assert ("rgba" in requery) == ("requery" in sets), component.name
        shown += 1
    assert shown or preset == "external_judge"  # whose only component needs the judge


def test_what_comes_while_one_looks_is_announced(page: Page, served: Served):
    served.add({"group": 2, "index": 0, "right": True, "sufficient": True})
    page.get_by_role("button", name="1 new: show").click(timeout=15_000)
    expect(page.locator(".list > li")).to_have_count(3)


def test_an_address_leads_to_what_it_led_to(page: Page, served: Served):
    page.goto(f"{served.url}#/group/0/0")
    expect(page.get_by_role("heading", name="Group 0/0")).to_be_visible()
    page.goto(f"{served.url}#/groups?min_version=4")
    expect(page.locator(".list > li")).to_have_count(1)
    page.goto(f"{served.url}#/group/0/99")
    expect(page.locator("#main")).to_contain_text("no group '0/99'")


def test_all_of_it_can_be_reached_by_keys(page: Page):
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Group 0/0")).to_be_visible()
    page.keyboard.press("p")
    expect(page.get_by_role("heading", name="Group 0/1")).to_be_visible()
    page.keyboard.press("u")
    expect(page.locator(".list > li")).to_have_count(2)
    page.keyboard.press("s")
    expect(page.locator(".list > li")).to_have_count(1)
    page.keyboard.press("/")
    page.keyboard.type("nothing such")
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_contain_text("No group fits.")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    expect(page.get_by_role("heading", name="Curves")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()


def test_curves_are_of_rewards_and_of_the_learner(page: Page):
    page.get_by_role("link", name="Curves").click()
    for name in (
        "Rewards by policy version",
        "Shortcuts and disagreement by policy version",
        "KL to the reference by step",
    ):
        expect(page.get_by_role("img", name=name, exact=True)).to_be_visible()
    expect(page.get_by_role("img", name="Distribution of accuracy")).to_be_visible()
    page.get_by_label("Purpose").select_option("evaluation")
    expect(page.locator("#main")).to_contain_text("KL to the reference")
    page.get_by_role("link", name="Pipeline").click()
    expect(page.locator("#main")).to_contain_text("the run is over")


def test_it_fits_a_phone_and_is_light_or_dark(page: Page, served: Served, other_run: str):
    page.set_viewport_size({"width": 360, "height": 740})
    for path in ("#/groups", "#/group/0/1", "#/curves", "#/comparison"):
        page.goto(served.url + path)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
    colors = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colors.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    page.get_by_label("Switch between light and dark").click()
    colors.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colors[0] == colors[2] != colors[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(page: Page, served: Served, other_run: str, scheme: Literal["light", "dark"]):
    """WCAG 2.1 AA as far as axe can tell: contrast, names, roles, structure."""
    page.emulate_media(color_scheme=scheme)
    for path in ("#/groups", "#/group/0/1", "#/curves", "#/pipeline", "#/comparison"):
        page.goto(served.url + path)
        page.wait_for_timeout(700)
        results = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
        assert results.violations_count == 0, f"{path}: {results.generate_report()}"


def test_a_list_that_comes_late_does_not_replace_the_view_that_was_opened_since(page: Page, served: Served):
    held: list[Route] = []
    page.route(re.compile(r"v1/runs$"), lambda route: held.append(route))  # what the list begins with
    page.get_by_label("Reward pattern").select_option("shortcut")
    expect(page).to_have_url(re.compile("pattern=shortcut"))
    page.goto(f"{served.url}#/group/0/1")
    expect(page.locator("article")).to_have_count(2)
    assert held, "the list was asked for"
    for route in held:
        with contextlib.suppress(Error):  # the page has taken its request back
            route.continue_()
    page.wait_for_timeout(500)
    expect(page.locator("article")).to_have_count(2)
