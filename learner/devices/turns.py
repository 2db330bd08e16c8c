"""Who uses this run's devices when, where actors and learner share them (`actors.placement: shared`).

The learner has them while it learns: actors are told to sleep, and the lease of each device says that they do. Actors
have them while they answer: the learner gives back what it can, and the weights that it then sends wake them.

Whoever dies gives its devices back, since leases end with their process. An actor that starts waits for the learner's
turn to end, and sleeps until weights come. A learner that starts takes its turn before it loads anything. An actor that
neither sleeps nor ends is killed.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import structlog
import torch
import torch.distributed as dist

from learner.connection.fleet_view import LearnerFleet
from learner.devices.offload import Offload
from learner.distributed.rank_collectives import all_ranks, any_rank, main_rank
from learner.distributed.ranks import is_first_of_node, is_main
from learner.distributed.state_shards import Shard
from learner.stop_request import StoppedError
from vision_sr1.config import Config, TlsConfig
from vision_sr1.run_folder.names import DEVICES
from vision_sr1.runtime.device_lease import POLL_S, STARTED, DeviceHeldError, DeviceLease, LeaseWait, device_name
from vision_sr1.v1 import actor_pb2
from vision_sr1.v1.pipeline_pb2 import ActorInfo
from vision_sr1.weights.fleet_client import failures

log = structlog.get_logger()

ACTOR_START_S = 1800.0  # to load weights, compile and capture graphs; until then an actor has the device


class Turns(Protocol):
    """Turns of learner and actors. Every rank calls its methods."""

    def take(self) -> None:
        """Begins the learner's turn.

        Raises:
            DeviceHeldError: an actor did not give its device back in time.
            StoppedError: the learner was asked to stop meanwhile.
        """

    def give(self) -> None:
        """Ends it."""

    def offloads(self, memory: Offload) -> None:
        """What is to be given back between turns."""

    def shards(self) -> Iterable[Shard] | None:
        """The rank's part of a checkpoint, wherever it is now; None: where the engine has it."""

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """A parameter of the reference, wherever it is now."""

    def scalars(self) -> dict[str, float]:
        """How long the batch waited for devices and memory."""


class OwnDevices:
    """Nothing is shared: it is always everyone's turn."""

    def take(self) -> None:
        """See `Turns`."""

    def give(self) -> None:
        """See `Turns`."""

    def offloads(self, memory: Offload) -> None:
        """See `Turns`."""

    def shards(self) -> None:
        """See `Turns`."""

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """See `Turns`."""
        return tensor

    def scalars(self) -> dict[str, float]:
        """See `Turns`."""
        return {}


class SharedDevices:
    """Ranks and actors take turns."""

    def __init__(
        self, config: Config, fleet: LearnerFleet, device: torch.device, is_stopping: Callable[[], bool]
    ) -> None:
        self._timeout_s = config.learner.weights.sync_timeout_s
        self._tls = config.tls
        self._fleet = fleet
        self._is_stopping = is_stopping
        # All ranks of a machine without GPUs are on one device: its first rank speaks for them.
        has_lease = device.type == "cuda" or is_first_of_node()
        folder, name = config.services_path / DEVICES, device_name(device)
        self._lease = DeviceLease(folder, name) if has_lease else None
        self._started = DeviceLease(folder, name + STARTED)
        self._memory: Offload | None = None
        self._seconds = 0.0

    def take(self) -> None:
        """See `Turns`."""
        started = time.monotonic()
        silent = put_to_sleep(self._fleet.announced(), self._timeout_s, self._tls) if is_main() else []
        # One that hangs for long is announced no more; one that starts holds the device for as long as it must.
        if main_rank(len(silent)) or any_rank(bool(self._hung())):
            try:
                self._acquire(self._timeout_s)
            except DeviceHeldError as error:
                self._end_holders(error)
                self._acquire(ACTOR_START_S)
        else:
            self._acquire(ACTOR_START_S)
        if self._memory is not None:
            self._memory.restore()
        self._seconds = time.monotonic() - started
        if is_main():
            log.info(
                "devices_taken",
                message="The actors sleep; the learner uses the devices",
                seconds=round(self._seconds, 3),
                silent=silent,
            )

    def give(self) -> None:
        """See `Turns`."""
        started = time.monotonic()
        if self._memory is not None:
            self._memory.release()
        if self._lease is not None:
            self._lease.release()
        all_ranks(True)  # returns once all have given theirs
        seconds = time.monotonic() - started
        self._seconds += seconds
        if is_main():
            log.info(
                "devices_given",
                message="The learner has given the devices to the actors",
                seconds=round(seconds, 3),
                bytes=self._memory.bytes if self._memory is not None else 0,
            )

    def offloads(self, memory: Offload) -> None:
        """See `Turns`."""
        self._memory = memory

    def shards(self) -> Iterable[Shard] | None:
        """See `Turns`."""
        return None if self._memory is None else self._memory.shards()

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """See `Turns`."""
        return tensor if self._memory is None else self._memory.read(tensor)

    def scalars(self) -> dict[str, float]:
        """See `Turns`."""
        return {"seconds/devices": self._seconds}

    def _acquire(self, timeout_s: float) -> None:
        """All ranks' leases or none: an actor on several devices may hold one and wait for another."""
        wait = None if self._lease is None else LeaseWait(self._lease, timeout_s)
        while True:
            has = self._lease is None or self._lease.try_acquire(alone=True)
            state = torch.tensor([not has, self._is_stopping(), not has and wait is not None and wait.is_over()]).int()
            dist.all_reduce(state, dist.ReduceOp.MAX)
            if not state[0]:
                return
            if self._lease is not None:
                self._lease.release()
            if state[1]:
                raise StoppedError
            if state[2]:
                raise wait.error() if wait is not None and not has else DeviceHeldError("see the other ranks' logs")
            time.sleep(POLL_S)

    def _holders(self) -> set[int]:
        """Processes that hold this rank's device."""
        return set() if self._lease is None else set(self._lease.holders())

    def _hung(self) -> set[int]:
        """Those of them whose start is over, so that they should sleep by now."""
        return self._holders() & set(self._started.holders())

    def _end_holders(self, why: DeviceHeldError) -> None:
        """Ends the processes that hold this rank's device although they have started, or were told to sleep."""
        for pid in self._hung() or self._holders():
            log.error(
                "device_holder_ended",
                message="An actor did not sleep in time; its process is killed to free the device",
                pid=pid,
                error=str(why),
            )
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def put_to_sleep(actors: list[ActorInfo], timeout_s: float, tls: TlsConfig) -> list[str]:
    """Has all actors give their devices back; returns those that did not say that they have."""
    silent = failures(actors, "Sleep", actor_pb2.SleepRequest(), timeout_s, tls)
    if silent:
        log.error("actors_awake", message="Actors did not give their devices back", actors=silent)
    return sorted(silent)
