"""Which GPUs are here."""

from pathlib import Path

import pytest

from vision_sr1.runtime import gpus


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def test_those_that_the_environment_allows(devices: Path, monkeypatch: pytest.MonkeyPatch):
    assert gpus.visible_gpus() == []
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl"):
        (devices / name).touch()
    assert gpus.visible_gpus() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abc")
    assert gpus.visible_gpus() == ["2", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpus.visible_gpus() == []


@pytest.mark.parametrize(("status", "found"), [(0, ["0", "1"]), (9, [])])
def test_in_windows_subsystem_the_driver_lists_them(
    devices: Path, monkeypatch: pytest.MonkeyPatch, status: int, found: list[str]
):
    command = devices / "nvidia-smi"
    command.write_text(f"#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho 'GPU 1: A (UUID: y)'\nexit {status}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{devices}:/usr/bin:/bin")
    assert gpus.visible_gpus() == []  # no device of its own, as in a container without GPUs
    (devices / "dxg").touch()
    assert gpus.visible_gpus() == found
