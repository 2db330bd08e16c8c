"""A process that is forked is to itself and to others what an executed one is."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.forking import SWITCH

REPORT = """
import json, multiprocessing, os, signal, sys, threading
print(json.dumps({
    "arguments": sys.argv,
    "folder": os.getcwd(),
    "here": os.environ.get("HERE"),
    "variables": len(os.environ),
    "leads its session": os.getsid(0) == os.getpid(),
    "parent": os.getppid(),
    "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
    "handlers": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)],
    "main": [__name__, sys.modules["__main__"].__dict__ is globals()],
    "threads": threading.active_count(),
    "process": multiprocessing.current_process().name,
    "command line": open("/proc/self/cmdline").read().rstrip("\\0").split("\\0")[1:],
    "input": sys.stdin.read(),
}))
sys.exit(3)
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get(SWITCH) == "0", reason=f"{SWITCH}=0: nothing is forked"),
]


def reported(*, forked: bool, **options: Any) -> dict[str, Any]:
    """What a process says of itself; one with a `preexec_fn` is executed."""
    if not forked:
        options["preexec_fn"] = lambda: None
    done = subprocess.run(
        [sys.executable, "-c", REPORT, "one", "two words"], capture_output=True, text=True, input="said", **options
    )
    assert done.returncode == 3, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("new_session", [False, True])
def test_it_says_the_same_of_itself(tmp_path: Path, new_session: bool):
    options = {"cwd": tmp_path, "env": {**os.environ, "HERE": "there"}, "start_new_session": new_session}
    executed, forked = (reported(forked=forked, **options) for forked in (False, True))
    assert executed["parent"] == os.getpid()
    assert forked == executed


def test_its_end_is_its_parents_to_see(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "sleeper"])
    assert psutil.Process(process.pid).ppid() == os.getpid()
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    failed = subprocess.run([sys.executable, "-c", "1 / 0"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.rstrip().endswith("ZeroDivisionError: division by zero")
    again = [
        sys.executable,
        "-c",
        "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'exit(5)']))",
    ]
    assert subprocess.run(again).returncode == 5
