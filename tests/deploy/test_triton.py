"""Triton without a compiler, as in the actor's image for GPUs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOAD = """
import ctypes, os, sys
ctypes.CDLL(os.environ["TRITON_LIBCUDA_PATH"] + "/libcuda.so.1")
sys.setdlopenflags(os.RTLD_LAZY)
from actors.vllm import triton_cache
from pathlib import Path
triton_cache.FOLDER = Path(sys.argv[1])
from triton.backends.nvidia.driver import CudaUtils
CudaUtils().launch
"""
BUILD = """
import sys
from actors.vllm import triton_cache
from pathlib import Path
triton_cache.FOLDER = Path(sys.argv[1])
triton_cache.build()
"""


@pytest.fixture
def bare_machine(tmp_path: Path) -> dict[str, str]:
    """Environment of one that has no compiler, and a driver in name only."""
    link = ["-Wl,-soname,libcuda.so.1", "-x", "c", "/dev/null"]
    subprocess.run(["gcc", "-shared", "-o", tmp_path / "libcuda.so.1", *link], check=True)
    (tmp_path / "bin").mkdir()
    return {
        "PATH": str(tmp_path / "bin"),
        "HOME": str(tmp_path),
        "PYTHONPATH": ":".join(sys.path),
        "TRITON_LIBCUDA_PATH": str(tmp_path),
    }


def python(code: str, folder: Path, environment: dict[str, str] | None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_what_triton_builds_from_c_is_in_the_image(tmp_path: Path, bare_machine: dict[str, str]):
    built = python(BUILD, tmp_path / "built", None)
    assert built.returncode == 0, built.stderr
    without = python(LOAD, tmp_path / "built", bare_machine)
    assert "Failed to find C compiler" in without.stderr
    manager = {"TRITON_CACHE_MANAGER": "actors.vllm.triton_cache:PrebuiltCacheManager"}
    loaded = python(LOAD, tmp_path / "built", bare_machine | manager)
    assert loaded.returncode == 0, loaded.stderr
