"""Triton's C module, built with the image: where kernels are compiled and run, nobody needs a C compiler.

Triton compiles kernels by itself, but calls CUDA through one module that it builds from C when it is first used.
`python -m actors.vllm.triton_cache` builds it beside the packages, without a GPU; with
`TRITON_CACHE_MANAGER=actors.vllm.triton_cache:PrebuiltCacheManager` in its environment, Triton finds it there.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from triton import knobs
from triton.runtime.cache import FileCacheManager

FOLDER = Path(sys.prefix) / "share" / "vision-sr1" / "triton"


class PrebuiltCacheManager(FileCacheManager):
    """Triton's cache of files, and behind it what was built with the image.

    That is found by its name alone: the key tells machines apart by the programs that happen to be on them.
    """

    def get_file(self, filename: str) -> str | None:
        """Path of a cached file; none where it has to be built."""
        found: str | None = super().get_file(filename)
        return found or next((str(prebuilt) for prebuilt in FOLDER.glob(f"*/{filename}")), None)


def build() -> None:
    """Builds the module, against a library that stands in for the driver's, which only machines with GPUs have."""
    from triton.backends.nvidia.driver import CudaUtils

    with tempfile.TemporaryDirectory() as folder:
        driver = Path(folder) / "libcuda.so.1"
        name = f"-Wl,-soname,{driver.name}"
        subprocess.run(["gcc", "-shared", "-o", driver, name, "-x", "c", os.devnull], check=True)
        ctypes.CDLL(str(driver))
        sys.setdlopenflags(os.RTLD_LAZY)  # Triton loads what it built; what that calls is not there
        with knobs.nvidia.scope(), knobs.cache.scope():
            knobs.nvidia.libcuda_path = folder
            knobs.cache.dir = str(FOLDER)
            CudaUtils()


if __name__ == "__main__":
    build()
