"""Turns on a device between processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vision_sr1.runtime.device_lease import DeviceHeldError, DeviceLease, device_name

HOLD = """
import sys
from pathlib import Path
from vision_sr1.runtime.device_lease import DeviceLease
DeviceLease(Path(sys.argv[1]), "card").acquire(5.0, alone=False) or print("held", flush=True)
sys.stdin.read()
"""


def test_actors_hold_a_device_in_common_and_a_learner_alone(tmp_path: Path):
    learner, *actors = (DeviceLease(tmp_path, "card") for _ in range(3))
    assert all(actor.try_acquire(alone=False) for actor in actors)
    assert not learner.try_acquire(alone=True)
    for actor in actors:
        actor.release()
    assert learner.try_acquire(alone=True)
    assert learner.try_acquire(alone=True), "it has it already"
    assert not actors[0].try_acquire(alone=False)
    assert DeviceLease(tmp_path, "another").try_acquire(alone=True)
    learner.release()
    assert actors[0].try_acquire(alone=False)


def test_who_holds_a_device_too_long_is_named_and_gives_it_back_by_its_end(tmp_path: Path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        lease = DeviceLease(tmp_path, "card")
        assert lease.holders() == [holder.pid]
        named = rf"not given back in 0 s: card, held by process {holder.pid} \(\S*python"
        with pytest.raises(DeviceHeldError, match=named):
            lease.acquire(0.1, alone=True)
        holder.kill()
    lease.acquire(0.1, alone=True)
    assert not DeviceLease(tmp_path, "card").try_acquire(alone=False)


def test_a_machine_without_gpus_is_one_device():
    name = device_name(torch.device("cpu"))
    assert name == device_name(torch.device("cpu", 0))
    assert name.startswith("cpu-")
