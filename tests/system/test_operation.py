"""One long run as those who operate it see it: dashboards and alerts, the page, killed services, Ctrl-C, `--resume`.

Queries and alerts are asked of a real Prometheus: every one names what services export.
"""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from playwright.sync_api import Browser, expect

from bench.prometheus import METRIC, Prometheus, alerts
from tests.deploy.test_monitoring import DASHBOARDS, RECORDED, needs_prometheus, queries
from tests.system.conftest import PROMPTS, Run, prompts_by_version, training
from vision_sr1.client import Client
from vision_sr1.runtime.ports import free_port

ONLY_ON_GPUS = {"vision_sr1_learner_mfu"}
LIVE_MS = 60_000  # for a batch to be answered and scored


@dataclass
class Watched:
    """A run that goes on, where its metrics and page are, and what it has printed so far."""

    run: Run
    ports: dict[str, int]
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory,
    trained: Run,  # done before
    cold_start_model: Path,
    shapes: dict[str, Path],
) -> Iterator[Watched]:
    ports = {name: free_port() for name in ("actor", "learner", "reward-service")}
    options = [
        "learner.batches=2000",
        f"learner.prompts_per_batch={PROMPTS}",
        "streams.lease_s=3",
        f"metrics.learner_port={ports['learner']}",
        f"metrics.actor_port={ports['actor']}",
        f"reward.port={ports['reward-service']}",
    ]
    run = training(tmp_path_factory.mktemp("watched"), cold_start_model, shapes, *options)
    watched = Watched(run, ports, run.start())
    yield watched
    if watched.process.poll() is None:
        watched.process.send_signal(signal.SIGINT)
        watched.process.communicate(timeout=60)


@pytest.fixture
def watched(started: Watched) -> Watched:
    """The run; it goes on, also where a test has stopped it."""
    if started.process.poll() is not None:
        assert started.process.stdout is not None
        assert started.process.stdout.closed, f"the run ended by itself: {started.process.communicate()[0]}"
        started.process = started.run.start("--resume", "learner.batches=2000")
    return started


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, started: Watched) -> Iterator[Prometheus]:
    """One that has watched the run for some batches."""
    targets = {name: {name: port} for name, port in started.ports.items()}
    with Prometheus(tmp_path_factory.mktemp("prometheus"), targets) as server:
        started.run.wait_for_step(2)
        server.wait_until_all_are_up()
        started.run.wait_for_step(6)
        time.sleep(8)  # a round of rules
        yield server


@needs_prometheus
@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_shows_something(prometheus: Prometheus, dashboard: Path):
    empty = [
        f"{panel}: {expression}"
        for panel, expressions in queries(dashboard).items()
        for expression in expressions
        if not ONLY_ON_GPUS & set(METRIC.findall(expression))
        and not prometheus.get("query", query=expression)["result"]
    ]
    assert not empty


@needs_prometheus
def test_metrics_of_dashboards_and_alerts_are_exported(prometheus: Prometheus):
    exported = set(prometheus.get("label/__name__/values"))
    for name in prometheus.get("metadata"):  # counters of what has not happened yet: named as one format or the other
        exported |= {name, f"{name.removesuffix('_total')}_total"}
    named = {name for rule in alerts() for name in METRIC.findall(rule["expr"])}
    named |= {name for d in DASHBOARDS for e in queries(d).values() for q in e for name in METRIC.findall(q)}
    assert len(named) > 40
    assert named - exported == ONLY_ON_GPUS


@needs_prometheus
def test_nothing_is_wrong_with_a_healthy_run(prometheus: Prometheus):
    groups = prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(alerts())
    assert {rule["name"]: rule["state"] for rule in rules if rule["state"] != "inactive"} == {}
    assert {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")} == {}


@needs_prometheus
def test_recorded_metrics_are_those_that_services_export(prometheus: Prometheus):
    """By name and labels; `python -m bench.faults` records them anew."""
    exported = {
        (labels.pop("__name__"), *sorted(labels))
        for labels in prometheus.get("series", **{"match[]": '{__name__=~"up|vision_sr1_.*"}'})
    }
    series = {
        recorded["series"]
        for test in yaml.safe_load(RECORDED.read_text())["tests"]
        for recorded in test["input_series"]
    }
    recorded = {
        (name, *sorted(re.findall(r'(\w+)="', labels))) for name, _, labels in (s.partition("{") for s in series)
    }
    assert recorded - exported == set()


def test_a_run_is_followed_to_a_shortcut_and_what_its_re_query_saw(watched: Watched, browser: Browser):
    url = f"http://127.0.0.1:{watched.ports['reward-service']}"
    watched.run.wait_for_step(2)
    page = browser.new_page()
    page.goto(f"{url}/")
    groups = page.locator("#main .list > li")
    newest = groups.first.locator(".question")
    before = newest.get_attribute("href")
    page.get_by_role("button", name=re.compile(r"\d+ new: show")).click(timeout=LIVE_MS)
    expect(newest).not_to_have_attribute("href", before)
    page.get_by_role("link", name="Pipeline").click()
    with Client(url) as client:
        (actor,) = client.pipeline().actors
        expect(page.get_by_label("Actors")).to_contain_text(actor.id)
        page.get_by_role("link", name="Groups").click()
        page.get_by_label("Reward pattern").select_option("shortcut")
        groups.first.locator(".question").click()
        shortcut = page.locator("article", has_text="(shortcut)").first
        shortcut.locator("summary").first.click()
        expect(shortcut).to_contain_text("mathruler")
        group = client.group(page.url.partition("#/group/")[2].partition("?")[0])
        shown = shortcut.inner_text()
        (requery,) = next(t.requeries for t in group.traces if t.response in shown and t.requeries)
        assert requery.rewards["visual"] == 0.0
        assert f"Re-query: answered {requery.answer or 'nothing'}" in shown
        assert requery.prompt in shown


def test_killed_services_are_replaced_ctrl_c_stops_all_and_resume_goes_on_with_the_same_batch(
    watched: Watched, trained: Run, leftovers: list[psutil.Process]
):
    run, process = watched.run, watched.process
    run.wait_for_step(1)
    for service in ("actors", "reward_service", "redis"):
        children = psutil.Process(process.pid).children()
        next(child for child in children if service in child.cmdline() or service in child.name()).kill()
        seen = max(int(line["step"]) for line in run.scalars())
        run.wait_for_step(seen + 2)

    children = psutil.Process(process.pid).children(recursive=True)
    leftovers.extend(children)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    output, _ = process.communicate(timeout=20)
    assert time.monotonic() - started < 10, output
    assert process.returncode == 130
    assert "actor-0 ended with status -9; restarting it" in output
    assert "reward_service ended with status -9; restarting it" in output
    assert "Redis ended with status -9; restarting it" in output
    assert [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []

    status, output = run.finish()
    assert status == 2
    assert "--resume continues it from its last checkpoint, --fresh moves it aside" in output

    checkpoint = max(int(f.name) for f in (run.folder / "runs" / "run" / "checkpoints").iterdir() if f.name.isdigit())
    status, output = run.finish("--resume", f"learner.batches={checkpoint + 1}")
    assert status == 0, output + run.logs()
    batches = prompts_by_version(run)
    undisturbed = prompts_by_version(trained)
    assert {version: batches[version] for version in undisturbed} == undisturbed
    learned = [prompt for version in sorted(batches) if version <= checkpoint for prompt in batches[version]]
    assert len(learned) == len(set(learned)) == PROMPTS * (checkpoint + 1)
