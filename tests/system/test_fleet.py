"""Weights for a fleet whose actors die, stall, come late and come back, from a learner that does so too."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from learner.model.sequences import SequenceBuilder
from reward_service.requery import Requerier
from tests.conftest import TINY
from tests.system import nccl_over_gloo
from tests.system.actors import Actor, greedy, redis_for, running_actor
from vision_sr1.config import Config, RequeryConfig
from vision_sr1.data import Questions
from vision_sr1.pipeline.fleet import Fleet as Registry
from vision_sr1.streams import Keys, connect
from vision_sr1.v1 import pipeline_pb2 as pb

SYNC_TIMEOUT_S = 5
OPTIONS = [
    *TINY,
    "data.prompt_template=plain_answer",
    "actors.heartbeat_s=0.5",
    "learner.zero_stage=3",
    f"learner.weights.sync_timeout_s={SYNC_TIMEOUT_S}",
    "learner.weights.bucket_mib=0.25",
    "learner.weights.verify_every=1",
    "learner.weights.verify_tolerance=0.001",
]


@dataclass
class Fleet:
    """Actors and a learner of two ranks that publishes on command."""

    folder: Path
    config: Config
    environment: dict[str, str]
    stack: ExitStack
    actors: dict[str, Actor] = field(default_factory=dict)
    learner: subprocess.Popen[bytes] | None = None
    commands: int = 0

    def start_actors(self, *names: str, holding: int | None = None) -> list[Actor]:
        """At once; with a version that they hold, they wait for none."""
        options = () if holding is None else ("--policy-version", str(holding))
        starting = [running_actor(self.folder, self.config, self.environment, name, options=options) for name in names]
        with ThreadPoolExecutor(len(names)) as pool:
            started = list(pool.map(lambda actor: actor.__enter__(), starting))
        for actor in starting:
            self.stack.push(actor)
        self.actors |= dict(zip(names, started, strict=True))
        return started

    def start_learner(self) -> None:
        for file in self.folder.glob("[0-9]*.json"):
            file.unlink()
        self.commands = 0
        log = self.stack.enter_context((self.folder / "learner.log").open("ab"))
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
        command += ["-m", "tests.system.publishing_learner", str(self.folder / "config.yaml"), str(self.folder)]
        self.learner = subprocess.Popen(
            command, env={**os.environ, **self.environment, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log
        )
        self.stack.callback(kill, self.learner)

    def tell(self, **command: object) -> int:
        """Has the learner do something; its number is for `done`."""
        number = self.commands
        self.commands += 1
        part = self.folder / f"{number}.part"
        part.write_text(json.dumps(command))
        part.rename(self.folder / f"{number}.json")
        return number

    def done(self, number: int, timeout_s: float = 120) -> float:
        """The seconds that it took."""
        deadline = time.monotonic() + timeout_s
        answer = self.folder / f"{number}.done.json"
        while not answer.exists():
            assert self.learner is not None
            assert self.learner.poll() is None, self.log()[-3000:]
            assert time.monotonic() < deadline, self.log()[-3000:]
            time.sleep(0.05)
        return float(json.loads(answer.read_text())["seconds"])

    def do(self, **command: object) -> float:
        return self.done(self.tell(**command))

    def lost(self) -> list[str]:
        """The actors that the learner says it has lost."""
        lines = [json.loads(line) for line in self.log().splitlines() if '"publish_failed"' in line]
        return [actor for line in lines for actor in line["lost"]]

    def log(self) -> str:
        return (self.folder / "learner.log").read_text(errors="replace")

    def check(self, version: int, *names: str) -> None:
        """These actors hold the version, and answer as transformers does with its weights."""
        model = AutoModelForImageTextToText.from_pretrained(self.config.model.path, dtype=torch.float32)
        model.load_state_dict(load_file(self.folder / f"v{version}.safetensors"), strict=False)
        builder = SequenceBuilder(self.config.model)
        forbidden = builder.family.reserved_token_ids(builder.tokenizer)
        row = Questions(self.config.data.train[0].path, self.config.data)[0]
        for text, images in ((row.question, row.images), ("top left square red . what color is the square", [])):
            actors = [self.actors[name] for name in names]
            samples = [actor.generate(text, [actor.image(image) for image in images]) for actor in actors]
            prompt = list(samples[0].prompt_token_ids)
            tokens, logprobs = greedy(model, prompt, builder.images(images), forbidden)
            for sample in samples:
                assert list(sample.prompt_token_ids) == prompt
                assert {span.policy_version for span in sample.versions} == {version}
                assert list(sample.response_token_ids) == tokens
                assert list(sample.logprobs) == pytest.approx(logprobs, abs=2e-4)


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
    process.wait()


def pids(actor: Actor) -> list[int]:
    return [actor.process.pid, *(c.pid for c in psutil.Process(actor.process.pid).children(recursive=True))]


@pytest.fixture(scope="module")
def fleet(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    cold_start_model: Path,
    shapes: dict[str, Path],
) -> Iterator[Fleet]:
    backend, tensor_parallel_size = request.param
    folder = tmp_path_factory.mktemp("fleet")
    options = [f"model.path={cold_start_model}", f"data.train={shapes['train']}", *OPTIONS]
    options += [f"learner.weights.backend={backend}", f"actors.tensor_parallel_size={tensor_parallel_size}"]
    options += [f"learner.weights.sync_timeout_s={SYNC_TIMEOUT_S * tensor_parallel_size**2}"]  # workers wait busily
    with redis_for(folder, *options) as (config, environment), ExitStack() as stack:
        if backend == "nccl":
            environment = {**environment, **nccl_over_gloo.SWITCH}
        fleet = Fleet(folder, config, environment, stack)
        fleet.start_learner()
        fleet.start_actors("a", "b", "c")
        yield fleet


STALL = "test_actors_that_stall_die_come_late_and_come_back_never_answer_with_wrong_weights"
OVER_NCCL = pytest.mark.full(sibling=f"tests/system/test_fleet.py::{STALL}")


@pytest.mark.parametrize(
    "fleet",
    [("gloo", 1), *(pytest.param(("nccl", workers), marks=OVER_NCCL) for workers in (1, 2))],
    ids=lambda parameters: "-".join(map(str, parameters)),
    indirect=True,
    scope="module",
)
def test_actors_that_stall_die_come_late_and_come_back_never_answer_with_wrong_weights(
    fleet: Fleet, say: Callable[[str], None]
):
    a, b, c = (fleet.actors[name] for name in "abc")
    say(f"first version to three actors: {fleet.do(publish=0):.1f} s")
    fleet.check(0, "a", "b", "c")

    stalled = fleet.tell(publish=1, signal=pids(a), number=signal.SIGSTOP, at_bucket=2)
    seconds = fleet.done(stalled)
    say(f"one of three stalls in mid-broadcast: the others have the version after {seconds:.1f} s")
    assert fleet.lost() == [a.info.id]
    fleet.check(1, "b", "c")
    a.signal(signal.SIGCONT)
    say(f"it wakes up: it has the version after {fleet.do(catch_up=1):.1f} s")
    fleet.check(1, "a", "b", "c")

    seconds = fleet.do(publish=2, signal=pids(a), number=signal.SIGKILL, at_bucket=2)
    say(f"one of three dies in mid-broadcast: the others have the version after {seconds:.1f} s")
    fleet.check(2, "b", "c")

    b.signal(signal.SIGKILL)
    say(f"one of two has died before: the other has the version after {fleet.do(publish=3):.1f} s")
    fleet.check(3, "c")

    fleet.do(write=3)
    (d,) = fleet.start_actors("d")
    started = time.monotonic()
    while d.version() != 3 and time.monotonic() < started + 60:
        time.sleep(0.1)
    say(f"one joins while the learner is busy: it has read the version after {time.monotonic() - started:.1f} s")
    fleet.check(3, "c", "d")

    fleet.do(publish=4)
    assert d.info.id not in fleet.lost()
    fleet.check(4, "c", "d")
    d.signal(signal.SIGKILL)
    fleet.check(4, "c")
    say(f"one of two has died after a broadcast: the other has the next after {fleet.do(publish=5):.1f} s")
    fleet.check(5, "c")

    assert fleet.learner is not None
    kill(fleet.learner)
    fleet.check(5, "c")
    started = time.monotonic()
    fleet.start_learner()
    fleet.do(publish=6)
    say(f"the learner starts again: the same actor has its version after {time.monotonic() - started:.1f} s")
    fleet.check(6, "c")
    assert c.process.poll() is None

    (e,) = fleet.start_actors("e")
    with pytest.raises(grpc.RpcError, match="holds no published weights yet"):
        e.generate("what color is the square", [])
    say(f"one joins between steps: it has the version after {fleet.do(catch_up=6):.1f} s")
    fleet.check(6, "c", "e")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, cold_start_model: Path) -> Iterator[tuple[Actor, Actor]]:
    """Two actors without a learner that hold version 6; the first may be gone."""
    folder = tmp_path_factory.mktemp("pair")
    with redis_for(folder, f"model.path={cold_start_model}", *OPTIONS) as (config, environment), ExitStack() as stack:
        fleet = Fleet(folder, config, environment, stack)
        first, second = fleet.start_actors("first", "second", holding=6)
        yield first, second


@contextlib.asynccontextmanager
async def asking(config: Config, **options: object) -> AsyncIterator[Requerier]:
    redis = await connect(config.streams)
    requery = RequeryConfig(template="plain_requery", max_tokens=8, **options)
    requerier = Requerier(requery, Registry(redis, Keys(config.streams_name)), config.tls)
    yield requerier
    await requerier.close()
    await redis.aclose()


def rollout_of(actor: Actor, version: int, index: int = 0, description: str = "top left square red") -> pb.Rollout:
    """One that was sampled, not greedily, with a seed."""
    sampling = pb.SamplingParams(temperature=1.0, top_p=1.0, seed=7)
    return pb.Rollout(
        id=f"0/0/{index}",
        sample_index=index,
        prompt=pb.Prompt(
            id="0/0",
            question="<image>what color is the square",
            sampling=sampling,
            group_size=3,
            further_questions=[pb.FurtherQuestion(question="<image>what shape is at the top left", answer="square")],
        ),
        sample=pb.Sample(versions=[pb.VersionSpan(policy_version=version, end=1)]),
        actor_id=actor.info.id,
        actor_address=actor.info.address,
        parts=pb.ResponseParts(description=description),
    )


async def test_equal_descriptions_of_a_group_share_a_greedy_requery_and_sampled_ones_differ(pair: tuple[Actor, Actor]):
    _, actor = pair
    rollouts = [rollout_of(actor, 6, index) for index in range(3)]

    async def answers(requerier: Requerier) -> list[list[pb.Requery]]:
        return await asyncio.gather(*(requerier.ask(rollout) for rollout in rollouts))

    def tokens(requeries: list[pb.Requery]) -> list[list[int]]:
        return [list(requery.sample.response_token_ids) for requery in requeries]

    async with asking(actor.config, temperature=0) as requerier:
        first, *others = await answers(requerier)
        (apart,) = await requerier.ask(rollout_of(actor, 6, description="top left square blue"))
    assert [requery.shared for requery in first] == [False]
    assert all([requery.shared for requery in other] == [True] for other in others)
    assert all(tokens(other) == tokens(first) for other in others)
    assert not apart.shared
    assert first[0].prompt == "top left square red . what color is the square"
    async with asking(actor.config, temperature=0, samples=2) as requerier:
        own, further, same = [await requerier.ask(rollouts[0], question) for question in (0, 1, 1)]
    assert [requery.question for requery in [*own, *further, *same]] == [0, 0, 1, 1, 1, 1]
    assert [requery.shared for requery in [*own, *further, *same]] == [False] * 4 + [True] * 2, "by the question too"
    assert further[0].prompt == "top left square red . what shape is at the top left"
    async with asking(actor.config, samples=2) as requerier:
        each = await answers(requerier)
        again = await answers(requerier)
    assert not any(requery.shared for requeries in each for requery in requeries)
    assert len({tuple(ids) for requeries in each for ids in tokens(requeries)}) > 1
    assert [tokens(requeries) for requeries in again] == [tokens(requeries) for requeries in each], "they are seeded"
    async with asking(actor.config, samples=2, reuse="always") as requerier:
        each = await answers(requerier)
    assert sorted(requery.shared for requeries in each for requery in requeries) == [False] * 2 + [True] * 4


async def test_a_requery_stays_with_its_actor_and_goes_to_another_when_that_one_is_gone(
    pair: tuple[Actor, Actor], say: Callable[[str], None]
):
    own, other = pair

    async def ask(version: int) -> pb.Requery:
        (requery,) = await requerier.ask(rollout_of(own, version))
        return requery

    async with asking(own.config) as requerier:
        requery = await ask(6)
        assert (requery.actor_id, requery.policy_version) == (own.info.id, 6)
        requery = await ask(5)
        assert (requery.actor_id, requery.policy_version) == (own.info.id, 6)
        own.signal(signal.SIGSTOP)
        started = time.monotonic()
        requery = await ask(6)
        say(f"an actor stalls: another has answered its re-query after {time.monotonic() - started:.1f} s")
        assert (requery.actor_id, requery.policy_version) == (other.info.id, 6)
        own.signal(signal.SIGKILL)
        requery = await ask(6)
        assert (requery.actor_id, requery.policy_version) == (other.info.id, 6)
