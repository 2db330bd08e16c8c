"""Five minutes under a hail of faults, with a fixed seed; see docs/soak.md for thirty."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK_S = 1500


@pytest.mark.timeout(SOAK_S + 60)
def test_nothing_is_lost_doubled_or_left_over_whatever_is_killed(tmp_path: Path):
    process = subprocess.run(
        [sys.executable, "-m", "bench.soak", "--minutes", "5", "--seed", "6", "--folder", tmp_path],
        capture_output=True,
        text=True,
        timeout=SOAK_S,
    )
    logs = "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in tmp_path.glob("soak/logs/*.log"))
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:] + logs
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["wrong"] == []
    assert result["kills"] >= 10, "the hail was a drizzle"
    assert {name.split()[0].removesuffix("-1").removesuffix("-0") for name in result["faults"]} == {
        "actor",
        "learner",
        "redis",
        "reward_service",
    }
