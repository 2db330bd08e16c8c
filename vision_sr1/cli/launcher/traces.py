"""The traces of a past run: the reward service's own command, with nothing around it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from vision_sr1.cli.launcher.resources import keep_port
from vision_sr1.config import Config, place_of
from vision_sr1.run_folder.names import SETTINGS
from vision_sr1.runtime.ports import Ports


def serve_traces(run: Path, overrides: Sequence[str], config: Config, beside: Sequence[Path]) -> NoReturn:
    """Becomes the service that serves them until Ctrl-C, and says where; on another port where the run's is taken.

    Args:
        beside: folders of further runs.

    Raises:
        ConfigError: the command line names a port, and it is taken.
    """
    with Ports() as ports:
        port = keep_port(ports, config, "reward.port")
    options = [option for folder in beside for option in ("--beside", str(folder))]
    command = _command(run, [*overrides, f"reward.port={port}"], "--read-only", *options)
    os.execv(command[0], command)


def export_traces(run: Path, overrides: Sequence[str], path: Path, console: Console, *, images: bool) -> int:
    """Writes them to a .parquet or .jsonl file, with the encoded images if wanted; returns the exit status."""
    options = ["--export", str(path), *(["--images"] if images else [])]
    status = subprocess.run(_command(run, overrides, *options), check=False).returncode
    if status == 0:
        console.print(f"wrote {path}", highlight=False)
    return status


def _command(run: Path, overrides: Sequence[str], *options: str) -> list[str]:
    settings = [*place_of(run), *overrides, "metrics.log_level=warning"]
    return [sys.executable, "-m", "reward_service", str(run / SETTINGS), *settings, *options]
