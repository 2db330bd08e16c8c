"""GPUs: those of this machine, and what makers state of their kinds."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

FLOAT32_IS_SLOW = (
    "model.dtype is float32, which GPUs compute without tensor cores: many times slower than bfloat16, in twice the "
    "memory; set model.dtype: bfloat16"
)
DEVICES = Path("/dev")
LISTED_S = 20.0


@dataclass(frozen=True)
class Gpu:
    """One kind: memory in GiB as its driver reports it, dense bfloat16 TFLOP/s, memory bandwidth in TB/s."""

    memory_gib: float
    tflops: float
    bandwidth: float


GPUS = {
    "RTX4090": Gpu(24.0, 165, 1.01),
    "L40S": Gpu(45.0, 362, 0.86),
    "A100-40GB": Gpu(40.0, 312, 1.56),
    "A100": Gpu(80.0, 312, 2.04),
    "H100": Gpu(79.6, 989, 3.35),
    "H200": Gpu(140.4, 989, 4.8),
    "B200": Gpu(179.1, 2250, 8.0),
}


def known_gpu(device_name: str) -> Gpu | None:
    """The kind that a device is of, by the name its driver gives it, such as `NVIDIA H100 80GB HBM3`."""
    name = device_name.replace(" ", "")
    return next((gpu for kind, gpu in GPUS.items() if all(part in name for part in kind.split("-"))), None)


def actors_use_gpus(device: str) -> bool:
    """Whether actors run on GPUs here, by the setting `actors.device`."""
    return device == "cuda" or (device == "auto" and bool(visible_gpus()))


def _gpus_of_windows() -> int:
    """In its subsystem for Linux one device file stands for all of them; the driver's command lists them."""
    command = shutil.which("nvidia-smi")
    if command is None or not (DEVICES / "dxg").exists():
        return 0
    try:
        listed = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=LISTED_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def visible_gpus() -> list[str]:
    """Those of this machine that its processes may use, as CUDA_VISIBLE_DEVICES names them."""
    here = len(list(DEVICES.glob("nvidia[0-9]*"))) or _gpus_of_windows()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not here or allowed is None:
        return [str(number) for number in range(here)]
    return [name for name in map(str.strip, allowed.split(",")) if name and name != "-1"]
