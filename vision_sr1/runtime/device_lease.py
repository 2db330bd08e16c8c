"""Turns on a device that learner and actors share: a lock on a file, which ends with the process that holds it.

Actors hold the lock in common while weights and cache are on the device; a learner's rank holds it alone while it
learns. The file is in the run's folder, which learner and actors share whether or not they are in containers.
"""

import fcntl
import os
import time
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()

POLL_S = 0.05
NAME_AFTER_S = 30.0  # and again after as long
STARTED = "-started"  # behind a device's name: the lease of those whose start is over, which they keep


class DeviceHeldError(RuntimeError):
    """Another process did not give the device back in time."""


class DeviceLease:
    """One process's turn on one device.

    Args:
        folder: of the locks of a run; made where it is missing.
        device: by the same name for every process on it; see `device_name`.
    """

    def __init__(self, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._device = device
        self._path = folder / f"{device}.lock"
        self._file: int | None = None

    def try_acquire(self, *, alone: bool) -> bool:
        """Takes the turn where no other process is in its way; whether it has it now.

        Args:
            alone: no other may hold it too.
        """
        if self._file is not None:
            return True
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        return True

    def acquire(self, timeout_s: float, *, alone: bool) -> None:
        """Waits for the turn.

        Raises:
            DeviceHeldError: it did not come in time.
        """
        wait = LeaseWait(self, timeout_s)
        while not self.try_acquire(alone=alone):
            if wait.is_over():
                raise wait.error()
            time.sleep(POLL_S)

    def release(self) -> None:
        """Gives the turn to others; does nothing where this process does not have it."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def described(self) -> str:
        """The device and the processes that hold it, as far as they can be seen from here."""
        holders = ", ".join(f"process {pid} ({_command(pid)})" for pid in self.holders())
        return f"{self._device}, held by {holders or 'a process that cannot be seen from here'}"

    def holders(self) -> list[int]:
        """Ids of the processes that hold it, as far as they can be seen from here."""
        if not self._path.exists():  # nobody has had it yet
            return []
        inode = self._path.stat().st_ino
        locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
        return [
            int(lock[4]) for lock in locks if lock[1] == "FLOCK" and lock[5].endswith(f":{inode}") and lock[4] != "0"
        ]


class LeaseWait:
    """How long a lease is waited for; every NAME_AFTER_S it logs what for."""

    def __init__(self, lease: DeviceLease, timeout_s: float) -> None:
        self._lease = lease
        self._timeout_s = timeout_s
        self._started = self._named = time.monotonic()

    def is_over(self) -> bool:
        """Whether the time is up."""
        now = time.monotonic()
        if now - self._named > NAME_AFTER_S:
            self._named = now
            log.info(
                "device_waited_for",
                message="Waiting for the device, which other processes hold",
                device=self._lease.described(),
                waited_s=round(now - self._started),
                timeout_s=self._timeout_s,
            )
        return now - self._started > self._timeout_s

    def error(self) -> DeviceHeldError:
        """That the time is up."""
        return DeviceHeldError(
            f"the device was not given back in {self._timeout_s:.0f} s: {self._lease.described()}. End that process, "
            "or set actors.placement: own and give actors devices of their own"
        )


def device_name(device: Any) -> str:
    """The same for all processes on a device, in containers too: its UUID, or the machine's boot id for its CPUs.

    Args:
        device: a `torch.device`.
    """
    if device.type == "cpu":
        return f"cpu-{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    import torch

    return f"gpu-{torch.cuda.get_device_properties(device).uuid}"


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "ended"
    return b" ".join(words[:4]).decode(errors="replace").strip()
