"""The page beside a run that goes on: what comes is shown, and what a reward saw can be read."""

import re
import signal
from pathlib import Path

import psutil
from playwright.sync_api import Browser, expect

from tests.system.conftest import training
from vision_sr1.client import Client

LIVE_MS = 60_000  # for a batch to be answered and scored


def test_a_run_is_followed_to_a_shortcut_and_what_its_re_query_saw(
    tmp_path: Path, cold_start_model: Path, shapes: dict[str, Path], leftovers: list[psutil.Process], browser: Browser
):
    run = training(tmp_path, cold_start_model, shapes, "learner.batches=1000")
    process = run.start()
    leftovers.append(psutil.Process(process.pid))
    url = next(found[1] for line in process.stdout if (found := re.search(r"reward traces: (http://\S+)/", line)))
    run.wait_for_step(2)
    page = browser.new_page()
    page.goto(f"{url}/")
    groups = page.locator("#main .list > li")
    newest = groups.first.get_by_role("link")
    before = newest.get_attribute("href")
    page.get_by_role("button", name=re.compile(r"\d+ new: show")).click(timeout=LIVE_MS)
    expect(newest).not_to_have_attribute("href", before)
    page.get_by_role("link", name="Pipeline").click()
    with Client(url) as client:
        (actor,) = client.pipeline().actors
        expect(page.get_by_label("Actors")).to_contain_text(actor.id)
        page.get_by_role("link", name="Groups").click()
        page.get_by_label("Reward pattern").select_option("shortcut")
        groups.first.get_by_role("link").click()
        shortcut = page.locator("article", has_text="(shortcut)").first
        expect(shortcut).to_contain_text("mathruler")
        group = client.group(page.url.partition("#/group/")[2].partition("?")[0])
        shown = shortcut.inner_text()
        (requery,) = next(t.requeries for t in group.traces if t.response in shown and t.requeries)
        assert requery.rewards["visual"] == 0.0
        assert f"Re-query: answered {requery.answer or 'nothing'}" in shown
        assert requery.prompt in shown
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
