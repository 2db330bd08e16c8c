"""Copies between the host and a GPU use pinned memory and do not wait (tensors without data, as there is no GPU)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from vision_sr1.runtime.host_memory import empty_on_host, to_device
from vision_sr1.weights.buckets import Packer, Part
from vision_sr1.weights.delta import SentWeights

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
Event = tuple[str, bool]


class Copies(TorchDispatchMode):
    """Notes copies between the host and the GPU, and whether they are without waiting."""

    def __init__(self, events: list[Event]) -> None:
        super().__init__()
        self._events = events

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.copy_.default and args[0].device != args[1].device:
            self._events.append(("copy", kwargs.get("non_blocking", args[2] if len(args) > 2 else False)))
        if func is torch.ops.aten._to_copy.default and kwargs.get("device", args[0].device) != args[0].device:
            self._events.append(("copy", kwargs.get("non_blocking", False)))
        return func(*args, **kwargs)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What happens: host memory that is allocated (whether pinned), copies (whether without waiting), and waits."""
    noted: list[Event] = []
    empty = torch.empty

    def noting(*size: Any, **options: Any) -> Tensor:
        if "pin_memory" in options:
            noted.append(("memory", options["pin_memory"]))
        return empty(*size, **options)

    monkeypatch.setattr(torch, "empty", noting)

    def waiting(device: torch.device) -> None:
        noted.append(("wait", is_gpu(device)))

    for module in ("buckets", "delta"):
        monkeypatch.setattr(f"vision_sr1.weights.{module}.wait_for_copies", waiting)
    return noted


def is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


@contextmanager
def without_data(events: list[Event]) -> Iterator[None]:
    with FakeTensorMode(), Copies(events):
        yield


def test_what_is_copied_to_a_gpu_is_pinned_once(monkeypatch: pytest.MonkeyPatch):
    pinned: list[Tensor] = []

    def pin_memory(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    events: list[Event] = []
    with without_data(events):
        there = to_device(torch.zeros(3), GPU)
        assert there.device == GPU
        assert to_device(there, GPU) is there
    here = torch.zeros(3)
    assert to_device(here, CPU) is here
    assert len(pinned) == 1
    assert events == [("copy", True)]


def test_what_is_large_goes_in_pieces_that_are_pinned_once_and_used_again(monkeypatch: pytest.MonkeyPatch):
    pinned: list[int] = []

    def pin_memory(tensor: Tensor) -> Tensor:
        pinned.append(tensor.nbytes)
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    events: list[Event] = []
    with without_data(events):
        there = to_device(torch.zeros(2**20, 40).t(), GPU)
    assert (there.device, there.shape) == (GPU, (40, 2**20))
    assert pinned == [64 * 2**20, 64 * 2**20, 32 * 2**20]
    assert events == [("copy", True)] * 3


@pytest.mark.parametrize("device", [GPU, CPU])
def test_a_bucket_has_arrived_when_it_is_sent(device: torch.device, events: list[Event]):
    names = ["a", "b", "c"]
    with without_data(events):
        weights = {name: torch.zeros(8, device=device) for name in names}
        events.clear()
        for parts, _ in Packer(64, device).pack((Part(name, w.dtype, (8,)), w) for name, w in weights.items()):
            events.append((f"sent {[part.name for part in parts]}", True))
    memory, wait = ("memory", is_gpu(device)), ("wait", is_gpu(device))
    copies = [("copy", True)] if is_gpu(device) else []
    first = [memory, *copies, *copies, wait, ("sent ['a', 'b']", True)]
    assert events == [*first, memory, *copies, wait, ("sent ['c']", True)]


def test_what_was_sent_is_remembered_in_pinned_memory(events: list[Event]):
    sent = SentWeights()
    with without_data(events):
        weights = {name: torch.zeros(8, device=GPU) for name in ("a", "b")}
        events.clear()
        for part, held in sent.remember(weights.items()):
            assert held.device == CPU
            events.append((f"sent {part.name}", True))
        of_one = [("memory", True), ("copy", True), ("wait", True)]
        assert events == [*of_one, ("sent a", True), *of_one, ("sent b", True)]
        events.clear()
        for _ in sent.remember(weights.items()):
            pass
        assert events == [("copy", True), ("wait", True)] * 2, "the memory of the version before"


def test_memory_that_a_cpu_gives_back_is_not_pinned(events: list[Event]):
    assert not empty_on_host((4,), torch.uint8, CPU).is_pinned()
    assert events == [("memory", False)]
