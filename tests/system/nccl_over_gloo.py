"""NCCL over gloo, for vLLM's engines and ours on a machine without GPUs: only the library and the device are replaced.

vLLM's PyNcclCommunicator, its packed transfer and its layerwise reload run as they are. `NcclOverGloo` takes the place
of the wrapper around libnccl, and has its way with absent members: a collective whose member is dead or stalled goes
on for ever, whatever gloo says, until the communicator is aborted; then it ends without an error, and leaves what was
to be received as it happens to be. Streams are those of CPUs, on which everything is done when a call returns.

`install` replaces what REPLACED names, in this process; processes whose environment has SWITCH do so by themselves
(`tests.shape_checks.sitecustomize`).
"""

# ruff: noqa: N802, ARG002 - names and parameters are those of the calls that are replaced

import ctypes
import importlib
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from vllm.distributed.device_communicators.pynccl_wrapper import (
    NCCL_UNIQUE_ID_BYTES,
    NCCLLibrary,
    buffer_type,
    cudaStream_t,
    ncclComm_t,
    ncclDataTypeEnum,
    ncclUniqueId,
)

SWITCH = {"VISION_SR1_TESTS_NCCL_OVER_GLOO": "1"}
NEVER = timedelta(days=1)
HOST = "127.0.0.1"
NCCL_VERSION = 22907


class Communicator:
    """A member's end of one communicator."""

    def __init__(self, port: int, rank: int, world_size: int) -> None:
        store = dist.TCPStore(HOST, port, is_master=False, timeout=NEVER)
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # torch's stub calls it Options
        options._timeout = NEVER
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=HOST)]
        self._group: Any = dist.ProcessGroupGloo(store, rank, world_size, options)
        self._rank = rank
        self._out: set[Future[bool]] = set()
        self._is_aborted = False
        self._lock = threading.Lock()

    def all_reduce(self, data: Tensor) -> None:
        """Sums, in place."""
        self._carry_out(lambda staged: self._group.allreduce([staged]).wait(), data)

    def broadcast(self, data: Tensor, root: int) -> None:
        """In place."""
        options = dist.BroadcastOptions()
        options.rootRank = root
        self._carry_out(lambda staged: self._group.broadcast([staged], options).wait(), data)

    def abort(self) -> None:
        """Ends what is under way, and all that comes."""
        with self._lock:
            self._is_aborted = True
            for outcome in self._out:
                _set(outcome, value=False)

    def _carry_out(self, collective: Callable[[Tensor], object], data: Tensor) -> None:
        """Returns when the collective has, or was aborted: that one may still write, but not to memory of others."""
        staged = data.clone()
        outcome: Future[bool] = Future()
        with self._lock:
            if self._is_aborted:
                return
            self._out.add(outcome)

        def run() -> None:
            with suppress(RuntimeError):  # a member is gone: NCCL does not take note of that
                collective(staged)
                _set(outcome, value=True)

        threading.Thread(target=run, daemon=True).start()
        if outcome.result():
            data.copy_(staged)
        self._out.discard(outcome)


class NcclOverGloo(NCCLLibrary):
    """In place of the wrapper around libnccl."""

    _stores: ClassVar[list[dist.TCPStore]] = []  # as long as NCCL's own: until the process that made an id ends
    _communicators: ClassVar[dict[int, Communicator]] = {}
    _handles = itertools.count(1)

    def __init__(self, so_file: str | None = None) -> None: ...

    def ncclGetRawVersion(self) -> int:
        return NCCL_VERSION

    def ncclGetUniqueId(self) -> ncclUniqueId:
        store = dist.TCPStore(HOST, 0, is_master=True, timeout=NEVER, wait_for_workers=False)
        self._stores.append(store)
        return self.unique_id_from_bytes(str(store.port).encode().ljust(NCCL_UNIQUE_ID_BYTES))

    def ncclCommInitRank(self, world_size: int, unique_id: ncclUniqueId, rank: int) -> ncclComm_t:
        handle = next(self._handles)
        self._communicators[handle] = Communicator(int(bytes(unique_id.internal)), rank, world_size)
        return ncclComm_t(handle)

    def ncclAllReduce(
        self,
        sendbuff: buffer_type,
        recvbuff: buffer_type,
        count: int,
        datatype: int,
        op: int,
        comm: ncclComm_t,
        stream: cudaStream_t,
    ) -> None:
        received = _at(recvbuff, count, datatype)
        received.copy_(_at(sendbuff, count, datatype))
        self._of(comm).all_reduce(received)

    def ncclBroadcast(
        self,
        sendbuff: buffer_type,
        recvbuff: buffer_type,
        count: int,
        datatype: int,
        root: int,
        comm: ncclComm_t,
        stream: cudaStream_t,
    ) -> None:
        self._of(comm).broadcast(_at(recvbuff, count, datatype), root)

    def ncclCommAbort(self, comm: ncclComm_t) -> None:
        self._of(comm).abort()

    def _of(self, comm: ncclComm_t) -> Communicator:
        assert comm.value is not None
        return self._communicators[comm.value]


def current_device_index() -> Any:
    """What PyNcclCommunicator makes a device of."""
    return "cpu"


def device_index(device: Any, /) -> AbstractContextManager[None]:
    return nullcontext()


def synchronize(device: Any = None, /) -> None: ...


class Stream:
    """All is done when a call returns."""

    cuda_stream = 0

    def __init__(self, device: Any = None, priority: int = 0, **kwargs: Any) -> None: ...

    def synchronize(self) -> None: ...

    def wait_stream(self, stream: "Stream") -> None: ...


def stream(stream: Any) -> AbstractContextManager[None]:
    return nullcontext()


def current_stream() -> Stream:
    return Stream()


def dispatch_cpu_unquantized_gemm(layer: torch.nn.Module, remove_weight: bool) -> None:
    """Weights stay where they are, as on GPUs, in place of a form that CPUs' matrix kernels like better."""
    layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]  # as vLLM itself does


_PYNCCL = "vllm.distributed.device_communicators.pynccl"
REPLACED: dict[tuple[str, str], Any] = {
    (f"{_PYNCCL}_wrapper", "NCCLLibrary"): NcclOverGloo,
    (_PYNCCL, "NCCLLibrary"): NcclOverGloo,
    ("vision_sr1.weights.nccl_sender", "NCCLLibrary"): NcclOverGloo,
    (_PYNCCL, "current_stream"): current_stream,
    ("vllm.utils.torch_utils", "current_stream"): current_stream,
    ("torch.accelerator", "current_device_index"): current_device_index,
    ("torch.accelerator", "device_index"): device_index,
    ("torch.accelerator", "synchronize"): synchronize,
    ("torch.cuda", "Stream"): Stream,
    ("torch.cuda", "stream"): stream,
    ("vllm.model_executor.layers.utils", "dispatch_cpu_unquantized_gemm"): dispatch_cpu_unquantized_gemm,
}


def install(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Replaces all of it."""
    for (module, name), stand_in in REPLACED.items():
        replace(importlib.import_module(module), name, stand_in)


def _at(buffer: buffer_type, count: int, datatype: int) -> Tensor:
    """The memory that a call is given."""
    dtypes = {number: dtype for dtype, number in ncclDataTypeEnum._torch_to_nccl_map().items()}
    dtype = dtypes[datatype]
    memory = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(buffer.value or 0)
    return torch.frombuffer(memory, dtype=torch.uint8).view(dtype)


def _set(outcome: "Future[bool]", *, value: bool) -> None:
    with suppress(InvalidStateError):  # aborted before it had come, or the other way round
        outcome.set_result(value)
