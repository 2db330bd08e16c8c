"""No member of a transfer group waits longer than it has to, whatever happens to the others."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

import pytest

from vision_sr1.weights.transfer_group import Rendezvous, SilentMembersError, TransferError, TransferGroup

pytestmark = pytest.mark.slow

TIMEOUT_S = 60.0
NEVER_S = 3600.0
spawn = multiprocessing.get_context("spawn")


def member(rank: int, world_size: int, port: int, met: Event, over: Event) -> None:
    """Meets the others and then waits for something that never comes."""
    transfer_group = TransferGroup(Rendezvous("127.0.0.1", port, 1, rank, world_size, TIMEOUT_S))
    transfer_group.meet()
    met.set()
    with pytest.raises(TransferError):
        transfer_group.run(lambda: time.sleep(NEVER_S))
    over.set()
    time.sleep(NEVER_S)


class Members:
    """Two members in processes of their own."""

    def __init__(self, port: int) -> None:
        self.met = [spawn.Event() for _ in range(2)]
        self.over = [spawn.Event() for _ in range(2)]
        self.processes: list[BaseProcess] = [
            spawn.Process(target=member, args=(rank + 1, 3, port, self.met[rank], self.over[rank]), daemon=True)
            for rank in range(2)
        ]
        for process in self.processes:
            process.start()

    def signal(self, index: int, number: signal.Signals) -> None:
        pid = self.processes[index].pid
        assert pid is not None
        os.kill(pid, number)


@pytest.fixture
def trainer() -> Iterator[TransferGroup]:
    transfer_group = TransferGroup.open("127.0.0.1", 1, 3, TIMEOUT_S)
    yield transfer_group
    transfer_group.close()


def test_what_comes_up_after_the_end_is_ended_at_once():
    """As a communicator that took longer than its group."""
    transfer_group = TransferGroup.open("127.0.0.1", 1, 1, TIMEOUT_S)
    ended = []
    transfer_group.on_end(lambda: ended.append("in time"))
    transfer_group.break_off("no more")
    transfer_group.on_end(lambda: ended.append("late"))
    assert ended == ["in time", "late"]
    with pytest.raises(TransferError, match="no more"), transfer_group.bounded():
        pytest.fail("nothing begins in a group that has ended")


@pytest.fixture
def members(trainer: TransferGroup) -> Iterator[Members]:
    members = Members(trainer.rendezvous.master_port)
    trainer.meet()
    assert all(event.wait(TIMEOUT_S) for event in members.met)
    yield members
    for process in members.processes:
        process.kill()


def test_what_the_trainer_breaks_off_is_over_for_all(trainer: TransferGroup, members: Members):
    with pytest.raises(ValueError, match="no more"), trainer.naming_silent_members():
        raise ValueError("no more")
    assert all(event.wait(TIMEOUT_S / 2) for event in members.over)
    with pytest.raises(TransferError, match="no more"):
        trainer.run(lambda: time.sleep(NEVER_S))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_stalled_member_is_named(trainer: TransferGroup, members: Members, number: signal.Signals):
    members.signal(1, number)
    with pytest.raises(SilentMembersError, match="it hangs") as caught, trainer.naming_silent_members():
        raise RuntimeError("it hangs")
    assert caught.value.ranks == [2]
    assert members.over[0].wait(TIMEOUT_S / 2)


def test_an_error_in_one_members_work_ends_the_transfer_group_for_all(trainer: TransferGroup, members: Members):
    def fails() -> None:
        raise OSError("the network is gone")

    waiting = trainer.start(lambda: time.sleep(NEVER_S))
    with pytest.raises(OSError, match="the network is gone"):
        trainer.run(fails)
    with pytest.raises(TransferError, match="the network is gone"):
        trainer.wait_for(waiting)
    assert all(event.wait(TIMEOUT_S / 2) for event in members.over)


def test_who_broke_it_off_is_known(trainer: TransferGroup):
    rendezvous = trainer.rendezvous
    one, other = (
        TransferGroup(Rendezvous("127.0.0.1", rendezvous.master_port, rendezvous.group_number, rank, 3, TIMEOUT_S))
        for rank in (1, 2)
    )
    waiting = trainer.start(lambda: time.sleep(NEVER_S))
    other.break_off("no communicator")
    with pytest.raises(TransferError, match="no communicator") as caught:
        trainer.wait_for(waiting)
    assert caught.value.breaker == 2
    with pytest.raises(TransferError, match="no communicator") as caught:
        one.run(lambda: time.sleep(NEVER_S))
    assert caught.value.breaker == 2
    one.close()
    with pytest.raises(TransferError) as caught:  # leaving is no cause
        trainer.run(lambda: None)
    assert caught.value.breaker == 2


def test_the_trainer_is_known_to_have_broken_it_off(trainer: TransferGroup):
    trainer.break_off("out of memory")
    with pytest.raises(TransferError) as caught:
        trainer.run(lambda: None)
    assert caught.value.breaker == 0


def test_members_notice_that_the_trainer_is_gone():
    port, close = spawn.Value("i"), spawn.Event()
    trainer = spawn.Process(target=short_lived_trainer, args=(port, close))
    trainer.start()
    deadline = time.monotonic() + TIMEOUT_S
    while not port.value and time.monotonic() < deadline:
        time.sleep(0.05)
    members = Members(port.value)
    assert all(event.wait(TIMEOUT_S) for event in members.met)
    trainer.kill()
    assert all(event.wait(TIMEOUT_S / 2) for event in members.over)
    for process in members.processes:
        process.kill()


def short_lived_trainer(port: "multiprocessing.sharedctypes.Synchronized[int]", close: Event) -> None:
    transfer_group = TransferGroup.open("127.0.0.1", 1, 3, TIMEOUT_S)
    port.value = transfer_group.rendezvous.master_port
    transfer_group.meet()
    close.wait(NEVER_S)


def test_who_does_not_come_is_named_and_the_wait_has_an_end():
    transfer_group = TransferGroup.open("127.0.0.1", 1, 2, 1.0)
    with (
        pytest.raises(SilentMembersError, match="not done within 1 s") as caught,
        transfer_group.naming_silent_members(),
    ):
        transfer_group.meet()
    assert caught.value.ranks == [1]
    with pytest.raises(TransferError, match="no trainer at 127.0.0.1:1 within 1 s"):
        TransferGroup(Rendezvous("127.0.0.1", 1, 1, 1, 2, 1.0))
