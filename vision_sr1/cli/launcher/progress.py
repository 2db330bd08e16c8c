"""What a user sees while a run goes on: a live table on a terminal, plain lines elsewhere."""

import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
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
        earlier = jsonl.read(path) if path.is_file() else []
        self.begun_at = int(earlier[-1].get("step", 0)) if earlier else 0  # of a run that goes on
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

    Args:
        total: how many units there will be; 0: not known.
        unit: what `step` counts in the scalars: batches, steps or questions.

    Attributes:
        tail: as given.
    """

    def __init__(self, console: Console, phase: str, tail: ScalarTail, total: int, unit: str = "batch") -> None:
        self._console = console
        self._phase = phase
        self.tail = tail
        self._total = total
        self._unit = unit
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
            self._live.update(self._screen(depths, status))
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
        return int(self.tail.latest.get("step", self.tail.begun_at))

    def _eta(self) -> str:
        seconds = self.tail.eta_s(self._total)
        if seconds is None:
            return "?"
        minutes, seconds = divmod(int(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

    def _line(self, depths: dict[str, int] | None = None, status: str = "") -> str:
        parts = [f"{self._phase}: {self._unit} {self._step()}/{self._total}" if self._total else self._phase]
        parts += [f"{label} {value}" for label, value in self._values()]
        if depths:
            parts.append(_queued(depths))
        if status:
            parts.append(status)
        parts.append(f"ETA {self._eta()}" if depths is not None else f"took {time.monotonic() - self._started:.0f} s")
        return " · ".join(parts)

    def _screen(self, depths: dict[str, int], status: str) -> RenderableType:
        """A line each for how far it is, the latest values, what waits in the queues, and what is waited for."""
        total = f" of {self._total}" if self._total else ""
        heading = Text.assemble(
            (self._phase, "bold"), f" · {self._unit} {self._step()}{total} · ETA {self._eta()}", overflow="fold"
        )
        lines: list[RenderableType] = [heading]
        if self._total:
            lines.append(ProgressBar(total=self._total, completed=self._step(), width=min(60, self._console.width)))
        if values := self._values():
            lines.append(Text(" · ").join(Text.assemble((f"{label} ", "dim"), value) for label, value in values))
        if depths:
            lines.append(Text(_queued(depths)))
        if status:
            lines.append(Text(status, overflow="fold"))
        return Group(*lines)


def _queued(depths: dict[str, int]) -> str:
    """What waits in the streams at the moment: not how many there were."""
    return "in queues: " + ", ".join(f"{depth} {stream}" for stream, depth in depths.items())
