"""What the launcher decides before it starts anything, and when something ends."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from rich.console import Console

from vision_sr1.cli.demo import demo
from vision_sr1.cli.launcher import processes, run_status
from vision_sr1.cli.launcher.folder import RunFolder
from vision_sr1.cli.launcher.launch import StageFailedError, _watch, run_sft, run_training
from vision_sr1.cli.launcher.processes import ServiceProcess, stop_all
from vision_sr1.cli.launcher.progress import ScalarTail
from vision_sr1.cli.launcher.resources import divided
from vision_sr1.cli.launcher.run_status import RunState
from vision_sr1.cli.launcher.services import MAIN_STOP_S, Services, without_proxy
from vision_sr1.config import Config, ConfigError, MissingPathError, load_config
from vision_sr1.runtime.gpus import visible_gpus
from vision_sr1.runtime.parent_death import RUN_FOLDER, marks
from vision_sr1.streams import Keys
from vision_sr1.streams.embedded import EmbeddedRedis, running_server

CONSOLE = Console(quiet=True)
EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """A run's folder with a checkpoint and an export."""
    for name in ("checkpoints/000001/trainer.json", "export/1/model.safetensors"):
        file = tmp_path / "runs" / "old" / name
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    return tmp_path / "runs" / "old"


@pytest.mark.parametrize("stage", [run_training, run_sft])
def test_an_old_run_stays_in_its_place_when_what_is_to_replace_it_cannot_start(old_run: Path, stage: Any):
    overrides = [f"run.dir={old_run.parent}", "run.name=old", "data.train=/no/rows.parquet", "data.sft=/no/rows.jsonl"]
    with pytest.raises(MissingPathError, match=r"data\.(train|sft): no file /no/rows"):
        stage(load_config(None, overrides, environment={}).config, CONSOLE, "", fresh=True)
    assert (old_run / "export" / "1" / "model.safetensors").is_file()
    assert list(old_run.parent.iterdir()) == [old_run]


def test_an_old_run_is_moved_aside_and_the_new_folder_is_held(old_run: Path):
    with RunFolder(old_run, CONSOLE) as folder:
        folder.move_aside()
        with pytest.raises(ConfigError, match="is in use"), RunFolder(old_run, CONSOLE):
            pass
    (aside,) = old_run.parent.glob("old.before-*")
    assert (aside / "export" / "1" / "model.safetensors").is_file()
    assert not (old_run / "export").exists()


def test_a_run_has_one_launcher_and_the_second_names_the_first(tmp_path: Path):
    here = re.escape(f"{tmp_path} is in use by process {os.getpid()} on ")
    with (
        RunFolder(tmp_path, CONSOLE),
        pytest.raises(ConfigError, match=here + r".* since \d{4}-.*: stop that first"),
        RunFolder(tmp_path, CONSOLE),
    ):
        pass
    with RunFolder(tmp_path, CONSOLE):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"file/run cannot be written \(Not a directory\)"),
        RunFolder(tmp_path / "file" / "run", CONSOLE),
    ):
        pass


def test_an_embedded_redis_is_known_by_its_run(tmp_path: Path):
    with EmbeddedRedis(tmp_path / "redis", marks=marks(tmp_path)) as server:
        assert psutil.Process(server.process.pid).environ()[RUN_FOLDER] == str(tmp_path)


def test_what_a_killed_launcher_left_running_is_stopped_and_nothing_else(tmp_path: Path):
    def service(folder: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "60"], env={**os.environ, **marks(folder)})

    left, other = service(tmp_path / "run"), service(tmp_path / "run-2")
    try:
        with RunFolder(tmp_path / "run", CONSOLE):
            assert left.poll() is not None
            assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


@pytest.fixture
def killed_launcher(tmp_path: Path) -> Iterator[tuple[list[psutil.Process], Path]]:
    """A Redis server and a service whose parent was killed, and the server's folder."""
    folder = tmp_path / 'it\'s a "süß" \\ folder'
    start = f"""import pathlib, time
from vision_sr1.cli.launcher.processes import ServiceProcess, stop_all
from vision_sr1.streams.embedded import EmbeddedRedis
folder = pathlib.Path({str(folder)!r})
server, service = EmbeddedRedis(folder), ServiceProcess("sleep", ["sleep", "60"], {{}}, folder / "sleep.log")
server.start()
service.start()
print(server.process.pid, service.process.pid, flush=True)
time.sleep(60)"""
    parent = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.communicate()
    yield children, folder
    for child in children:
        if child.is_running():
            child.kill()


@pytest.mark.slow
def test_redis_and_services_end_with_a_launcher_that_is_killed_and_redis_starts_again_in_the_same_folder(
    killed_launcher: tuple[list[psutil.Process], Path],
):
    children, folder = killed_launcher
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert (len(gone), alive) == (2, [])
    assert running_server(folder) is None
    with EmbeddedRedis(folder):
        assert running_server(folder) is not None


def test_each_service_has_gpus_of_its_own():
    config = load_config(None, ["actors.tensor_parallel_size=2"], environment={}).config
    assert divided(["0", "2", "3", "5", "6", "7"], 2, 2, config) == {
        "learner": "0,2",
        "actor-0": "3,5",
        "actor-1": "6,7",
    }
    assert divided(["0", "1"], 0, 1, config) == {"learner": "", "actor-0": "0,1"}
    stages = load_config(None, ["actors.engine_args.pipeline_parallel_size=2"], environment={}).config
    assert divided(["0", "1", "2"], 1, 1, stages) == {"learner": "0", "actor-0": "1,2"}
    assert divided(["0", "1"], 2, 0, config) == {"learner": "0,1"}


def test_too_few_gpus_are_said_so_and_none_are_none():
    config = load_config(None, [], environment={}).config
    with pytest.raises(ConfigError, match="9 GPUs are needed, 8 for the learner and 1 for each of 1 actors, and 8 are"):
        divided([str(number) for number in range(8)], 8, 1, config)
    assert divided([], 8, 1, config) == {}


def test_gpus_that_are_hidden_are_not_given_to_anybody(monkeypatch: pytest.MonkeyPatch):
    everything = visible_gpus()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 3")
    assert visible_gpus() == (["1", "3"] if everything else [])


@pytest.mark.parametrize(
    ("restarts", "said"), [(0, "status 3; "), (1, "status 3 after 1 restart; "), (2, "status 3 after 2 restarts; ")]
)
def test_restarts_are_counted(tmp_path: Path, restarts: int, said: str):
    service = ServiceProcess("actor-0", ["sh", "-c", "exit 3"], {}, tmp_path / "log", restarts_left=restarts)
    main = ServiceProcess("learner", ["sleep", "60"], {}, tmp_path / "learner.log")
    service.start()
    main.start()
    try:
        tail = ScalarTail(tmp_path / "scalars.jsonl")
        with pytest.raises(StageFailedError, match=f"actor-0 ended with {said}"):
            _watch([service, main], main, tail, lambda: False, lambda: None, CONSOLE)
    finally:
        main.kill_tree()


@pytest.mark.parametrize(("status", "goes_on"), [(143, True), (1, False)])
def test_a_learner_that_was_stopped_is_started_again_and_one_that_failed_before_its_first_batch_is_not(
    tmp_path: Path, status: int, goes_on: bool
):
    once = tmp_path / "once"
    command = ["sh", "-c", f"test -e {once} || {{ touch {once}; exit {status}; }}"]
    learner = ServiceProcess("learner", command, {}, tmp_path / "learner.log", restarts_left=5)
    learner.start()
    watch = partial(
        _watch, [learner], learner, ScalarTail(tmp_path / "scalars.jsonl"), lambda: False, lambda: None, Console()
    )
    if goes_on:
        watch()
        assert learner.restarts_left == 4
    else:
        with pytest.raises(StageFailedError, match=f"the learner ended with status {status}; "):
            watch()


@pytest.mark.parametrize(("seconds", "is_saved"), [(20.0, True), (0.6, False)])
def test_who_takes_long_to_stop_is_waited_for_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, is_saved: bool
):
    monkeypatch.setattr(processes, "USUAL_STOP_S", 0.1)
    saved = tmp_path / "saved"
    saving = f"trap 'sleep 1; touch {saved}; exit' TERM; touch {tmp_path}/up; while :; do sleep 0.02; done"
    learner = ServiceProcess("learner", ["sh", "-c", saving], {}, tmp_path / "log")
    learner.start()
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    told: list[str] = []
    stop_all([learner], seconds, lambda: told.append("slow"))
    assert saved.exists() == is_saved
    assert told == ["slow"]
    assert learner.exit_status() is not None


def test_torchrun_leaves_the_ranks_the_time_that_the_launcher_does(tmp_path: Path, redis_config: Config):
    redis_config.run.dir = tmp_path
    (tmp_path / redis_config.run.name).mkdir(exist_ok=True)
    with Services(redis_config) as services:
        assert f"--shutdown-timeout={MAIN_STOP_S}" in services.learner().command


def test_what_a_run_waits_for_is_named(
    embedded_redis: EmbeddedRedis, redis_config: Config, monkeypatch: pytest.MonkeyPatch
):
    keys, client = (
        Keys(redis_config.run.name),
        redis.Redis.from_url(embedded_redis.url, password=embedded_redis.password),
    )
    redis_config.actors.count = 2
    with socket.socket() as reward_service:
        reward_service.bind(("127.0.0.1", 0))
        redis_config.reward.port = reward_service.getsockname()[1]
        run = RunState(redis_config, embedded_redis.environment, has_learner=True)
        assert run.starting().startswith("starting services: waiting for the reward service to listen at 127.0.0.1:")
        monkeypatch.setattr(run_status, "NAME_AFTER_S", 0.0)
        assert (
            f"the reward service to listen at 127.0.0.1:{redis_config.reward.port} (logs: runs/run/" in run.starting()
        )
        reward_service.listen()
        assert "actors to load the model: 0 of 2 did" in run.starting()
        client.sadd(keys.actors, "a", "b")
        assert "the learner to publish its weights" in run.starting()
        client.set(keys.published, b"")
        assert "waiting for the first batch" in run.starting()
        embedded_redis.process.kill()
        embedded_redis.process.wait()
        assert "waiting for Redis (" in run.starting()
    run.close()


@pytest.mark.parametrize(
    ("hosts", "after"),
    [("", "localhost,127.0.0.1,::1"), (".corp,10.0.0.1", ".corp,10.0.0.1,localhost,127.0.0.1,::1"), ("*", "*")],
)
def test_services_on_this_machine_are_reached_without_a_proxy(hosts: str, after: str):
    assert without_proxy(hosts) == after


@pytest.mark.parametrize("there", ["", "models/cold_start", "lost+found"])
def test_what_services_elsewhere_start_from_is_prepared_whatever_is_there(
    tmp_path: Path, there: str, monkeypatch: pytest.MonkeyPatch
):
    """A job of a cluster runs it on a new volume, on one that has a model, and once more after a failure."""
    (tmp_path / "volume" / there).mkdir(parents=True)
    stages: list[dict[str, Any]] = []
    monkeypatch.setattr(demo, "_run_stages", lambda *_, **options: stages.append(options))
    demo.run_demo(EXAMPLES / "shapes", tmp_path / "volume", [], CONSOLE, resume=False, fresh=False, prepare=True)
    assert stages == [{"resume": True, "fresh": False, "prepare": True}]
