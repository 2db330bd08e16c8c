"""The page in a real browser: filter, open, read, follow what comes; with keys alone, small, dark."""

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Error, Locator, Page, Position, Route, expect
from starlette.types import ASGIApp
from transformers import AutoTokenizer

from reward_service.api import ApiContext, create_app
from reward_service.api.past import PastRun
from reward_service.store import TraceReader, TraceWriter
from reward_service.store.several import StoredRun, TraceReaders
from scripts.page_pictures import WIDTH, take_pictures
from tests.reward_service.conftest import RANGE, RUN, Store
from tests.reward_service.serving import serving_in_thread
from tests.reward_service.test_store import write
from vision_sr1.config import TracesConfig, load_config, save_config
from vision_sr1.config.loading import PRESETS
from vision_sr1.prompting.response import TokenBytes, TokenPlaces, parse_response
from vision_sr1.run_folder.ledger import Ledger
from vision_sr1.runtime.ports import free_port
from vision_sr1.v1 import pipeline_pb2 as pb

pytestmark = pytest.mark.slow

TOKEN = "geheim"
README = Path(__file__).parents[2] / "README.md"


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
    samples: int = 1,
    further: bool = False,
    image: str = "",
    truncated: bool = False,
    missing: str | None = None,
) -> pb.ScoredRollout:
    """An answer to `what color is the square`, with all that the service records.

    Args:
        samples: of the re-query, of which the first is `sufficient` and the others the contrary.
        further: its description was asked `how many squares` too, whatever that was worth.
    """
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
            "requery_format": 1.0,
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
    if image:
        prompt.images.add(sha256=image, media_type="image/png")
    scored.rollout.id, scored.rollout.sample_index = f"0/{group}/{index}", index
    sample = scored.rollout.sample
    pads = f"<|vision_start|>{'<|image_pad|>' * 16}<|vision_end|>"
    sample.prompt_token_ids.extend(tokenizer(f"<|im_start|>{pads}what color is the square<|im_end|>").input_ids)
    sample.response_token_ids.extend(ids)
    sample.logprobs.extend([-0.1 * (place % 20) for place in range(len(ids))])
    sample.versions.add(policy_version=version, end=len(ids))
    sample.finish_reason = "length" if truncated else "stop"
    scored.missing.extend([missing] if missing else [])
    spans = {"description": parsed.description_span, "think": parsed.think_span, "answer": parsed.answer_span}
    for name, span in spans.items():
        assert span is not None
        start, end = TokenPlaces(token_bytes).span(span)
        getattr(scored, name).CopyFrom(pb.TokenSpan(start=start, end=end))
    for number in range(samples):
        enough = sufficient == (number == 0)
        scored.requeries.add(
            prompt=f"top left square {said} . what color is the square",
            response=f"<think> the square {'red' if enough else 'green'} </think>",
            answer="red" if enough else "green",
            policy_version=version,
            rewards={"visual": float(enough), "requery_format": 1.0},
        )
    asked = tokenizer(f"<|im_start|>top left square {said} . what color is the square<|im_end|>").input_ids
    scored.requeries[0].sample.prompt_token_ids.extend(asked)
    if further:
        prompt.further_questions.add(question="how many squares", answer="one")
        scored.requeries.add(prompt="…", response="…", answer="one", question=1, rewards={"visual": 1.0})
        scored.rewards["visual"], scored.rewards["visual_own"] = (1 + sufficient) / 2, float(sufficient)
    return scored


class Served:
    """A running service with groups of which the second has a shortcut."""

    def __init__(self, app: ASGIApp, url: str, folder: Path, add: Callable[..., None]) -> None:
        self.app = app
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
        """In a thread, for this one has the loop of the browser's driver; a writer belongs to one loop."""
        made = [answered(tokenizer, **trace) for trace in traces]
        writer = TraceWriter(store.engine, None, TracesConfig(), RANGE)
        thread = threading.Thread(target=lambda: asyncio.run(write(store, *made, writer=writer)))
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
        yield Served(app, f"{url}/", tmp_path, add)
    store.engine.dispose()


def enter(page: Page, url: str, token: str = TOKEN) -> None:
    page.goto(url)
    page.get_by_label("This service asks for its token").fill(token)
    page.get_by_role("button", name="Go on").click()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """At the service, past its token; an error in the page fails the test."""
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith((served.url, "blob:")) else errors.append(request.url)
    )
    enter(page, served.url)
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
    expect(first.get_by_text("answer right, description insufficient (shortcut)")).to_be_hidden()
    first.locator("summary").first.click()
    expect(first).to_contain_text("answer right, description insufficient (shortcut)")
    expect(first.get_by_role("heading")).to_contain_text("graders differ")
    expect(first).to_contain_text("mathruler: 'red' is 'red'; exact: 'red' is not 'red'")
    expect(answers.nth(1)).not_to_contain_text("graders differ")
    expect(first).to_contain_text("Re-query: answered green from the description alone")
    expect(first).to_contain_text("top left square red . what color is the square")
    expect(first).to_contain_text("mathruler: 'green' is not 'red'")
    expect(first.locator(".segment-description").first).to_be_visible()
    page.get_by_role("button", name="log-probability").click()
    token = first.locator(".response span").nth(5)
    expect(token).to_have_attribute("style", re.compile(r"rgba\(220, 70, 50"))
    expect(token).to_have_attribute("title", re.compile("version 3"))
    expect(first.get_by_role("button", name="Score again")).to_have_count(0)  # which needs a scorer


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
    page.get_by_label("Run", exact=True).focus()
    page.get_by_label("Run", exact=True).select_option(RUN)
    expect(page.get_by_role("list", name="Better in other").locator("li")).to_have_count(1)
    expect(page.get_by_label("Run", exact=True)).to_be_focused()
    page.get_by_label("Smoothing", exact=True).fill("0.5")
    page.get_by_role("table", name="Means").get_by_role("link", name="shapes").click()
    expect(page).to_have_url(re.compile("#/comparison.*smooth=0.5.*data_source=shapes"))
    page.get_by_role("combobox", name="Data source").select_option("all")
    expect(page).to_have_url(re.compile("#/comparison.*smooth=0.5$"))
    expect(page.get_by_label("Smoothing", exact=True)).to_have_value("0.5")
    page.get_by_role("link", name="other", exact=True).click()
    expect(page.get_by_role("heading", name="Group 0/7")).to_be_visible()
    expect(page.locator("article")).to_have_count(2)


def test_a_group_is_seen_at_once_and_read_answer_by_answer(page: Page, served: Served):
    page.goto(f"{served.url}#/group/0/0")
    table = page.get_by_role("table", name="Answers, rewards and advantages")
    expect(table).to_be_visible()
    header = table.locator("thead tr").nth(1).locator("th").all_inner_texts()
    assert header[:5] == ["#", "answer", "accuracy", "visual", "format"]
    assert header[-3:] == ["answer", "description", "requery"]
    rows = [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]
    assert [row[:4] for row in rows] == [["red", "1", "1", "1"], ["blue", "0", "0", "1"]]
    assert [row[-3:] for row in rows] == [["+0.71"] * 3, ["-0.71"] * 3]
    expect(page.locator(".badges")).to_contain_text("1 of 2 right")
    expect(page.locator(".badges")).not_to_contain_text("no signal")
    second = page.locator("article").nth(1)
    expect(second.get_by_label("Response", exact=True)).to_be_hidden()
    page.get_by_role("button", name="Show answer 2").click()
    expect(second.get_by_label("Response", exact=True)).to_be_visible()
    legend = page.get_by_role("group", name="Legend")
    expect(legend).to_contain_text("description")
    page.get_by_role("button", name="differences from answer 1").click()
    expect(legend).to_contain_text("only in answer 1")
    removed, added = second.locator("del"), second.locator("ins")
    expect(removed).to_have_text(["red", "red", "\\boxed{red}"])
    expect(added).to_have_text(["blue", "blue", "\\boxed{blue}"])
    page.get_by_role("button", name="Open all answers").click()
    expect(page.get_by_role("button", name="Fold all answers")).to_be_visible()
    assert page.locator("article del").count() == 3, "the first answer is as it is"


def test_a_prompt_is_shown_with_its_image_tokens_counted_once_it_is_opened(page: Page, served: Served):
    page.goto(f"{served.url}#/group/0/0")
    rendered = page.get_by_label("Rendered prompt")
    expect(page.get_by_text("Prompt as the policy received it")).to_be_visible()
    expect(rendered).to_have_count(0)
    page.get_by_text("Prompt as the policy received it").click()
    image = "<|image_pad|> \N{MULTIPLICATION SIGN} 16"
    shown = f"<|im_start|><|vision_start|>{image}<|vision_end|>what color is the square<|im_end|>"
    expect(rendered).to_have_text(shown)
    expect(page.locator(".prompt")).to_contain_text(f"tokens, among them {image}")
    page.locator("article summary").first.click()
    page.get_by_text("Re-query as the policy received it").first.click()
    requery = page.locator("article").get_by_label("Rendered prompt")
    expect(requery).to_have_text("<|im_start|>top left square red . what color is the square<|im_end|>")


def test_one_prompt_is_followed_over_the_policys_versions(page: Page, served: Served):
    served.add(
        {"group": 8, "index": 0, "right": True, "sufficient": True, "version": 9, "evaluation": True},
        {"group": 9, "index": 0, "right": False, "sufficient": False, "version": 0},
    )
    page.get_by_role("link", name="over versions").first.click()
    expect(page).to_have_url(re.compile("#/prompts/[0-9a-f]{16}$"))
    strip = page.get_by_role("table", name="Rewards by policy version")
    expect(strip).to_be_visible()
    assert strip.locator("thead th").all_inner_texts() == ["version", "0", "3", "4", "9"]
    rows = {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in strip.locator("tbody tr").all()
    }
    assert rows["answer right"] == ["✗", "2/3", "✓", "✓"]
    assert rows["description sufficient"] == ["✗", "1/3", "✓", "✓"]
    expect(page.locator("#main")).to_contain_text(
        "From version 0 to 9: answer right 0/1 → 1/1, description sufficient 0/1 → 1/1."
    )
    versions = page.get_by_role("list", name="Versions").locator("> li")
    expect(versions).to_have_count(4)
    expect(versions.nth(1).locator("del")).to_have_text("blue")
    expect(versions.nth(1).locator("ins")).to_have_text("red")
    expect(versions.nth(2)).to_contain_text("description unchanged")
    expect(versions.nth(3)).to_contain_text("evaluation")
    page.get_by_label("Purpose").select_option("evaluation")
    expect(versions).to_have_count(1)
    expect(page).to_have_url(re.compile("purpose=evaluation"))
    page.get_by_label("Purpose").select_option("")
    expect(versions).to_have_count(4)
    page.get_by_role("button", name="Show version 3").click()
    expect(versions.nth(1)).to_be_focused()
    versions.nth(1).get_by_role("link").nth(1).click()
    expect(page.get_by_role("heading", name="Group 0/0")).to_be_visible()
    expect(page.locator("article").nth(1).get_by_label("Response", exact=True)).to_be_visible()
    page.get_by_role("link", name="this prompt over versions").click()
    expect(versions).to_have_count(4)
    page.goto(f"{served.url}#/prompts/none")
    expect(page.get_by_role("alert")).to_contain_text("no prompt 'none' in run 'r'")


def test_groups_are_counted_sorted_and_filtered(page: Page, served: Served):
    served.add(
        {"group": 3, "index": 0, "right": False, "sufficient": False},
        {"group": 3, "index": 1, "right": False, "sufficient": False},
        {"group": 4, "index": 0, "right": False, "sufficient": False, "truncated": True},
        {"group": 4, "index": 1, "right": True, "sufficient": True, "missing": "judge"},
    )
    page.reload()
    items = page.locator(".list > li")
    expect(page.get_by_role("status")).to_have_text("4 fit")
    expect(items.nth(1)).to_contain_text("0 of 2 right")
    expect(items.nth(1)).to_contain_text("no signal")
    expect(items.nth(0)).to_contain_text("1 of 2 right")
    expect(items.nth(0)).not_to_contain_text("no signal")
    expect(items.nth(0)).to_contain_text("truncated")

    def ids() -> list[str]:
        return [text.split(" ·")[0] for text in items.locator("div.dim").all_inner_texts()]

    page.get_by_label("Order").select_option("most right answers")
    expect(items.first).to_contain_text("2 of 2 right")
    assert ids() == ["0/1", "0/4", "0/0", "0/3"]
    assert page.url.endswith("order=most_right")
    page.get_by_text("More filters").click()
    page.get_by_label("Signal").select_option("no signal")
    expect(items).to_have_count(1)
    assert ids() == ["0/3"]
    expect(page.get_by_role("status")).to_have_text("1 fits")
    page.get_by_label("Signal").select_option("all")
    expect(items).to_have_count(4)
    for label, option, found in (
        ("Missing rewards", "in some answer", ["0/4"]),
        ("Truncated", "some answer", ["0/4"]),
    ):
        page.get_by_label(label).select_option(option)
        expect(items).to_have_count(len(found))
        assert ids() == found
        page.get_by_label(label).select_option("all")
        expect(items).to_have_count(4)
    page.get_by_label("Reward description from").fill("0.5")
    page.get_by_role("button", name="Show").click()
    expect(items).to_have_count(3)
    page.get_by_label("Reward description to").fill("0.25")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("alert")).to_contain_text("min_visual=0.5 is more than max_visual=0.25")
    expect(page.get_by_label("Reward description to")).to_have_value("0.25")
    page.get_by_role("link", name="clear").click()
    expect(items).to_have_count(4)
    page.get_by_label("Right answers to").fill("0")
    page.get_by_role("button", name="Show").click()
    expect(items).to_have_count(1)
    assert ids() == ["0/3"]


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
    samples = config.reward.requery.samples
    given = answered(AutoTokenizer.from_pretrained(tiny_model), 0, 0, right=True, sufficient=True).rewards.keys()
    save_config(config, folder / "config.yaml")
    served.add(
        {"group": 0, "index": 0, "right": True, "sufficient": True, "run": preset, "samples": samples},
        {"group": 0, "index": 1, "right": False, "sufficient": False, "run": preset, "samples": samples},
    )
    page.goto(f"{served.url}#/group/0/0?run={preset}")
    first = page.locator("article").first
    expect(page.locator("#main")).to_contain_text("Group 0/0")
    first.locator("summary").first.click()
    expect(first.locator(".segment-description").first).to_be_visible()
    painted = "span[style*=background]"
    shown = 0
    for component in config.learner.components:
        if not component.reward.keys() <= given:
            continue
        page.get_by_role("button", name=f"advantage {component.name}", exact=True).click()
        response = first.get_by_label("Response", exact=True)
        trains = f"trains: {', '.join(component.tokens)}; other tokens have no colour"
        expect(page.get_by_role("group", name="Legend")).to_contain_text(trains)
        texts = "".join(response.locator(painted).all_text_contents())
        sets = set(component.tokens)
        assert ("top left" in texts) == bool(sets & {"response", "description"}), component.name
        assert ("boxed" in texts) == bool(sets & {"response", "reasoning"}), component.name
        shades = [
            re.findall(r"rgba?\([\d, ]+", requery.get_attribute("style") or "")
            for requery in first.get_by_label("Response to the re-query").all()
        ]
        assert len(shades) == samples
        assert all(bool(shade) == ("requery" in sets) for shade in shades), component.name
        assert (shades[0] != shades[-1]) == (samples > 1 and "requery" in sets), "each is shaded by its own advantage"
        shown += 1
    assert shown or preset == "external_judge"  # whose only component needs the judge


def test_a_re_query_shows_the_question_that_it_asked_and_the_own_one_decides_on_a_shortcut(page: Page, served: Served):
    served.add({"group": 5, "index": 0, "right": True, "sufficient": False, "further": True})
    page.goto(f"{served.url}#/group/0/5")
    article = page.locator("article")
    expect(article).to_contain_text("answer right, description insufficient (shortcut)")
    own, further = article.locator("details > details:not(.received)").all()
    expect(own).not_to_contain_text("wanted")
    expect(further).to_contain_text("how many squares · wanted: one")
    page.goto(f"{served.url}#/groups")
    expect(page.locator(".list > li").first.get_by_label("description insufficient")).to_be_visible()


def test_what_comes_while_one_looks_is_announced(page: Page, served: Served):
    served.add({"group": 2, "index": 0, "right": True, "sufficient": True})
    page.get_by_role("button", name="1 new: show").click(timeout=15_000)
    expect(page.locator(".list > li")).to_have_count(3)


@pytest.mark.parametrize("status", [401, 404])
def test_what_comes_is_not_asked_for_again_once_it_is_refused(page: Page, status: int):
    asked = list[str]()

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=status, json={"detail": "no"})

    page.route("**/v1/live?*", refuse)
    page.reload()
    expect(page.locator(".list > li")).to_have_count(2)
    if status == 401:
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
    page.wait_for_timeout(2500)
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert len(asked) == 1


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
    page.get_by_label("Smoothing", exact=True).fill("0.5")
    page.get_by_label("Purpose").select_option("evaluation")
    expect(page.locator("#main")).to_contain_text("KL to the reference")
    expect(page).to_have_url(re.compile("#/curves.*purpose=evaluation"))
    expect(page.get_by_label("Smoothing", exact=True)).to_have_value("0.5")
    page.get_by_role("link", name="Pipeline").click()
    expect(page.locator("#main")).to_contain_text("the run is over")


def plot(page: Page, name: str) -> tuple[Locator, Locator]:
    """A plot's figure, and the area that its points are in."""
    image = page.get_by_role("img", name=name, exact=True)
    expect(image.locator(".u-over")).to_be_visible()
    return page.locator("figure", has=image), image.locator(".u-over")


def test_plots_show_values_zoom_together_and_lead_to_the_groups_of_a_point(page: Page, served: Served):
    for version in (5, 6, 7):
        right = version != 6
        served.add({"group": 10 + version, "index": 0, "right": right, "sufficient": right, "version": version})
    page.get_by_role("link", name="Curves").click()
    rewards, area = plot(page, "Rewards by policy version")
    kl, _ = plot(page, "KL to the reference by step")  # steps 1 to 3, beside versions 3 to 7
    box = area.bounding_box()
    assert box is not None

    def at(x: float, height: float) -> Position:
        return {"x": (x - 1) / 6 * box["width"], "y": (1 - height) * box["height"] + 1}

    expect(rewards).to_contain_text("by policy version")
    area.hover(position=at(3, 0.5))
    expect(rewards).to_contain_text("policy version 3")
    expect(rewards).to_contain_text("accuracy 0.667")
    expect(kl).to_contain_text("step 3")
    expect(kl).to_contain_text("answer 0.03")

    page.mouse.move(box["x"] + at(4.5, 0)["x"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + at(6.5, 0)["x"], box["y"] + 30, steps=5)
    page.mouse.up()
    expect(page.get_by_role("button", name="Whole range")).to_be_visible()
    expect(page).to_have_url(re.compile(r"from=4\.[45]&to=6\.[56]"))
    area.hover(position={"x": box["width"] / 4, "y": 30})
    expect(rewards).to_contain_text("policy version 5")
    area.dblclick(position={"x": box["width"] / 4, "y": 30})
    expect(page.get_by_role("button", name="Whole range")).to_be_hidden()
    expect(page).to_have_url(re.compile("#/curves"))  # and no group was opened

    page.get_by_label("Smoothing", exact=True).fill("0.5")
    area.hover(position=at(6, 0.5))
    expect(rewards).to_contain_text(re.compile(r"accuracy 0\.\d{1,3} \(0\)"))
    expect(page).to_have_url(re.compile("smooth=0.5"))
    page.reload()
    rewards, area = plot(page, "Rewards by policy version")
    expect(page.get_by_label("Smoothing", exact=True)).to_have_value("0.5")
    page.get_by_label("Smoothing", exact=True).fill("0")

    rewards.get_by_text("numbers").click()
    expect(rewards.get_by_role("row", name="3 0.667")).to_be_visible()
    area.click(position=at(6, 0.03))
    expect(page).to_have_url(re.compile("#/groups.*min_version=6&max_version=6"))
    expect(page.locator(".list > li")).to_have_count(1)
    page.go_back()
    image = page.get_by_role("img", name="KL to the reference by step", exact=True)
    image.focus()
    for key in ("ArrowLeft", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    expect(page).to_have_url(re.compile("#/groups.*step=2"))


def test_a_reward_that_is_constant_has_one_bar_of_its_distribution(page: Page):
    page.get_by_role("link", name="Curves").click()
    figure = page.locator("figure", has=page.get_by_role("img", name="Distribution of format"))
    area = figure.locator(".u-over")
    expect(figure).to_contain_text("mean 1 of 4")
    for part, said in ((0.02, "0 to 0.05: 0 of 4"), (0.98, "0.95 to 1: 4 of 4")):
        box = area.bounding_box()
        assert box is not None
        area.hover(position={"x": part * box["width"], "y": 40})
        expect(figure).to_contain_text(said)


def test_a_page_outlives_its_service(browser: Browser, served: Served):
    page = browser.new_page()
    port = free_port()
    with serving_in_thread(served.app, port=port) as url:
        enter(page, f"{url}/#/curves")
        expect(page.get_by_role("img", name="Rewards by policy version", exact=True)).to_be_visible()
    away = page.locator("#away")
    expect(away).to_contain_text("The service has not answered since")
    expect(away).to_contain_text("Next attempt in")
    expect(page.get_by_role("img", name="Rewards by policy version", exact=True)).to_be_visible()
    page.get_by_role("link", name="Groups").click()  # asked for while it is away, shown when it is back
    with serving_in_thread(served.app, port=port):
        expect(page.locator(".list > li")).to_have_count(2)
        expect(away).to_be_hidden()
        page.goto("about:blank")
    page.close()


def test_images_are_asked_for_when_they_are_about_to_be_seen(page: Page, served: Served):
    asked = set[str]()
    page.on("request", lambda request: asked.add(request.url) if "v1/images" in request.url else None)
    served.add(
        *({"group": 20 + n, "index": 0, "right": True, "sufficient": True, "image": f"{n:064x}"} for n in range(18))
    )
    page.reload()
    expect(page.locator(".list > li")).to_have_count(20)
    page.wait_for_timeout(500)
    assert 0 < len(asked) < 18
    for _ in range(20):
        page.mouse.wheel(0, 300)
        page.wait_for_timeout(50)
    page.wait_for_timeout(500)
    assert len(asked) == 18


def test_back_leads_to_the_same_place_of_a_list(page: Page, served: Served):
    served.add(*({"group": 20 + n, "index": 0, "right": True, "sufficient": True} for n in range(40)))
    page.reload()
    items = page.locator(".list > li")
    expect(items).to_have_count(20)
    page.get_by_role("button", name="More").click()
    expect(items).to_have_count(40)
    link = items.nth(33).get_by_role("link").first
    link.scroll_into_view_if_needed()
    scrolled = page.evaluate("window.scrollY")
    assert scrolled > 1000
    link.click()
    expect(page.get_by_role("heading", name="Group 0/")).to_be_visible()
    assert page.evaluate("window.scrollY") == 0
    page.go_back()
    expect(items).to_have_count(40)
    page.wait_for_timeout(300)
    assert abs(page.evaluate("window.scrollY") - scrolled) < 5


def test_an_answer_has_an_address_that_can_be_copied(page: Page, served: Served):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{served.url}#/group/0/1")
    page.locator("article").nth(1).locator("summary").first.click()
    page.locator("article").nth(1).get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    address = page.evaluate("navigator.clipboard.readText()")
    assert address == f"{served.url}#/traces/0/1/1?run={RUN}"
    page.goto(f"{served.url}#/pipeline")
    page.goto(address)
    expect(page.locator("article").nth(1)).to_be_focused()
    expect(page.locator("article").nth(1).get_by_label("Response", exact=True)).to_be_visible()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("groups/0/1", "Group 0/1"),
        ("traces/0/1/0", "Group 0/1"),
        ("steps/4", "what color is the square"),
        (f"runs/{RUN}", "what color is the square"),
        ("images/none", "There is no image none."),
        ("traces/0/9/9", "no trace '0/9/9'"),
        ("grops", "There is no view 'grops'; there are groups, curves, pipeline, comparison."),
        ("groups?patern=shortcut", "The view 'groups' has no filter 'patern'; it has run, pattern, step"),
        ("groups?pattern=shortcuts", "pattern: Input should be 'both_wrong'"),
        ("groups?step=many", "step: Input should be a valid integer"),
        ("group/%E0%A4", "no group"),
    ],
)
def test_an_address_leads_to_what_its_id_means_or_tells_what_is_wrong(page: Page, served: Served, path: str, said: str):
    page.goto(f"{served.url}#/{path}")
    expect(page.locator("#main")).to_contain_text(said)


def test_a_wrong_token_is_told(browser: Browser, served: Served):
    page = browser.new_page()
    enter(page, served.url, "wrong")
    expect(page.get_by_role("dialog")).to_contain_text("The service refused the token: it is wrong.")
    page.get_by_label("This service asks for its token").fill(TOKEN)
    page.get_by_role("button", name="Go on").click()
    expect(page.locator(".list > li")).to_have_count(2)
    page.close()


def test_a_search_finds_parts_of_words(page: Page):
    page.get_by_label("Words").fill("quar re lef")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile("q=quar"))
    expect(page.locator(".list > li")).to_have_count(2)
    page.get_by_label("Words").fill("qare")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#main")).to_contain_text("No group fits.")


def test_what_is_typed_while_a_list_comes_is_kept(page: Page):
    held = list[Route]()
    page.route(re.compile("/v1/runs"), lambda route: held.append(route))
    words = page.get_by_label("Words")
    words.fill("quar")
    words.press("Enter")
    expect(page).to_have_url(re.compile("q=quar"))
    words.press_sequentially(" qare")
    for route in held:
        route.continue_()
    expect(page.get_by_role("status")).to_have_text("2 fit")
    expect(page.get_by_label("Data source").locator("option")).to_have_text(["all", "shapes"])
    expect(words).to_have_value("quar qare")
    page.keyboard.type("s")  # where the focus has stayed
    expect(words).to_have_value("quar qares")
    page.unroute_all()
    words.press("Enter")
    expect(page.locator("#main")).to_contain_text("No group fits.")
    page.go_back()
    expect(words).to_have_value("quar")
    page.go_back()
    expect(words).to_have_value("")


def test_the_page_stays_with_the_run_that_it_was_opened_with(page: Page, served: Served, other_run: str):
    answer = page.request.get(f"{served.url}v1/runs", headers={"Authorization": f"Bearer {TOKEN}"})
    runs = [run | {"is_served": run["name"] == other_run} for run in answer.json()]
    page.route(re.compile("/v1/runs"), lambda route: route.fulfill(json=runs))  # a shared service goes on to the next
    page.get_by_role("link", name="Curves").click()
    expect(page.get_by_label("Run", exact=True)).to_have_value(RUN)
    page.get_by_role("link", name="Groups").click()
    expect(page).to_have_url(re.compile(f"#/groups\\?run={RUN}$"))
    expect(page.locator(".list > li")).to_have_count(2)
    expect(page).to_have_title(re.compile(f"^{RUN} "))


def test_a_run_that_was_evaluated_only_shows_its_answers(page: Page, served: Served):
    served.add({"group": 5, "index": 0, "right": True, "sufficient": True, "run": "held out", "evaluation": True})
    page.goto(f"{served.url}#/groups?run=held+out")
    expect(page.locator(".list > li")).to_have_count(1)
    expect(page.get_by_label("Purpose")).to_have_value("evaluation")
    page.get_by_role("link", name="Curves").click()
    expect(page.get_by_role("img", name="Distribution of accuracy")).to_be_visible()
    expect(page.get_by_label("Purpose")).to_have_value("evaluation")


def test_more_lists_each_group_once_however_often_it_is_clicked(page: Page, served: Served):
    served.add(*({"group": 20 + n, "index": 0, "right": True, "sufficient": True} for n in range(60)))
    page.reload()
    expect(page.locator(".list > li")).to_have_count(20)
    page.get_by_role("button", name="More").dblclick()
    expect(page.locator(".list > li").nth(39)).to_be_visible()
    ids = [text.split(" ·")[0] for text in page.locator(".list > li div.dim").all_inner_texts()]
    assert len(ids) == len(set(ids))


def test_a_prompt_leads_back_to_the_list_that_it_was_found_in(page: Page):
    page.get_by_label("Reward pattern").select_option("shortcut")
    expect(page.locator(".list > li")).to_have_count(1)
    page.get_by_role("link", name="over versions").click()
    page.get_by_role("list", name="Versions").wait_for()
    page.keyboard.press("u")
    expect(page).to_have_url(re.compile("#/groups.*pattern=shortcut"))


def test_a_choice_keeps_the_focus(page: Page):
    for view, label, key in (("Curves", "Purpose", "purpose=evaluation"), ("Groups", "Order", "order=oldest")):
        page.get_by_role("link", name=view).click()
        page.get_by_role("heading", name=view, level=1).wait_for()
        page.get_by_label(label).focus()
        with page.expect_response(
            re.compile(f"/v1/(statistics|groups).*{key}")
        ):  # which is asked for after the view is shown
            page.keyboard.press("ArrowDown")
        expect(page.get_by_label(label)).to_be_focused()


@pytest.fixture
def two_runs(tmp_path: Path, tiny_model: Path) -> Iterator[str]:
    """The address of a page with two runs, each from a store of its own; the first has a shortcut."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    stores, past = {}, {}
    for name, right in (("first", False), ("second", True)):
        (tmp_path / name).mkdir()
        store = stores[name] = Store(f"sqlite:///{tmp_path}/{name}/traces.sqlite")
        answers = [
            answered(tokenizer, 7, 0, right=right, sufficient=right, evaluation=True, version=9),
            answered(tokenizer, 7, 1, right=True, sufficient=True, evaluation=True, version=2),
            answered(tokenizer, 8, 0, right=not right, sufficient=True, evaluation=True, version=9, image="ab" * 32),
            answered(tokenizer, 1 + right, 0, right=True, sufficient=right, version=2),
        ]
        if name == "first":  # as of a run without re-queries: the prompt is worse in the other by its accuracy
            del answers[2].rewards["visual"]
        thread = threading.Thread(target=lambda store=store, answers=answers: asyncio.run(write(store, *answers)))
        thread.start()
        thread.join()
        past[name] = PastRun(tmp_path / name, TokenBytes(tokenizer), None)
    reader = TraceReaders({name: StoredRun(store.reader, RUN) for name, store in stores.items()})
    config = load_config(None, ["run.name=first", f"run.dir={tmp_path}"], environment={}).config
    with serving_in_thread(create_app(ApiContext(config, cast(TraceReader, reader), past=past))) as url:
        yield url
    for store in stores.values():
        store.engine.dispose()


def test_runs_of_two_stores_are_switched_between_and_compared(browser: Browser, two_runs: str):
    page = browser.new_page()
    page.goto(two_runs)
    expect(page.locator(".list > li")).to_contain_text("0/1 ")
    page.get_by_label("Run", exact=True).select_option("second")
    expect(page.locator(".list > li")).to_contain_text("0/2 ")
    page.goto(f"{two_runs}/#/comparison")
    expect(page.locator("#main")).to_contain_text("first at version 9; second at version 9")
    better = page.get_by_role("list", name="Better in second").locator("li")
    expect(better).to_have_count(1)
    for run, said in (("first", "top left square blue"), ("second", "top left square red")):
        expect(better.locator(".side", has_text=run)).to_contain_text(said)
    expect(page.get_by_role("row", name="shapes")).to_contain_text("+1 \N{MINUS SIGN}1")
    expect(page.get_by_role("list", name="Worse in second").locator("li")).to_have_count(1)
    expect(page.get_by_role("img", name="Rewards: accuracy by policy version")).to_be_visible()
    page.get_by_role("link", name="shapes").click()
    expect(page).to_have_url(re.compile("data_source=shapes"))
    expect(better).to_have_count(1)
    for run, said in (("first", "blue"), ("second", "red")):
        page.goto(f"{two_runs}/#/group/0/7?run={run}")
        page.locator("article").first.locator("summary").first.click()
        page.locator("article").first.get_by_text("Re-query as the policy received it").click()
        expect(page.get_by_label("Rendered prompt")).to_contain_text(f"square {said}")
    page.get_by_role("link", name="this prompt over versions").click()
    page.get_by_label("Run", exact=True).select_option("first")
    expect(page).to_have_url(re.compile(r"/prompts/\w+\?run=first"))
    expect(page.get_by_label("Description").first).to_contain_text("top left square")
    page.goto(f"{two_runs}/#/traces/0/7/0?run=first")
    expect(page.get_by_role("heading", name="Group 0/7")).to_be_visible()
    page.get_by_label("Run", exact=True).select_option("second")
    expect(page.locator(".list > li")).to_contain_text("0/2 ")
    page.close()


def test_the_pictures_of_the_documentation_are_taken(browser: Browser, two_runs: str, tmp_path: Path):
    page = browser.new_page()
    page.route("**/v1/images/*", lambda route: route.fulfill(path=README.with_name("docs") / "demo.png"))
    taken = take_pictures(page, two_runs, tmp_path / "pictures")
    page.close()
    shown = re.findall(r"docs/page/(\w+)\.png", README.read_text(encoding="utf-8"))
    assert {picture.stem for picture in taken} == set(shown)
    for picture in taken:
        with Image.open(picture) as image:
            assert image.width == WIDTH
            assert len(image.getcolors(1 << 20) or []) > 50, "an empty page"


def prompt_address(page: Page) -> str:
    address = page.get_by_role("link", name="over versions").first.get_attribute("href")
    assert address is not None
    return address


def test_it_fits_a_phone_and_is_light_or_dark(page: Page, served: Served, other_run: str):
    page.set_viewport_size({"width": 360, "height": 740})
    for path in (
        "#/groups",
        "#/groups?missing=false",
        "#/traces/0/1/0",
        prompt_address(page),
        "#/curves",
        "#/comparison",
    ):
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
    for path in (
        "#/groups",
        "#/groups?missing=false",
        "#/traces/0/1/0",
        prompt_address(page),
        "#/curves",
        "#/pipeline",
        "#/comparison",
    ):
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
