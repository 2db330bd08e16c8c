"""A run under random faults, with a fixed seed; see docs/soak.md for thirty minutes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.forking import SWITCH

SERVICES = {"actor-0", "actor-1", "reward_service", "reward_service-1", "learner", "redis"}
SHORT = "tests/system/test_soak.py::test_nothing_is_lost_doubled_or_left_over_where_each_service_is_killed_once"


def soak(folder: Path, model: Path, *options: str, timeout_s: float, **environment: str) -> dict[str, Any]:
    """What the benchmark found with this model, so that it teaches none of its own; it fails where anything is not as
    promised."""
    (folder / "model").symlink_to(model)
    process = subprocess.run(
        [sys.executable, "-m", "bench.soak", "--folder", folder, *options],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **environment},
    )
    logs = "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in folder.glob("soak/logs/*.log"))
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:] + logs
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    assert result["wrong"] == []
    assert {f"{service} killed" for service in SERVICES} <= result["faults"].keys(), "not every service was killed"
    assert set(result["update_modes"]) == {"in_flight", "abort", "wait"}
    return result


@pytest.mark.timeout(600)
def test_nothing_is_lost_doubled_or_left_over_where_each_service_is_killed_once(tmp_path: Path, cold_start_model: Path):
    soak(tmp_path, cold_start_model, "--minutes", "1.1", "--seed", "6", "--rows", "64", timeout_s=540)


@pytest.mark.full(sibling=SHORT)
@pytest.mark.timeout(1560)
def test_nothing_is_lost_doubled_or_left_over_in_three_minutes(tmp_path: Path, cold_start_model: Path):
    """In processes that start as a user's do."""
    found = soak(tmp_path, cold_start_model, "--minutes", "3", "--seed", "6", timeout_s=1500, **{SWITCH: "0"})
    assert found["kills"] >= 8
