"""One transfer group around its rendezvous: who has come, who is still there, and how any member breaks it off.

Collectives have no way out when a peer dies or stalls. Here every wait on one runs beside a watch, which ends it at a
deadline, when a member breaks the group off, or when the trainer is gone.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch.distributed as dist

T = TypeVar("T")

_BROKEN = "broken"
_IDLE = timedelta(days=7)
_ANSWER_S = 2.0  # a living member notices that the group was broken off, and says so, in milliseconds


class TransferError(RuntimeError):
    """A transfer was broken off, or did not end in time.

    Attributes:
        breaker: the member that broke it off first; None where that is not known.
    """

    def __init__(self, reason: str, breaker: int | None = None) -> None:
        super().__init__(reason)
        self.breaker = breaker


class SilentMembersError(TransferError):
    """A transfer was broken off, and these members do not even take note of that: they are dead or stalled."""

    def __init__(self, ranks: list[int], reason: str) -> None:
        super().__init__(reason)
        self.ranks = ranks


@dataclass(frozen=True)
class Rendezvous:
    """Where and as which member to join a transfer group.

    Attributes:
        master_address: of rank 0, the trainer, which keeps the store that members meet at.
        timeout_s: of each wait.
    """

    master_address: str
    master_port: int
    group_number: int
    rank: int
    world_size: int
    timeout_s: float


class TransferGroup:
    """A member's view of one transfer group, from its arrival until it leaves.

    Args:
        rendezvous: of this member.
        store: the server's end on the trainer; None connects to it.

    Raises:
        TransferError: the store cannot be reached in time.
    """

    def __init__(self, rendezvous: Rendezvous, store: dist.TCPStore | None = None) -> None:
        def connection(store: dist.TCPStore | None = None) -> dist.PrefixStore:
            """One of its own for everybody who waits: a wait keeps its connection to itself."""
            return dist.PrefixStore(f"group{rendezvous.group_number}", store or _connect(rendezvous))

        self.rendezvous = rendezvous
        self.store = connection(store)
        self._control = connection()
        self._over = threading.Event()
        self._reason = ""
        self._breaker: int | None = None
        self._waits: set[Future[Any]] = set()
        self._stops: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, args=(connection(),), name="transfer-watch", daemon=True).start()

    @classmethod
    def open(cls, address: str, group_number: int, world_size: int, timeout_s: float) -> Self:
        """The trainer's: opens the store at a free port, which its `rendezvous` names."""
        store = dist.TCPStore(address, 0, is_master=True, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)
        return cls(Rendezvous(address, store.port, group_number, 0, world_size, timeout_s), store)

    def meet(self) -> None:
        """Returns once all members have come; see `wait_for`."""
        self.store.set(_here(self.rendezvous.rank), "")
        everyone = [_here(rank) for rank in range(self.rendezvous.world_size)]
        self.run(lambda: self.store.wait(everyone, timedelta(seconds=2 * self.rendezvous.timeout_s)))  # ended before

    def start(self, work: Callable[[], T]) -> "Future[T]":
        """Begins work that waits for other members, in a thread of its own. An error there ends the group for all.

        Work is not begun in a group that has ended.
        """
        outcome: Future[T] = Future()

        def carry_out() -> None:
            try:
                if self._over.is_set():
                    raise self._error()
                _finalize(outcome, work())
            except Exception as error:
                _fail(outcome, error)
                self.break_off(str(error))

        threading.Thread(target=carry_out, name="transfer", daemon=True).start()
        return outcome

    def wait_for(self, outcome: "Future[T]") -> T:
        """The result of work that was started. At the deadline the group ends for all, and the work is left behind.

        Raises:
            TransferError: the group has ended.
            Exception: what the work raised.
        """
        with self._lock:
            if self._over.is_set():
                _fail(outcome, self._error())
            self._waits.add(outcome)
        try:
            return outcome.result(self.rendezvous.timeout_s)
        except TimeoutError as error:
            reason = f"not done within {self.rendezvous.timeout_s:.0f} s"
            self.break_off(reason)
            raise TransferError(reason) from error
        finally:
            with self._lock:
                self._waits.discard(outcome)

    def run(self, work: Callable[[], T]) -> T:
        """`start` and `wait_for`."""
        return self.wait_for(self.start(work))

    def on_end(self, stop: Callable[[], object]) -> None:
        """Has `stop` called, once, when the group ends: it ends what cannot be left behind (see `bounded`).

        Where the group has ended already, that is now.
        """
        with self._lock:
            if not self._over.is_set():
                self._stops.append(stop)
                return
        stop()

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Ends the group at the deadline, for work within that waits in this thread and is ended by `on_end`.

        Raises:
            TransferError: the group has ended, before or meanwhile.
        """
        if self._over.is_set():
            raise self._error()
        timeout_s = self.rendezvous.timeout_s
        deadline = threading.Timer(timeout_s, self.break_off, [f"not done within {timeout_s:.0f} s"])
        deadline.daemon = True
        deadline.start()
        try:
            yield
        finally:
            deadline.cancel()
        if self._over.is_set():
            raise self._error()

    def break_off(self, reason: str) -> None:
        """Ends the group for all members; the first reason given is the one they hear."""
        rank = self.rendezvous.rank
        self._end(reason, rank)

        def tell() -> None:
            with suppress(dist.DistError, RuntimeError):
                self._control.compare_set(_BROKEN, "", f"{rank} {reason}")

        threading.Thread(target=tell, name="transfer-end", daemon=True).start()  # a stopped trainer does not answer

    @contextmanager
    def naming_silent_members(self) -> Iterator[None]:
        """Has an error within end the group, and be a `SilentMembersError` where some member does not take note."""
        try:
            yield
        except Exception as error:
            self.break_off(str(error))
            if silent := self._silent():
                raise SilentMembersError(silent, str(error)) from error
            raise

    def close(self) -> None:
        """Leaves, which ends the group for all members."""
        self.break_off("the trainer has left" if self.rendezvous.rank == 0 else f"rank {self.rendezvous.rank} has left")

    def _silent(self) -> list[int]:
        others = [rank for rank in range(self.rendezvous.world_size) if rank != self.rendezvous.rank]
        with suppress(dist.DistError, RuntimeError):
            self.store.wait([_left(rank) for rank in others], timedelta(seconds=_ANSWER_S))
        return [rank for rank in others if not self._control.check([_left(rank)])]

    def _watch(self, store: dist.PrefixStore) -> None:
        """Waits until the group is broken off, or the trainer's end of the store is gone."""
        try:
            store.wait([_BROKEN], _IDLE)
            breaker, _, reason = store.get(_BROKEN).decode().partition(" ")
            store.set(_left(self.rendezvous.rank), "")
        except (dist.DistError, RuntimeError):
            breaker, reason = "0", "the trainer is gone"
        self._end(reason, int(breaker))

    def _error(self) -> TransferError:
        return TransferError(self._reason, self._breaker)

    def _end(self, reason: str, breaker: int) -> None:
        with self._lock:
            if not self._over.is_set():
                self._reason, self._breaker = reason, breaker
                self._over.set()
            for outcome in self._waits:
                _fail(outcome, self._error())
            stops, self._stops = self._stops, []
        for stop in stops:
            stop()


def _connect(rendezvous: Rendezvous) -> dist.TCPStore:
    try:
        return dist.TCPStore(
            rendezvous.master_address,
            rendezvous.master_port,
            is_master=False,
            timeout=timedelta(seconds=rendezvous.timeout_s),
        )
    except (dist.DistError, RuntimeError) as error:
        raise TransferError(
            f"no trainer at {rendezvous.master_address}:{rendezvous.master_port} within {rendezvous.timeout_s:.0f} s"
        ) from error


def _finalize(outcome: "Future[T]", result: T) -> None:
    with suppress(InvalidStateError):  # the watch was first
        outcome.set_result(result)


def _fail(outcome: Future[Any], error: Exception) -> None:
    with suppress(InvalidStateError):  # it was set before: by the watch, or by the work
        outcome.set_exception(error)


def _here(rank: int) -> str:
    return f"here/{rank}"


def _left(rank: int) -> str:
    return f"left/{rank}"
