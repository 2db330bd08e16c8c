"""Running a module of the tests under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

from vision_sr1.runtime.ports import free_port


def run_ranks(module: str, ranks: int, *arguments: str | Path) -> None:
    """Runs `module` on so many ranks of this machine; fails with its output where it fails."""
    process = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"),
            *("--master-addr=127.0.0.1", f"--master-port={free_port()}", "-m", module, *map(str, arguments)),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stdout + process.stderr
