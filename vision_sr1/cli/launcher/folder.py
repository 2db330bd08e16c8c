"""The folder of a run: one launcher holds it at a time, and what an earlier run left there is moved aside."""

import contextlib
import datetime
import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil
from rich.console import Console

from vision_sr1.config import ConfigError
from vision_sr1.run_folder.names import LOCK
from vision_sr1.runtime.parent_death import RUN_FOLDER

STOP_S = 5.0  # for processes of a launcher that was killed


class RunFolder:
    """Makes the folder and holds it. Processes that an earlier launcher left behind are stopped first.

    Raises:
        ConfigError: another process holds the folder, or it cannot be written.
    """

    def __init__(self, path: Path, console: Console) -> None:
        self.path = path
        self._console = console
        self._lock: IO[str]
        self._is_new: bool

    def __enter__(self) -> Self:
        self._is_new = not self.path.exists()
        self._lock = self._acquire()
        self._stop_leftovers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_new and [path.name for path in self.path.iterdir()] == [LOCK]:  # nothing was started
            (self.path / LOCK).unlink()
            self.path.rmdir()
        self._lock.close()

    def move_aside(self) -> None:
        """Renames the folder to NAME.before-TIME, and makes and holds a new one.

        Raises:
            ConfigError: it cannot be renamed.
        """
        aside = self.path.with_name(f"{self.path.absolute().name}.before-{_now():%Y%m%d-%H%M%S}")
        try:
            self.path.absolute().rename(aside.absolute())
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be moved to {aside} ({error.strerror}): move it yourself, or choose another place"
            ) from error
        with self._lock:
            self._lock = self._acquire()
        self._console.print(f"moved what {self.path} held to {aside}", highlight=False, markup=False)

    def _acquire(self) -> IO[str]:
        path = self.path / LOCK
        with contextlib.ExitStack() as undo:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = undo.enter_context(path.open("a+", encoding="utf-8"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(lock.fileno()), path.stat()):  # moved aside meanwhile
                    raise BlockingIOError
            except BlockingIOError:
                lock.seek(0)
                raise ConfigError(
                    f"{self.path} is in use by {lock.read().strip() or 'another process'}: stop that first, or choose "
                    "another place"
                ) from None
            except OSError as error:
                reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
                raise ConfigError(f"{self.path} cannot be written ({reason}): choose another place") from error
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()} since {_now():%F %T %Z}\n")
            lock.flush()
            undo.pop_all()
        return lock

    def _stop_leftovers(self) -> None:
        """Whoever holds the folder's lock is the only launcher, so that services of another one have none."""
        own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
        left = [process for process in psutil.process_iter() if process.pid not in own and self._works_here(process)]
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(left, timeout=STOP_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive)
        pids = ", ".join(str(process.pid) for process in left)
        self._console.print(f"stopped processes of an earlier launcher of {self.path}: {pids}", highlight=False)

    def _works_here(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            return process.environ().get(RUN_FOLDER) == str(self.path.resolve())
        return False


def _now() -> datetime.datetime:
    """With the time zone."""
    return datetime.datetime.now().astimezone()
