"""The traces of a past run: the reward service's own command, with nothing around it."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vision_sr1.config import Config
from vision_sr1.ports import Ports


def serve_traces(file: Path, overrides: Sequence[str], config: Config, console: Console) -> int:
    """Serves them until Ctrl-C, on another port where the run's is taken; returns the exit status."""
    with Ports() as ports:
        port = ports.keep(config.reward.host, config.reward.port)
    console.print(f"traces of {config.run.path}: http://{config.reward.host}:{port}/ (Ctrl-C ends)", highlight=False)
    return _reward_service(file, [*overrides, f"reward.port={port}"], "--read-only")


def export_traces(file: Path, overrides: Sequence[str], path: Path, console: Console) -> int:
    """Writes them to a parquet file; returns the exit status."""
    status = _reward_service(file, overrides, "--export", str(path))
    if status == 0:
        console.print(f"wrote {path}", highlight=False)
    return status


def _reward_service(file: Path, overrides: Sequence[str], *options: str) -> int:
    command = [sys.executable, "-m", "reward_service", str(file), *overrides, "metrics.log_level=warning", *options]
    with subprocess.Popen(command) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the terminal has told the service too
                process.send_signal(signal.SIGINT)
