"""Processes that the launcher starts, watches and takes down; none outlives it."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from vision_sr1.runtime.parent_death import end_with_parent

POLL_S = 0.05
USUAL_STOP_S = 3.0


@dataclass
class ServiceProcess:
    """One service: its command, where its output goes, and how often it may be restarted.

    `wrapper_report` is how a wrapper such as torchrun begins its own account of a failure, after the service's.
    `again` is added to the command when it is started again.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    restarts_left: int = 0
    wrapper_report: str | None = None
    again: Sequence[str] = ()
    restarts: int = field(default=0, init=False)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _log_start: int = field(default=0, init=False)

    def start(self) -> None:
        """Starts it in a process group of its own, so that a terminal's Ctrl-C reaches the launcher alone."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = self.log.stat().st_size if self.log.is_file() else 0
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.command, *(self.again if self.process is not None else ())],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(end_with_parent, signal.SIGTERM, os.getpid()),
            )

    def exit_status(self) -> int | None:
        """None while it runs."""
        return self.process.poll() if self.process is not None else None

    def own_status(self) -> int:
        """The exit status of the service itself, where a wrapper reports it; negative where a signal ended it."""
        status = self.exit_status()
        if status and self.wrapper_report is not None:
            reported = re.findall(re.escape(self.wrapper_report) + r":\s*(-?\d+)", self._written())
            status = int(reported[-1]) if reported else status
        return status or 0

    def terminate(self) -> None:
        """Asks it to stop."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def kill_tree(self) -> None:
        """Ends it and every process it started, those in sessions of their own (torchrun's ranks) included."""
        if self.process is None:
            return
        descendants: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            descendants = psutil.Process(self.process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for descendant in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                descendant.kill()
        self.process.wait()

    def last_lines(self, count: int = 15) -> str:
        """The end of what the service itself wrote to its log."""
        lines = self._written().splitlines()
        if self.wrapper_report is not None:
            reports = [index for index, line in enumerate(lines) if self.wrapper_report in line]
            lines = lines[: reports[-1]] if reports else lines
        return "\n".join(lines[-count:])

    def _written(self) -> str:
        """The log since the service was last started."""
        if not self.log.is_file():
            return ""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")


def stop_all(services: Sequence[ServiceProcess], seconds: float, is_slow: Callable[[], None] = lambda: None) -> None:
    """Asks services to stop; those that have not ended by themselves in time are killed with their children.

    Args:
        is_slow: called once, where it takes longer than usual.
    """
    for service in services:
        service.terminate()
    started = time.monotonic()
    told = False
    while (waited := time.monotonic() - started) < seconds and any(
        service.process and service.exit_status() is None for service in services
    ):
        if waited > USUAL_STOP_S and not told:
            told = True
            is_slow()
        time.sleep(POLL_S)
    for service in services:
        service.kill_tree()
