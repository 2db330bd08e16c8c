"""Kernels where there is no compiler, as in the images for GPUs."""

import json
import os
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

# What vLLM decides on a GPU of capability 9.0, as far as it asks its platform.
CHOOSE = """
import json, os, sys
sys.path.append(os.environ["STAND_INS"])
from actors.vllm.engine_arguments import engine_arguments
from vision_sr1.config import load_config
from vllm import envs
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.utils.flashinfer import has_flashinfer
has_flashinfer.cache_clear()  # asked before, by the process that this one was forked from
options = [f"model.path={sys.argv[1]}", "model.max_model_len=512", "sampling.max_tokens=64"]
options.append("sampling.max_prompt_tokens=256")
arguments = engine_arguments(load_config(None, options, environment={}).config, "cuda")
config = AsyncEngineArgs(**arguments).create_engine_config()
platform = type(current_platform)
platform.is_cuda = lambda self: True
platform.is_device_capability = classmethod(lambda cls, capability, device_id=0: capability == 90)
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import _resolve_gdn_prefill_backend
print(json.dumps({
    "sampler": envs.VLLM_USE_FLASHINFER_SAMPLER,
    "all-reduce": envs.VLLM_ALLREDUCE_USE_FLASHINFER,
    "gated delta nets": _resolve_gdn_prefill_backend(config)[1] == "flashinfer",
}))
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


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [False, True])
def test_flashinfer_is_used_where_its_kernels_can_be_compiled(compiler: bool, tmp_path: Path, tiny_model: Path):
    (tmp_path / "flashinfer").mkdir()
    (tmp_path / "flashinfer" / "__init__.py").touch()
    (tmp_path / "bin").mkdir()
    for program in ("nvcc", "ninja") if compiler else ("ninja",):
        (tmp_path / "bin" / program).touch(0o755)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    toolkit = {"CUDA_HOME": str(tmp_path), "PATH": str(tmp_path / "bin"), "STAND_INS": str(tmp_path)}
    chosen = python(CHOOSE, tiny_model, ours | toolkit)
    assert chosen.returncode == 0, chosen.stderr
    uses = json.loads(chosen.stdout.splitlines()[-1])
    assert uses == dict.fromkeys(["sampler", "all-reduce", "gated delta nets"], compiler)
