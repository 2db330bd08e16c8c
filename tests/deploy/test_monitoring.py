"""Alerts at recorded faults, and what dashboards, alerts and the runbook say of one another."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.prometheus import RULES, alerts

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RUNBOOK = DEPLOY.parent / "docs" / "runbook.md"
RECORDED = RULES.with_name("recorded.test.yaml")
TESTED = (RULES.with_name("rules.test.yaml"), RECORDED)

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


@needs_prometheus
def test_alerts_come_at_their_faults_and_not_otherwise():
    subprocess.run(["promtool", "test", "rules", *(path.name for path in TESTED)], cwd=RULES.parent, check=True)
    tested = "".join(path.read_text() for path in TESTED)
    assert [rule["alert"] for rule in alerts() if rule["alert"] not in tested] == []


def test_every_alert_leads_to_its_section_of_the_runbook():
    led_to = {rule["annotations"]["runbook_url"].partition("#")[2] for rule in alerts()}
    assert led_to == sections(RUNBOOK.read_text())


def test_links_within_the_runbook_lead_somewhere():
    runbook = RUNBOOK.read_text()
    assert set(re.findall(r"\(#([\w-]+)\)", runbook)) <= sections(runbook)
