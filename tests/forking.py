"""Python processes that start by fork from one that has imported the libraries: in 0.1 s where imports take 9 s.

What they run, and how they are related, is as without it: each is a process of its own and a child of the one that
started it, in the session and with the environment and descriptors that it would have had. Only the interpreter's
start and the imports of LIBRARIES are saved.

`install` makes `subprocess` do so for `python -m …`. Processes that the tests start are forked from a server,
`python -m tests.forking SOCKET`: it has one thread, has imported nothing of this project, and gives its children to the
one that asked. Of those, LAUNCHERS and ENGINES fork themselves for theirs, so that services, ranks and vLLM's processes
all start this way; others execute theirs, for a fork beside threads at work may break.

`VISION_SR1_TESTS_FORK=0` in the environment has all processes start as a user's do.
"""

import _posixsubprocess
import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import io
import json
import logging
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import dropwhile
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

LIBRARIES = (
    "torch.utils.tensorboard",
    "torchvision",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
    "deepspeed",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.qwen2_5_vl",
    "peft",
    "datasets",
    "fastapi",
    "alembic",
    "grpc.aio",
    "math_verify",
    "mathruler.grader",
    "jaxtyping",
    "beartype",
)
WHEN_IMPORTED = {  # what libraries read as they are imported, as the launcher and actors set it on CPUs
    "DS_ACCELERATOR": "cpu",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHDYNAMO_DISABLE": "1",
}
SERVER = "tests.forking"
SWITCH = "VISION_SR1_TESTS_FORK"
START_S = 120.0
LAUNCHERS = ("vision_sr1", "torch.distributed.run", "bench.soak")  # modules that start processes and do little else
ENGINES = ("actors", "vllm.entrypoints.openai.api_server")  # modules that spawn vLLM's processes before all else
INTERPRETER_FLAGS = ("-B", "-u")  # which make no difference here
COMMAND_LINE = 8192  # bytes that a process can show as its own in /proc
_PR_SET_CHILD_SUBREAPER = 36
_fork_exec = _posixsubprocess.fork_exec


@dataclass(frozen=True)
class Start:
    """A Python process to be: what `subprocess` knows of it before it calls the kernel.

    Attributes:
        arguments: those after the interpreter: `-m MODULE …` or `-c CODE …`.
        environment: None: its parent's.
        standard: descriptors for 0, 1 and 2; -1: its parent's.
        kept: further descriptors that stay open under their numbers.
    """

    arguments: list[str]
    environment: dict[str, str] | None
    folder: str
    standard: list[int]
    kept: list[int]
    new_session: bool


def install(server: "Server | None" = None, *, spawned: bool = False) -> None:
    """Has Python processes that this one starts be forked: from the server, or without one from this process.

    Args:
        spawned: also those that `multiprocessing` spawns, which is safe where no threads are at work yet.
    """
    if os.environ.get(SWITCH) == "0":
        return

    def fork_exec(*call: Any) -> int:
        command, executables, _, kept, folder, environment, stdin, _, _, stdout, _, stderr, *more = call
        _, until_exec, _, new_session, _, _, _, _, _, preexec, *_ = more
        arguments = list(dropwhile(INTERPRETER_FLAGS.__contains__, map(os.fsdecode, command[1:])))
        is_python = os.fsencode(sys.executable) in map(os.fsencode, executables)
        can_fork = is_python and arguments[:1] in (["-m"], ["-c"]) and arguments[1] != SERVER
        if not can_fork or (is_spawned(arguments) and not spawned) or (server and preexec):
            return int(_fork_exec(*call))
        start = Start(
            arguments=arguments,
            environment=environment and dict(os.fsdecode(variable).split("=", 1) for variable in environment),
            folder=str(Path.cwd()) if folder is None else os.fsdecode(folder),
            standard=[stdin, stdout, stderr],
            kept=[descriptor for descriptor in kept if descriptor != until_exec],
            new_session=bool(new_session),
        )
        return server.fork(start) if server else fork_here(start, preexec)

    _posixsubprocess.fork_exec = fork_exec
    subprocess._fork_exec = fork_exec  # type: ignore[attr-defined]


def is_spawned(arguments: list[str]) -> bool:
    """Whether a command line is that of a process which `multiprocessing` spawns."""
    return arguments[0] == "-c" and arguments[1].startswith("from multiprocessing.spawn")


def fork_here(start: Start, preexec: Callable[[], object] | None = None) -> int:
    """Forks this process; its id."""
    pid = os.fork()
    if pid == 0:
        _become(start, preexec)
    return pid


class Server:
    """The process to fork from, started when it is first needed; it ends with this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()

    def fork(self, start: Start) -> int:
        """Has a process forked, and becomes its parent; its id."""
        with self._lock:
            connection = self._connection or self._connect()
            environment = dict(os.environ) if start.environment is None else start.environment
            standard = [number if fd < 0 else fd for number, fd in enumerate(start.standard)]
            message = {**asdict(start), "environment": environment, "standard": standard}
            libc = ctypes.CDLL(None, use_errno=True)
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # adopts what the server's child leaves behind
            try:
                data = json.dumps(message).encode()
                socket.send_fds(connection, [len(data).to_bytes(4, "big")], [*standard, *start.kept])
                connection.sendall(data)
                reply = connection.recv(16)
            finally:
                libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)
        if not reply:
            raise RuntimeError("the server that tests fork processes from has ended")
        return int(reply)

    def _connect(self) -> socket.socket:
        here, there = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", SERVER, str(there.fileno()), " " * COMMAND_LINE],
            env={**os.environ, **WHEN_IMPORTED},
            cwd=Path(__file__).parents[1],
            pass_fds=[there.fileno()],
            start_new_session=True,
        )
        there.close()
        here.settimeout(START_S)
        if here.recv(1) != b".":
            raise RuntimeError("the server that tests fork processes from did not start")
        self._connection = here
        atexit.register(self._close)
        return here

    def _close(self) -> None:
        assert self._connection is not None
        assert self._process is not None
        self._connection.close()
        self._process.wait()


def serve(connection: socket.socket) -> None:
    """Forks what is asked for, until the other side is gone."""
    for name in LIBRARIES:
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()
    connection.sendall(b".")
    while True:
        header, descriptors, _, _ = socket.recv_fds(connection, 4, 64)
        if not header:
            return
        data = b""
        while len(data) < int.from_bytes(header, "big"):
            data += connection.recv(1 << 20)
        start = Start(**json.loads(data))
        read, write = os.pipe()
        between = os.fork()
        if between == 0:  # whose death gives its child to the one that asked
            parent = os.getpid()
            if (pid := os.fork()) == 0:
                while os.getppid() == parent:
                    time.sleep(0.001)
                connection.close()
                os.close(read)
                os.close(write)
                received = dict(zip([*range(3), *start.kept], descriptors, strict=True))
                _become(start, None, received)
            os.write(write, str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)
        os.close(write)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(os.read(read, 16))
        os.close(read)


def _become(start: Start, preexec: Callable[[], object] | None, received: dict[int, int] | None = None) -> NoReturn:
    """What a new process does instead of `exec`.

    Args:
        received: descriptors by the number that they are to have; default: `start`'s.
    """
    status = 1
    try:
        if start.new_session:
            os.setsid()
        _take_descriptors(start, received)
        _forget_parent()
        if preexec is not None:
            preexec()
        os.chdir(start.folder)
        if start.environment is not None:
            os.environ.clear()
            os.environ.update(start.environment)
        has_engine = start.arguments[1] in ENGINES or is_spawned(start.arguments)
        if has_engine or start.arguments[1] in LAUNCHERS:
            install(spawned=has_engine)
        _take_command_line(start.arguments)
        status = _run(start.arguments)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _take_descriptors(start: Start, received: dict[int, int] | None) -> None:
    """Descriptors as `exec` would leave them, and the standard streams on them."""
    if received is None:
        received = {number: fd if fd >= 0 else number for number, fd in enumerate(start.standard)}
        received |= {fd: fd for fd in start.kept}
    highest = max(received) + 1
    aside = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, highest) for number, fd in received.items()}
    for number, fd in aside.items():
        os.dup2(fd, number)
    following = 0
    for number in [*sorted(received), os.sysconf("SC_OPEN_MAX")]:
        if following < number:
            os.closerange(following, number)
        following = number + 1
    _parents.append((sys.stdin, sys.stdout, sys.stderr))
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
    )
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)


def _take_command_line(arguments: list[str]) -> None:
    """Shows these arguments in /proc, in the memory that the kernel reads a command line from."""
    start, end = (int(field) for field in Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    line = b"\0".join(map(os.fsencode, [sys.executable, *arguments]))[: end - start - 1]
    ctypes.memmove(start, line.ljust(end - start, b"\0"), end - start)


_parents: list[Any] = []  # streams whose buffers are the parent's to write


def _forget_parent() -> None:
    """Nothing that the parent has under way goes on here or is ended here."""
    gc.freeze()
    _posixsubprocess.fork_exec = _fork_exec
    subprocess._fork_exec = _fork_exec  # type: ignore[attr-defined]
    signal.set_wakeup_fd(-1)
    for signum in signal.valid_signals():
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    multiprocessing.util._finalizer_registry.clear()  # type: ignore[attr-defined]
    multiprocessing.resource_tracker._resource_tracker.__init__()  # type: ignore[misc]
    atexit.register(logging.shutdown)
    atexit.register(multiprocessing.util._exit_function)  # type: ignore[attr-defined]
    tempfile.tempdir = None
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def _run(arguments: list[str]) -> int:
    """What the interpreter's command line says; its exit status."""
    kind, what, *rest = arguments
    try:
        if kind == "-m":
            sys.argv = [what, *rest]
            sys.path[0] = str(Path.cwd())
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.argv = ["-c", *rest]
            sys.path[0] = ""
            sys.modules["__main__"] = ModuleType("__main__")
            exec(what, sys.modules["__main__"].__dict__)
    except SystemExit as ending:
        if ending.code is None or isinstance(ending.code, int):
            return ending.code or 0
        sys.stderr.write(f"{ending.code}\n")
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        serve(asked)
