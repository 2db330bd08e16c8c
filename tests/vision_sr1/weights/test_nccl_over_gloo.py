"""The stand-in for NCCL has the calls of the real one, and its way with members that do not come."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch
from vllm.distributed.device_communicators import pynccl_wrapper
from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator

from tests.system import nccl_over_gloo
from tests.system.nccl_over_gloo import REPLACED
from vision_sr1.weights import nccl_sender

pytestmark = pytest.mark.slow

WAIT_S = 60.0


# In a new process: modules of vLLM's for CPUs replace parts of torch when they are imported.
COMPARE = """
import importlib, inspect, torch
torch_itself = {module.__name__: dict(vars(module)) for module in (torch.accelerator, torch.cuda)}
from tests.system.nccl_over_gloo import REPLACED

def parameters(call):
    return [(p.name, p.kind, p.default) for p in inspect.signature(call).parameters.values()]

for (module, name), stand_in in REPLACED.items():
    real = torch_itself[module][name] if module in torch_itself else getattr(importlib.import_module(module), name)
    methods = vars(stand_in) if inspect.isclass(stand_in) else {}
    pairs = [(name, stand_in, real)]
    pairs += [(f"{name}.{n}", m, getattr(real, n)) for n, m in methods.items() if callable(m) and not n.startswith("_")]
    for called, ours, theirs in pairs:
        assert ours is not theirs, called
        assert parameters(ours) == parameters(theirs), called
        print(called)
"""


def test_what_is_replaced_has_the_signature_of_the_real_one():
    command = ["env", sys.executable, "-c", COMPARE]  # by `env`: a forked one would have imported vLLM
    compared = subprocess.run(command, capture_output=True, text=True, check=False)
    assert compared.returncode == 0, compared.stderr
    names = compared.stdout.split()
    assert {name for _, name in REPLACED} <= set(names)
    assert "NCCLLibrary.ncclBroadcast" in names


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[PyNcclCommunicator, PyNcclCommunicator]]:
    """vLLM's communicators of two members, in threads of this process."""
    nccl_over_gloo.install(monkeypatch.setattr)
    unique_id = bytes(pynccl_wrapper.NCCLLibrary().ncclGetUniqueId().internal)
    device = torch.accelerator.current_device_index()
    with ThreadPoolExecutor(2) as pool:
        joining = [pool.submit(PyNcclCommunicator.from_unique_id_bytes, unique_id, rank, 2, device) for rank in (0, 1)]
        first, second = (joined.result(WAIT_S) for joined in joining)
        yield first, second
        first.destroy()
        second.destroy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.uint8])
def test_a_broadcast_brings_the_bytes(pair: tuple[PyNcclCommunicator, PyNcclCommunicator], dtype: torch.dtype):
    sent, received = torch.arange(7).to(dtype), torch.zeros(7, dtype=dtype)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(c.broadcast, t, 0) for c, t in zip(pair, (sent, received), strict=True)]
        for done in both:
            done.result(WAIT_S)
    assert torch.equal(received, sent)


def test_a_broadcast_without_its_sender_goes_on_until_it_is_aborted(
    pair: tuple[PyNcclCommunicator, PyNcclCommunicator],
):
    _, receiver = pair
    received = torch.zeros(7)
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[None] = pool.submit(receiver.broadcast, received, 0)
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        receiver.destroy()
        waiting.result(WAIT_S)
    assert received.tolist() == [0.0] * 7


class NotedStream:
    """A CUDA stream that notes which others it waits for."""

    def __init__(self) -> None:
        self.waited_for: list[NotedStream] = []

    def wait_stream(self, stream: "NotedStream") -> None:
        self.waited_for.append(stream)


def test_a_stream_waits_for_the_one_that_gathered_what_it_sends(monkeypatch: pytest.MonkeyPatch):
    first, second = NotedStream(), NotedStream()
    current = [first]
    monkeypatch.setattr(nccl_sender, "current_stream", lambda: current[-1])
    gathered = [(name, torch.zeros(1)) for name in "abcd"]
    weights = iter(nccl_sender._Once([], iter(gathered)))
    taken = []
    for stream in (first, first, second, first):
        current.append(stream)
        taken.append(next(weights))
    assert [name for name, _ in taken] == ["a", "b", "c", "d"]
    assert next(weights, None) is None
    assert (second.waited_for, first.waited_for) == ([first], [second])
