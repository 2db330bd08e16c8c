"""No process outlives the one that started it; one that does is known by the run that it works for."""

import ctypes
import os
from pathlib import Path

RUN_FOLDER = "VISION_SR1_RUN_FOLDER"  # in the environment of a run's processes, and of those that they start

_PR_SET_PDEATHSIG = 1


def end_with_parent(signum: int, parent: int | None = None) -> None:
    """Has the kernel send this process a signal when the thread that started it ends.

    Args:
        parent: its process id; where that has ended already, the signal comes at once. Default: not compared.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signum)


def marks(run_folder: Path) -> dict[str, str]:
    """Environment variables for a process of a run."""
    return {RUN_FOLDER: str(run_folder.resolve()), "SPT_NOENV": "1"}  # setproctitle is to leave the environment alone
