"""Dashboards and alerts on a run that goes on, in a real Prometheus: every query names what services export."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from bench.prometheus import METRIC, RULES, Prometheus, alerts
from tests.system.conftest import Run, training
from vision_sr1.ports import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RUNBOOK = DEPLOY.parent / "docs" / "runbook.md"
RECORDED = RULES.with_name("recorded.test.yaml")
TESTED = (RULES.with_name("rules.test.yaml"), RECORDED)
ONLY_ON_GPUS = {"vision_sr1_learner_mfu"}

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus here: install Debian's package of that name"
)


def queries(dashboard: Path) -> dict[str, list[str]]:
    """Expressions by panel."""
    panels = json.loads(dashboard.read_text())["panels"]
    return {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in panels}


def sections(document: str) -> set[str]:
    """Anchors of a document's sections."""
    return {heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", document, re.MULTILINE)}


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, cold_start_model: Path, shapes: dict[str, Path]
) -> Iterator[Prometheus]:
    """One that has watched a run for some batches."""
    folder = tmp_path_factory.mktemp("monitored")
    ports = {name: free_port() for name in ("actor", "learner", "reward-service")}
    run: Run = training(
        folder,
        cold_start_model,
        shapes,
        "learner.batches=2000",
        f"metrics.learner_port={ports['learner']}",
        f"metrics.actor_port={ports['actor']}",
        f"reward.port={ports['reward-service']}",
    )
    process = run.start()
    with Prometheus(folder, {name: {name: port} for name, port in ports.items()}) as server:
        run.wait_for_step(2)
        server.wait_until_all_are_up()
        run.wait_for_step(6)
        time.sleep(8)  # a round of rules
        yield server
    for child in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
        child.kill()
    process.wait()


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
def test_alerts_come_at_their_faults_and_not_otherwise():
    subprocess.run(["promtool", "test", "rules", *(path.name for path in TESTED)], cwd=RULES.parent, check=True)
    tested = "".join(path.read_text() for path in TESTED)
    assert [rule["alert"] for rule in alerts() if rule["alert"] not in tested] == []


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


def test_every_alert_leads_to_its_section_of_the_runbook():
    led_to = {rule["annotations"]["runbook_url"].partition("#")[2] for rule in alerts()}
    assert led_to == sections(RUNBOOK.read_text())


def test_links_within_the_runbook_lead_somewhere():
    runbook = RUNBOOK.read_text()
    assert set(re.findall(r"\(#([\w-]+)\)", runbook)) <= sections(runbook)
