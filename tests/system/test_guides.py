"""The guides' commands, as they stand there, in a folder with nothing but the examples.

A command `vision-sr1` on the path adds sizes that teach nothing. Blocks are shell, Python, or a file whose name their
first line has; those that begin otherwise are illustrations.
"""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.reward_service.serving import serving_by_command

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides"
SHELL = ("vision-sr1", "PYTHONPATH=.", "python", "curl")
SERVES = "vision-sr1 traces "  # until it is stopped
NOT_RUN = ("make", "tensorboard")
COMMAND_TIMEOUT_S = 300
SMALL = """\
#!/usr/bin/env bash
set -euo pipefail
small=()
case "$1 ${2-}" in
  "data digits"|"data shapes") small=(--base 32 --cold-start 32 --train 64 --held-out 8);;
  sft*) small=(learner.processes=1 learner.sft.steps=2);;
  train*) small=(learner.processes=1 learner.prompts_per_batch=4 learner.prompts_per_step=4 sampling.group_size=2
    learner.batches=2 learner.evaluate_every=0 metrics.learner_port=0 reward.port=0);;
  eval*) small=(--rows 4);;
esac
exec "{python}" -m vision_sr1 "$@" "${small[@]}"
"""


def blocks(guide: str) -> list[str]:
    """Indented code of a guide; the YAML of files and illustrations too."""
    text = (GUIDES / f"{guide}.md").read_text(encoding="utf-8")
    return [
        textwrap.dedent(block).strip() + "\n"
        for block in re.findall(r"(?:^(?: {4}.*)?\n)+", text, flags=re.M)
        if block.strip()
    ]


@pytest.mark.full(sibling="tests/vision_sr1/test_docs.py::test_settings_commands_and_links_are_there")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("guide", ["first_run", "your_data", "your_reward"])
def test_a_guide_runs_as_it_is_written(guide: str, tmp_path: Path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    command = tmp_path / "bin" / "vision-sr1"
    command.parent.mkdir()
    command.write_text(SMALL.replace("{python}", sys.executable))
    command.chmod(0o755)
    path = os.pathsep.join([str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    ran, served = 0, ""
    with ExitStack() as services:
        for block in blocks(guide):
            first = block.split()[0]
            name = re.match(r"# (\w+\.(?:py|yaml))\n", block)
            if name:
                assert not any(line.startswith(SHELL) for line in block.splitlines()), f"a command within {name[1]}"
                (tmp_path / name[1]).write_text(block)
                continue
            if first in NOT_RUN or first not in (*SHELL, "from", "import"):
                continue
            if served:
                trace = httpx.get(f"{served}/v1/traces").json()["traces"][0]["id"]
                block = block.replace("http://127.0.0.1:8088", served).replace("/ID/", f"/{trace}/")
            run = ["bash", "-euo", "pipefail", "-c", block] if first in SHELL else [sys.executable, "-c", block]
            environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join([".", str(ROOT)])}
            if SERVES in block:
                served = services.enter_context(serving_by_command(run, cwd=tmp_path, env=environment))
            else:
                done = subprocess.run(
                    run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
                )
                assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            ran += 1
    assert ran >= 3
