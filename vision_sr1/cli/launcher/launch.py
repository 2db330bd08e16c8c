"""Running a stage on this machine: the services' own commands as processes, watched until the learner is done."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

import psutil
from rich.console import Console

from vision_sr1.cli.checks import check
from vision_sr1.cli.launcher.changes_on_resume import print_changes
from vision_sr1.cli.launcher.folder import RunFolder
from vision_sr1.cli.launcher.processes import ServiceProcess, stop_all
from vision_sr1.cli.launcher.progress import ProgressView, ScalarTail
from vision_sr1.cli.launcher.run_status import NAME_AFTER_S, RunState
from vision_sr1.cli.launcher.services import MAIN_STOP_S, Services
from vision_sr1.config import Config, ConfigError
from vision_sr1.resuming.changes import Stage
from vision_sr1.run_folder.checkpoints import CHECKPOINTS, newest_whole
from vision_sr1.run_folder.names import SCALARS, SETTINGS
from vision_sr1.runtime.ports import host_and_port
from vision_sr1.runtime.service import STOPPED
from vision_sr1.streams.embedded import EmbeddedRedis

USER_MISTAKE = 2  # exit status of a service whose configuration cannot be used: starting it again would not help
WATCH_S = 0.25
SERVICES_STOP_S = 3.0


class StageFailedError(RuntimeError):
    """A service ended that should not have; the message has the end of its log."""


class InterruptedRunError(RuntimeError):
    """The user stopped the run."""


def run_sft(config: Config, console: Console, phase: str, *, fresh: bool, must_resume: bool = True) -> None:
    """Supervised fine-tuning under torchrun.

    Args:
        fresh: as in `run_training`.
        must_resume: where the run is to be resumed, it is an error that it has no checkpoint.

    Raises:
        ConfigError, DataError: as in `run_training`.
        StageFailedError: the learner failed.
        InterruptedRunError: Ctrl-C or SIGTERM.
    """
    steps = config.learner.sft.steps or 0
    with (
        _prepared(config, "sft", console, fresh=fresh, must_resume=must_resume),
        Services(config, actors=0) as services,
        _interruptible() as interrupted,
        ProgressView(console, phase, ScalarTail(config.run.path / SCALARS), steps, "step") as view,
    ):
        learner = services.learner("--sft")
        learner.restarts_left = 0
        learner.start()
        started = time.monotonic()

        def look() -> None:
            is_late = not view.tail.latest and time.monotonic() - started > NAME_AFTER_S
            view.update({}, f"waiting for the learner's first step (log: {learner.log})" if is_late else "")

        try:
            _watch([learner], learner, view.tail, interrupted, look, console)
        finally:
            _stop_main(learner, console)


def run_training(config: Config, console: Console, phase: str, *, fresh: bool) -> None:
    """RL with all services; embedded Redis where none is configured.

    Args:
        fresh: move aside what the run's folder holds of an earlier run; else that is an error unless it is resumed.

    Raises:
        ConfigError: the run's folder holds a run and neither `fresh` nor `learner.resume` says what to do; there is
            nothing to resume; another process holds it; its checkpoint cannot be resumed with what changed since; or
            see `check`.
        DataError, TemplateError, StreamsUnavailableError: see `check`.
        RedisStartError: the embedded Redis did not start.
        StageFailedError: a service failed more often than it may be restarted.
        InterruptedRunError: Ctrl-C or SIGTERM.
    """
    with (
        _prepared(config, "rl", console, fresh=fresh, must_resume=True),
        _interruptible() as interrupted,
        Services(config) as services,
    ):
        view = partial(ProgressView, console, phase, total=config.learner.batches)
        with _served(services, console) as others:
            _run(services, others, services.learner(), interrupted, view, console, has_learner=True)


@contextlib.contextmanager
def standing_services(config: Config, console: Console) -> Iterator[Callable[[Config, str], None]]:
    """Actors and a reward service, which serve one run after another.

    Args:
        config: theirs; its run's name is that of the streams (`streams.name`), which all runs have in common.

    Yields:
        What trains a run with its progress under a name, as `run_training` does.

    Raises:
        ConfigError, RedisStartError, StageFailedError, InterruptedRunError: as `run_training` does.
    """
    with (
        RunFolder(config.run.path, console),
        _interruptible() as interrupted,
        Services(config) as services,
        _served(services, console) as others,
    ):

        def train(run: Config, phase: str) -> None:
            with _prepared(run, "rl", console, fresh=False, must_resume=False, starts_services=False):
                services.serve(run)
                view = partial(ProgressView, console, phase, total=run.learner.batches)
                _run(services, others, services.learner(), interrupted, view, console, has_learner=True)

        yield train


def run_evaluation(config: Config, policy_version: int, console: Console, phase: str, questions: int) -> None:
    """Asks the benchmarks of the configuration, with all services but a learner.

    Args:
        config: whose folder the caller holds.
        policy_version: that the weights at `model.path` are.
        questions: how many there are.

    Raises:
        ConfigError, RedisStartError, StageFailedError, InterruptedRunError: as in `run_training`.
    """
    holding = ("--policy-version", str(policy_version))
    with _interruptible() as interrupted, Services(config, learners=0) as services:
        view = partial(ProgressView, console, phase, total=questions, unit="question")
        with _served(services, console, *holding) as others:
            _run(services, others, services.evaluation(*holding), interrupted, view, console, has_learner=False)


@contextlib.contextmanager
def _served(services: Services, console: Console, *actor_options: str) -> Iterator[list[ServiceProcess]]:
    """Starts actors and the reward service, and stops them in the end."""
    config = services.config
    others = [services.actor(index, *actor_options) for index in range(config.actors.count)]
    others.append(services.reward_service())
    console.print(f"reward traces: http://{host_and_port(config.reward.host, config.reward.port)}/", highlight=False)
    try:
        for service in others:
            service.start()
        yield others
    finally:
        stop_all(others, SERVICES_STOP_S)


def _run(
    services: Services,
    others: list[ServiceProcess],
    main: ServiceProcess,
    interrupted: Callable[[], bool],
    progress: Callable[..., ProgressView],
    console: Console,
    *,
    has_learner: bool,
) -> None:
    """Runs the one that the others work for, until it is done."""
    config = services.config
    tail = ScalarTail(config.run.path / SCALARS)
    state = RunState(config, services.environment, has_learner=has_learner)

    def look() -> None:
        _restart_redis(services.redis, console)
        view.update(state.depths(), "" if tail.latest else state.starting())

    try:
        with progress(tail=tail) as view:
            main.start()
            _watch([*others, main], main, tail, interrupted, look, console)
    finally:
        _stop_main(main, console)
        state.close()


def _stop_main(main: ServiceProcess, console: Console) -> None:
    """Gives it the time that a step and a checkpoint of a large model take."""
    said = f"{main.name} finishes what it has begun and saves it, up to {MAIN_STOP_S} s; Ctrl-C again ends it at once"
    stop_all([main], MAIN_STOP_S, lambda: console.print(said, highlight=False))


@contextlib.contextmanager
def _prepared(
    config: Config, stage: Stage, console: Console, *, fresh: bool, must_resume: bool, starts_services: bool = True
) -> Iterator[None]:
    """Holds the run's folder. All that can be checked is checked before an old run is moved aside."""
    path, resume = config.run.path, config.learner.resume
    if fresh and resume:
        raise ConfigError("--fresh and learner.resume (--resume) exclude each other: leave one out")
    if resume and not (path / SETTINGS).is_file():
        raise ConfigError(f"nothing to resume in {path}: leave --resume out to start")
    if resume and must_resume and newest_whole(path) is None:
        raise ConfigError(f"nothing to resume in {path}: it has no checkpoint; --fresh moves it aside and starts anew")
    with RunFolder(path, console) as folder:
        is_started = (path / CHECKPOINTS).is_dir() or (path / SCALARS).is_file()
        if is_started and not (fresh or resume):
            can_resume = newest_whole(path) is not None
            raise ConfigError(
                f"{path} already holds a run{'' if can_resume else ', without a checkpoint'}: "
                f"{'--resume continues it from its last checkpoint, ' if can_resume else ''}--fresh moves it aside and "
                "starts anew, and run.name=OTHER leaves it alone"
            )
        check(
            config,
            stage,
            lambda said: console.print(said, style="yellow", highlight=False, markup=False),
            starts_services=starts_services,
        )
        print_changes(config, stage, console)
        if is_started and fresh:
            folder.move_aside()
        yield


def _watch(
    services: list[ServiceProcess],
    main: ServiceProcess,
    tail: ScalarTail,
    interrupted: Callable[[], bool],
    draw: Callable[[], None],
    console: Console,
) -> None:
    """Waits for the one that the others work for to end; restarts services that end before it.

    It goes on from what it has on the disk, if it was killed or has come further since it was started: one that fails
    before would fail again.
    """
    lines_at_start = tail.lines
    while True:
        if interrupted():
            raise InterruptedRunError("stopped by the user")
        for service in services:
            if service.exit_status() is None:
                continue
            status = service.own_status()
            if service is main and status == 0:
                return
            failed = service is main and status > 0 and status != STOPPED
            hopeless = failed and tail.lines == lines_at_start
            if service.restarts_left == 0 or status == USER_MISTAKE or hopeless:
                often = f" after {service.restarts} restart{'s' * (service.restarts > 1)}" if service.restarts else ""
                raise StageFailedError(
                    f"{'the ' * (service is main)}{service.name} ended with status {status}{often}; "
                    f"{service.log}:\n{service.last_lines()}"
                )
            service.restarts_left -= 1
            service.restarts += 1
            service.kill_tree()
            console.print(f"{service.name} ended with status {status}; restarting it (log: {service.log})")
            service.start()
            if service is main:
                lines_at_start = tail.lines
        draw()
        time.sleep(WATCH_S)


def _restart_redis(server: EmbeddedRedis | None, console: Console) -> None:
    """Starts the embedded Redis again where it has ended: it has all that it had acknowledged."""
    if server is not None and (status := server.process.poll()) is not None:
        console.print(f"Redis ended with status {status}; restarting it")
        server.start()


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT, SIGTERM and the end of the terminal into a flag, so that services are taken down in order."""
    received: list[int] = []

    def note(signum: int, _: FrameType | None) -> None:
        if received:  # a second time: there is no more waiting
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        received.append(signum)

    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        wanted.append(signal.SIGHUP)
    before = {signum: signal.signal(signum, note) for signum in wanted}
    try:
        yield lambda: bool(received)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
