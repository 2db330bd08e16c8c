"""How far a study is."""

import time


def say(started: float, what: str) -> None:
    """Prints what is done, with the minutes since the start."""
    print(f"{(time.monotonic() - started) / 60:6.1f} min  {what}", flush=True)
