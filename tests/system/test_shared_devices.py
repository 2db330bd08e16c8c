"""Actors and a learner that take turns on one device, with real processes; memory itself is only freed on a GPU."""

import asyncio
import json
import re
import signal
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from bench.fleet import running_actors
from bench.gpu.findings import Bench
from bench.gpu.steps.shared_device import Learner
from tests.conftest import TINY
from tests.system.conftest import THREE_BATCHES, Run, traces, training
from tests.system.test_weights import feed, take
from vision_sr1.streams import Keys, Stream, connect
from vision_sr1.v1 import pipeline_pb2 as pb

SHARED = [
    *THREE_BATCHES,
    "actors.placement=shared",
    "learner.weights.sync_timeout_s=5",
    "learner.weights.same_weights_grace_s=1",
    "actors.heartbeat_s=0.5",
    "streams.lease_s=5",
]
SIBLING = (
    "tests/system/test_shared_devices.py::test_a_run_on_shared_devices_learns_what_one_on_devices_of_their_own_learns"
)
PROMPTS = 16  # under way at once
CHECKPOINT = Path("runs/run/checkpoints/000003/policy/model.safetensors")


def events(run: Run, service: str, *names: str) -> list[dict[str, object]]:
    """What a service has logged with these events, in order; ranks may write into one another's lines."""
    log = run.folder / "runs" / "run" / "logs" / f"{service}.log"
    text = log.read_text(errors="replace") if log.is_file() else ""
    found = [json.loads(line) for line in re.findall(r'\{"service": [^\n]*?"timestamp": "[^"]+"\}', text)]
    return [line for line in found if line["event"] in names]


def moment(line: dict[str, object]) -> float:
    """When it was logged, in seconds since the epoch."""
    return datetime.fromisoformat(str(line["timestamp"])).timestamp()


def wait_for(run: Run, service: str, event: str, count: int, timeout_s: float = 120) -> None:
    """Returns when the service has logged the event so often."""
    deadline = time.monotonic() + timeout_s
    while len(events(run, service, event)) < count:
        assert time.monotonic() < deadline, run.logs()
        time.sleep(0.01)


def processes(launcher: psutil.Process, *words: str) -> list[psutil.Process]:
    """The launcher's service with these words in its command, and all that it has started."""
    (found,) = [child for child in launcher.children() if all(word in child.cmdline() for word in words)]
    return [found, *found.children(recursive=True)]


def equal_weights(one: Run, other: Run) -> bool:
    """Whether both have learned the same in three batches."""
    first, second = (load_file(run.folder / CHECKPOINT) for run in (one, other))
    return all(torch.equal(second[name], value) for name, value in first.items())


def test_a_run_on_shared_devices_learns_what_one_on_devices_of_their_own_learns(
    trained: Run, tmp_path: Path, cold_start_model: Path, shapes: dict[str, Path]
):
    run = training(tmp_path, cold_start_model, shapes, *SHARED, "learner.evaluate_every=1")
    status, output = run.finish()
    assert status == 0, output + run.logs()
    assert equal_weights(trained, run)
    taken, given = events(run, "learner", "devices_taken"), events(run, "learner", "devices_given")
    assert len(taken) == len(given) == 1 + 3
    assert all(line["silent"] == [] for line in taken)
    assert all(line["bytes"] for line in given)
    turns = list(zip(map(moment, taken), map(moment, given), strict=True))
    for scored in traces(run):
        started, finished = scored.rollout.started_at, scored.rollout.finished_at
        assert not any(started < end and begin < finished for begin, end in turns), "answered while the learner learned"
    assert all(line["seconds/devices"] > 0 for line in run.scalars() if "seconds/batch" in line)


def kill_actor_that_sleeps(run: Run, launcher: psutil.Process) -> None:
    wait_for(run, "actor-0", "actor_sleeps", 1)
    for process in processes(launcher, "actors", "actor-0"):
        process.kill()


def kill_actor_that_answers(run: Run, launcher: psutil.Process) -> None:
    wait_for(run, "actor-0", "weights_updated", 2)
    for process in processes(launcher, "actors", "actor-0"):
        process.kill()


def kill_learner_that_learns(run: Run, launcher: psutil.Process) -> None:
    wait_for(run, "learner", "devices_taken", 2)
    for process in processes(launcher, "torch.distributed.run"):
        process.kill()


def kill_learner_while_actors_answer(run: Run, launcher: psutil.Process) -> None:
    wait_for(run, "learner", "published", 2)
    for process in processes(launcher, "torch.distributed.run"):
        process.kill()


@pytest.mark.full(sibling=SIBLING)
@pytest.mark.parametrize(
    "disturb",
    [
        kill_actor_that_sleeps,
        kill_actor_that_answers,
        kill_learner_that_learns,
        kill_learner_while_actors_answer,
    ],
)
def test_whoever_dies_gives_its_device_back_and_the_run_ends_with_the_same_weights(
    trained: Run,
    tmp_path: Path,
    cold_start_model: Path,
    shapes: dict[str, Path],
    leftovers: list[psutil.Process],
    disturb: Callable[[Run, psutil.Process], None],
):
    run = training(tmp_path, cold_start_model, shapes, *SHARED)
    process = run.start()
    launcher = psutil.Process(process.pid)
    leftovers.append(launcher)
    disturb(run, launcher)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output + run.logs()
    assert "restarting it" in output
    assert equal_weights(trained, run)


@pytest.mark.full(sibling=SIBLING)
def test_an_actor_that_hangs_is_killed_so_that_the_learner_can_learn(
    tmp_path: Path, cold_start_model: Path, shapes: dict[str, Path], leftovers: list[psutil.Process]
):
    run = training(tmp_path, cold_start_model, shapes, *SHARED, "actors.count=2")
    process = run.start()
    launcher = psutil.Process(process.pid)
    leftovers.append(launcher)
    wait_for(run, "actor-0", "weights_updated", 2)
    hung = processes(launcher, "actors", "actor-0")
    for one in hung:
        one.send_signal(signal.SIGSTOP)
    output, _ = process.communicate(timeout=240)
    for one in hung:
        if one.is_running():
            one.kill()
    assert process.returncode == 0, output + run.logs()
    (ended,) = events(run, "learner", "device_holder_ended")
    assert ended["pid"] in [one.pid for one in hung]
    assert len([line for line in run.scalars() if "seconds/batch" in line]) == 3


@pytest.mark.full(sibling=SIBLING)
@pytest.mark.parametrize("mode", ["wait", "in_flight", "abort"])
def test_prompts_under_way_when_an_actor_falls_asleep_begin_again_with_the_weights_that_wake_it(
    tmp_path: Path, cold_start_model: Path, single_rank: torch.device, mode: str
):
    options = [f"model.path={cold_start_model}", *TINY, "actors.placement=shared", "learner.weights.sync_timeout_s=20"]
    with running_actors(tmp_path, 1, [*options, f"learner.weights.update_mode={mode}"]) as actors:
        learner = Learner(actors, Bench(single_rank.type, tmp_path, None, {}))
        learner.give()
        learner.send(0)

        async def work() -> list[pb.Rollout]:
            redis = await connect(actors.config.streams)
            streams = partial(Stream, redis, Keys(actors.config.streams_name))
            prompts = streams("prompts", actors.config.streams)
            rollouts = streams("rollouts", actors.config.streams, group="test", consumer="test")
            await rollouts.open()
            await feed(prompts, [f"asleep/{number}" for number in range(PROMPTS)], 0)
            taken = await take(rollouts, 1)
            await asyncio.to_thread(learner.take)
            await asyncio.to_thread(learner.give)
            await asyncio.to_thread(learner.send, 1)
            taken += await take(rollouts, 8 * PROMPTS - len(taken))
            await redis.aclose()
            return taken

        versions = [[span.policy_version for span in rollout.sample.versions] for rollout in asyncio.run(work())]
    assert set(map(tuple, versions)) == {(0,), (1,)}
