"""What a user sees while a run goes on: a live table on a terminal, plain lines elsewhere."""

import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vision_sr1.run_folder import jsonl

PLAIN_EVERY_S = 10.0
SHOWN = {
    "sft/loss": "loss",
    "reward/accuracy": "accuracy",
    "reward/visual": "visual",
    "reward/format": "format",
    "reward/shortcut": "shortcut",
    "rollouts_per_second/mean": "rollouts/s",
    "policy/version": "policy version",
}


class ScalarTail:
    """Reads a phase's scalars as the learner writes them."""

    def __init__(self, path: Path) -> None:
        self._tail = jsonl.Tail(path, from_end=True)
        self.lines = 0  # read so far
        self.latest: dict[str, float] = {}
        self.recent: deque[tuple[float, float]] = deque(maxlen=20)  # (time, step)

    def read(self) -> None:
        """Takes in what was written since the last call."""
        for scalars in self._tail.new():
            self.lines += 1
            self.latest.update(scalars)
            self.recent.append((scalars["time"], scalars["step"]))

    def eta_s(self, total: int) -> float | None:
        """Seconds to the last step at the recent pace."""
        if len(self.recent) < 2:
            return None
        (t0, s0), (t1, s1) = self.recent[0], self.recent[-1]
        return (total - s1) * (t1 - t0) / (s1 - s0) if s1 > s0 else None


class ProgressView:
    """One phase's progress. Call `update` often; it draws as often as makes sense.

    Attributes:
        tail: as given.
    """

    def __init__(self, console: Console, phase: str, tail: ScalarTail, total: int) -> None:
        self._console = console
        self._phase = phase
        self.tail = tail
        self._total = total
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._printed_at = 0.0
        self._printed_line = ""
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        self.tail.read()
        self._console.print(self._line(), highlight=False, soft_wrap=True)

    def update(self, depths: dict[str, int], status: str) -> None:
        """Draws the state; `depths` are queue depths by stream."""
        self.tail.read()
        if self._live is not None:
            self._live.update(self._table(depths, status))
        elif time.monotonic() - self._printed_at > PLAIN_EVERY_S:
            self._printed_at = time.monotonic()
            line = self._line(depths, status)
            if line != self._printed_line:
                self._console.print(line, highlight=False, soft_wrap=True)
                self._printed_line = line

    def _values(self) -> list[tuple[str, str]]:
        latest = self.tail.latest
        return [
            (label, f"{latest[name]:.0f}" if label == "policy version" else f"{latest[name]:.3g}")
            for name, label in SHOWN.items()
            if name in latest
        ]

    def _step(self) -> int:
        return int(self.tail.latest.get("step", 0))

    def _eta(self) -> str:
        seconds = self.tail.eta_s(self._total)
        return "?" if seconds is None else f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _line(self, depths: dict[str, int] | None = None, status: str = "") -> str:
        parts = [f"{self._phase}: step {self._step()}/{self._total}" if self._total else self._phase]
        parts += [f"{label} {value}" for label, value in self._values()]
        parts += [f"{stream} {depth}" for stream, depth in (depths or {}).items()]
        if status:
            parts.append(status)
        parts.append(f"ETA {self._eta()}" if depths is not None else f"took {time.monotonic() - self._started:.0f} s")
        return " · ".join(parts)

    def _table(self, depths: dict[str, int], status: str) -> RenderableType:
        heading = Table.grid(padding=(0, 2))
        heading.add_row(Text(self._phase, style="bold"), f"step {self._step()} of {self._total}", f"ETA {self._eta()}")
        bar = Table.grid()
        bar.add_row(ProgressBar(total=self._total, completed=self._step(), width=60))
        rewards = Table.grid(padding=(0, 2))
        rewards.add_row(*[Text.assemble((f"{label} ", "dim"), value) for label, value in self._values()])
        queues = Table.grid(padding=(0, 2))
        queues.add_row(*[Text.assemble((f"{stream} ", "dim"), str(depth)) for stream, depth in depths.items()], status)
        return Group(heading, bar, rewards, queues)
