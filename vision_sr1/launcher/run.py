"""Running a stage on this machine: the services' own commands as processes, watched until the learner is done."""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import redis
from rich.console import Console

from vision_sr1.config import Config, ConfigError, save_config
from vision_sr1.launcher.processes import ServiceProcess, stop_all
from vision_sr1.launcher.progress import ProgressView, ScalarTail
from vision_sr1.ports import Ports
from vision_sr1.streams import Keys
from vision_sr1.streams.embedded import start_embedded_redis

RESTARTS = 5
USER_MISTAKE = 2  # exit status of a service whose configuration cannot be used: starting it again would not help
WATCH_S = 0.25
LEARNER_STOP_S, SERVICES_STOP_S = 3.5, 3.0  # with what surrounds them under the 10 s that a user is promised


class StageFailedError(RuntimeError):
    """A service ended that should not have; the message has the end of its log."""


class InterruptedRunError(RuntimeError):
    """The user stopped the run."""


def run_sft(config: Config, console: Console, phase: str, *, fresh: bool) -> None:
    """Supervised fine-tuning under torchrun.

    Args:
        fresh: as in `run_training`.

    Raises:
        ConfigError: as in `run_training`.
        StageFailedError: the learner failed.
        InterruptedRunError: Ctrl-C or SIGTERM.
    """
    _prepare(config, fresh)
    tail = ScalarTail(config.run.path / "scalars.jsonl")
    steps = config.learner.sft.steps or 0
    with Ports() as ports, _interruptible() as interrupted, ProgressView(console, phase, tail, steps) as view:
        learner = _learner(config, _save(config), {}, ports, "--sft")
        learner.start()
        try:
            _watch([learner], learner, interrupted, lambda: view.update({}, ""), console)
        finally:
            stop_all([([learner], LEARNER_STOP_S)])


def run_training(config: Config, console: Console, phase: str, *, fresh: bool) -> None:
    """RL with all services; embedded Redis where none is configured.

    Args:
        fresh: start anew where the run's folder already holds a run; else that is an error unless it is resumed.

    Raises:
        ConfigError: the run's folder holds a run and neither `fresh` nor `learner.resume` says what to do.
        StageFailedError: a service failed more often than it may be restarted.
        InterruptedRunError: Ctrl-C or SIGTERM.
    """
    folder = config.run.path
    _prepare(config, fresh)
    with _interruptible() as interrupted, Ports() as ports:
        environment: dict[str, str] = {}
        embedded = None
        if config.streams.url is None:
            embedded = start_embedded_redis(folder / "redis")
            environment = {"VISION_SR1_REDIS_URL": embedded.url, "VISION_SR1_REDIS_PASSWORD": embedded.password}
        config = _with_free_ports(config, ports)
        path = _save(config)
        actors = [_actor(config, path, environment, index, ports) for index in range(config.actors.count)]
        reward = _service(config, "reward_service", ["-m", "reward_service", str(path)], environment, RESTARTS)
        learner = _learner(config, path, environment, ports)
        tail = ScalarTail(folder / "scalars.jsonl")
        console.print(f"reward traces: http://{config.reward.host}:{config.reward.port}/docs", highlight=False)
        depths = _DepthReader(config, environment)
        try:
            with ProgressView(console, phase, tail, config.learner.batches) as view:
                for service in (*actors, reward, learner):
                    service.start()
                _watch(
                    [*actors, reward, learner],
                    learner,
                    interrupted,
                    lambda: view.update(depths.read(), "" if tail.latest else "starting services"),
                    console,
                )
        finally:
            stop_all([([learner], LEARNER_STOP_S), ([*actors, reward], SERVICES_STOP_S)])
            depths.close()
            if embedded is not None:
                embedded.process.terminate()
                embedded.process.wait()


def _prepare(config: Config, fresh: bool) -> None:
    folder = config.run.path
    started = (folder / "checkpoints").is_dir() or (folder / "scalars.jsonl").is_file()
    if not started or config.learner.resume:
        return
    if not fresh:
        raise ConfigError(
            f"{folder} already holds a run: --resume continues it from its last checkpoint, --fresh deletes it and "
            "starts anew, and run.name=OTHER leaves it alone"
        )
    shutil.rmtree(folder)


def _watch(
    services: list[ServiceProcess],
    learner: ServiceProcess,
    interrupted: Callable[[], bool],
    draw: Callable[[], None],
    console: Console,
) -> None:
    """Waits for the learner to end; restarts other services that end before it."""
    while True:
        if interrupted():
            raise InterruptedRunError("stopped by the user")
        status = learner.exit_status()
        if status is not None:
            if status != 0:
                raise StageFailedError(
                    f"the learner ended with status {status}; {learner.log}:\n{learner.last_lines()}"
                )
            return
        for service in services:
            status = service.exit_status()
            if service is learner or status is None:
                continue
            if service.restarts_left == 0 or status == USER_MISTAKE:
                raise StageFailedError(
                    f"{service.name} ended with status {status} after {RESTARTS - service.restarts_left} restarts; "
                    f"{service.log}:\n{service.last_lines()}"
                )
            service.restarts_left -= 1
            service.kill_tree()
            console.print(f"{service.name} ended with status {status}; restarting it (log: {service.log})")
            service.start()
        draw()
        time.sleep(WATCH_S)


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a flag, so that services are taken down in order."""
    received: list[int] = []

    def note(signum: int, _: FrameType | None) -> None:
        received.append(signum)

    before = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _save(config: Config) -> Path:
    config.run.path.mkdir(parents=True, exist_ok=True)
    path = config.run.path / "config.yaml"
    save_config(config, path)
    return path


def _service(
    config: Config, name: str, arguments: list[str], environment: dict[str, str], restarts: int
) -> ServiceProcess:
    shared = {
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    if Path(config.model.path).is_dir():
        shared["HF_HUB_OFFLINE"] = "1"
    return ServiceProcess(
        name=name,
        command=[sys.executable, *arguments],
        environment={**shared, **environment},
        log=config.run.path / "logs" / f"{name}.log",
        restarts_left=restarts,
    )


def _actor(config: Config, path: Path, environment: dict[str, str], index: int, ports: Ports) -> ServiceProcess:
    arguments = ["-m", "actors", str(path), "--id", f"actor-{index}"]
    if config.metrics.actor_port:
        port = ports.keep(config.metrics.host, config.metrics.actor_port + index)
        arguments.append(f"metrics.actor_port={port}")
    return _service(config, f"actor-{index}", arguments, environment, RESTARTS)


def _learner(config: Config, path: Path, environment: dict[str, str], ports: Ports, *options: str) -> ServiceProcess:
    torchrun = [
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={config.learner.processes}",
        "--master-addr=127.0.0.1",
        f"--master-port={ports.keep()}",
        "-m",
        "learner",
        str(path),
        *options,
    ]
    learner = _service(config, "learner", torchrun, environment, 0)
    learner.wrapper_report = "failed (exitcode"
    return learner


def _with_free_ports(config: Config, ports: Ports) -> Config:
    """The configuration with ports that are taken replaced by free ones."""
    tree = config.model_copy(deep=True)
    tree.reward.port = ports.keep(config.reward.host, config.reward.port)
    if config.metrics.learner_port:
        tree.metrics.learner_port = ports.keep(config.metrics.host, config.metrics.learner_port)
    return tree


class _DepthReader:
    """Stream depths for the display; empty while Redis cannot be read."""

    def __init__(self, config: Config, environment: dict[str, str]) -> None:
        url = environment.get("VISION_SR1_REDIS_URL", config.streams.url or "")
        secret = config.streams.password.get_secret_value() if config.streams.password else None
        password = environment.get("VISION_SR1_REDIS_PASSWORD", secret)
        self._client = (
            redis.Redis.from_url(url, password=password, socket_timeout=1.0) if "sentinel" not in url else None
        )
        self._keys = Keys(config.run.name)

    def read(self) -> dict[str, int]:
        if self._client is None:
            return {}
        with contextlib.suppress(redis.RedisError):
            return {name: int(self._client.xlen(self._keys.stream(name))) for name in ("prompts", "rollouts", "scored")}
        return {}

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
