"""A run of real processes under a hail of faults, and an audit of what is left of it.

`python -m bench.soak --minutes N --seed S [--rows R] [--folder F]`: two actors, two replicas of the reward service, the
learner and Redis with its append-only file. Every few seconds one of them, drawn by the seed, is killed (SIGKILL) or
frozen for some seconds (SIGSTOP), Redis included; at first each is killed once. What has ended is started again, as a
cluster would, the learner with the next update mode in turn. All prompts have an image. After N minutes the run is
left in peace until its epoch of R prompts is complete. Then is looked at whether anything was lost, doubled, orphaned
or left over.
"""

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil

from reward_service.store import TraceFilter, TraceReader, open_store
from vision_sr1.cli.launcher.processes import ServiceProcess, stop_all
from vision_sr1.cli.launcher.services import Services
from vision_sr1.config import Config, load_config
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.pipeline.wire import SCHEMA_VERSION
from vision_sr1.prompting.prompt_template import IMAGE_MARKER, PromptTemplate
from vision_sr1.run_folder.ledger import read_ledger
from vision_sr1.run_folder.names import REDIS
from vision_sr1.runtime import rpc
from vision_sr1.streams import Keys, StreamsUnavailableError, connect
from vision_sr1.streams.embedded import EmbeddedRedis, running_server
from vision_sr1.streams.status import stream_statuses
from vision_sr1.v1 import actor_pb2, actor_pb2_grpc
from vision_sr1.v1 import pipeline_pb2 as pb

ROWS, PROMPTS_PER_BATCH, GROUP_SIZE = 256, 8, 4
PAUSE_S = (3.0, 9.0)  # between faults
FREEZE_S = (2.0, 8.0)
LEARNER_REST_S = 30.0  # it takes 15 to come up
FINISH_S = 900.0
LATE_S = 180.0  # for an actor that was killed at the very end: it reads the last checkpoint
END_S = 20.0
SAMPLE_S = 5.0
TOLERANCE = 1e-3  # of log-probabilities: actor beside transformers
EMPTY_SHARE = 0.02  # of answers, by chance
MODES = ("abort", "wait", "in_flight")  # of updates, one after the other; the learner's first is the default

SIZES = [
    "model.dtype=float32",
    "model.max_model_len=256",
    "model.min_pixels=3136",
    "model.max_pixels=3136",
    "data.prompt_template=plain_answer",
    "sampling.top_p=1.0",
    "sampling.max_tokens=64",
    f"sampling.group_size={GROUP_SIZE}",
    "reward.requery.template=plain_requery",
    "reward.requery.max_tokens=24",
    "reward.requery.timeout_s=10",
    "learner.zero_stage=2",
    f"learner.prompts_per_batch={PROMPTS_PER_BATCH}",
    "learner.prompts_per_step=4",
    "learner.max_staleness=1",
    "learner.learning_rate=1e-4",
    "learner.checkpoint_every=2",
    "learner.evaluate_every=0",
    "learner.groups_timeout_s=300",
    "learner.weights.sync_timeout_s=10",
    "learner.batches=100000",
    "metrics.learner_port=0",
    "metrics.actor_port=0",
    "streams.lease_s=3",
    "streams.timeout_s=3",
    "streams.max_deliveries=50",
]


@dataclass
class Watch:
    """Everything that runs: starts again what has ended, and remembers how much memory it took."""

    services: list[ServiceProcess]
    learner: ServiceProcess
    redis: EmbeddedRedis
    log: Path
    modes: list[str] = field(default_factory=lambda: ["in_flight"])  # of the learner's starts
    restarts: Counter[str] = field(default_factory=Counter)
    frozen: dict[str, float] = field(default_factory=dict)  # until when
    memory: dict[str, list[float]] = field(default_factory=dict)  # MB, one value a sample
    sampled_at: float = 0.0

    def look(self) -> None:
        """One round."""
        if self.redis.process.poll() is not None:
            self.restarts["redis"] += 1
            self.redis.start()
        for service in self.services:
            status = service.exit_status()
            if status is not None:
                self.restarts[service.name] += 1
                self.note(f"{service.name} ended with {service.own_status()}: started again")
                service.kill_tree()
                if service is self.learner:
                    self.change_mode()
                service.start()
        for name, until in list(self.frozen.items()):
            if time.monotonic() > until:
                del self.frozen[name]
                self.send(name, signal.SIGCONT)
        if time.monotonic() - self.sampled_at > SAMPLE_S:
            self.sampled_at = time.monotonic()
            for name, process in self.processes().items():
                with suppress(psutil.Error):
                    tree = [process, *process.children(recursive=True)]
                    megabytes = sum(p.memory_info().rss for p in tree) / 2**20
                    self.memory.setdefault(name, []).append(megabytes)

    def change_mode(self) -> None:
        """The learner's next start has the next update mode."""
        mode = MODES[(len(self.modes) - 1) % len(MODES)]
        self.modes.append(mode)
        self.learner.again = ("learner.resume=true", f"learner.weights.update_mode={mode}")

    def processes(self) -> dict[str, psutil.Process]:
        """The main process of each service that runs."""
        found = {service.name: service.process for service in self.services}
        alive = {}
        for name, process in {**found, "redis": self.redis.process}.items():
            if process is not None and process.poll() is None:
                with suppress(psutil.NoSuchProcess):
                    alive[name] = psutil.Process(process.pid)
        return alive

    def send(self, name: str, signum: signal.Signals) -> None:
        """To a service and all its processes, as if its machine died or hung."""
        with suppress(psutil.Error, KeyError):
            process = self.processes()[name]
            for one in [process, *process.children(recursive=True)]:
                with suppress(psutil.Error):
                    one.send_signal(signum)

    def note(self, text: str) -> None:
        """Into the soak's own log."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=ROWS, help="prompts of an epoch; a multiple of 8")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = soak(arguments.folder or Path(temporary), arguments.minutes, arguments.seed, arguments.rows)
    for wrong in result["wrong"]:
        print(f"WRONG: {wrong}")
    print(json.dumps(result))
    sys.exit(1 if result["wrong"] else 0)


def soak(folder: Path, minutes: float, seed: int, rows: int) -> dict[str, Any]:
    """Runs, disturbs, lets finish and audits; the result's `wrong` lists what is not as promised."""
    data, model = prepare(folder, rows)
    options = [f"run.dir={folder}", "run.name=soak", f"model.path={model}", f"data.train={data}", *SIZES]
    config = load_config(None, options, environment={}).config
    started = time.monotonic()
    with Services(config) as made, ExitStack() as ending:
        assert made.redis is not None
        learner = made.learner()
        others = [made.actor(0), made.actor(1), made.reward_service(0), made.reward_service(1)]
        watch = Watch([learner, *others], learner, made.redis, folder / "soak.log")
        ending.callback(stop_all, others, 5.0)
        ending.callback(stop_all, [learner], 10.0)  # first
        for service in watch.services:
            service.start()
        until(watch, "the first batch", lambda: _batches(config) >= 1)
        faults = disturb(watch, minutes, random.Random(seed))
        until(watch, "waking up", lambda: not watch.frozen)
        batches = finish(watch, config, rows)
        actors = [service.name for service in others if service.name.startswith("actor")]
        until(watch, "the actors' last version", lambda: _versions(config) == [batches] * len(actors), LATE_S)
        wrong = audit(made.config, watch, batches, rows)
        processes = [p for main in watch.processes().values() for p in [main, *main.children(recursive=True)]]
    _, left = psutil.wait_procs(processes, timeout=END_S)  # an engine ends a moment after its actor
    if names := [name for process in left if (name := _running(process))]:
        wrong.append(f"{len(names)} processes are left: {', '.join(names)}")
    return {
        "name": "soak_faults",
        "value": sum(faults.values()),
        "unit": "faults",
        "minutes": round((time.monotonic() - started) / 60, 1),
        "seed": seed,
        "kills": sum(count for (_, what), count in faults.items() if what == "killed"),
        "freezes": sum(count for (_, what), count in faults.items() if what == "frozen"),
        "faults": {f"{name} {what}": count for (name, what), count in sorted(faults.items())},
        "restarts": dict(sorted(watch.restarts.items())),
        "update_modes": watch.modes,
        "batches": batches,
        "rollouts": batches * PROMPTS_PER_BATCH * GROUP_SIZE,
        "memory_mb": {
            name: [round(values[0]), round(max(values)), round(values[-1])] for name, values in watch.memory.items()
        },
        "wrong": wrong,
    }


def prepare(folder: Path, rows: int = ROWS) -> tuple[Path, Path]:
    """Made data, and a tiny model that has learned to write descriptions."""
    from vision_sr1.cli.tasks.distributions import TASKS, corpus, write_task
    from vision_sr1.cli.tasks.tiny_model import make_tiny_model

    paths = write_task(TASKS["shapes"], folder / "data", seed=0, base=1, cold_start=1600, train=rows, held_out=8)
    model = folder / "model"
    if not model.exists():
        make_tiny_model(folder / "random", corpus(TASKS["shapes"], rows=300))
        teach(folder, "taught", folder / "random", paths["cold_start"], model)
    return paths["train"], model


def teach(folder: Path, name: str, model: Path, conversations: Path, output: Path) -> None:
    """A cold start of a tiny model, as a run of this name."""
    options = [
        f"run.dir={folder}",
        f"run.name={name}",
        f"model.path={model}",
        f"data.sft={conversations}",
        f"learner.sft.output={output}",
        "learner.zero_stage=1",
        "learner.sft.steps=60",
        "learner.sft.sequences_per_step=32",
        "learner.sft.learning_rate=3e-3",
        "learner.sft.freeze_vision=false",
        *SIZES[:4],
    ]
    (folder / "empty.yaml").write_text("{}\n")
    command = [sys.executable, "-m", "vision_sr1", "sft", str(folder / "empty.yaml"), *options, "--fresh"]
    subprocess.run(command, check=True, timeout=600, stdout=subprocess.DEVNULL)


def until(watch: Watch, what: str, reached: Callable[[], bool], seconds: float = FINISH_S) -> None:
    """Keeps everything running until something is reached."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} was not reached in {seconds:.0f} s; logs are beside {watch.log}")
        watch.look()
        time.sleep(0.2)


def disturb(watch: Watch, minutes: float, chance: random.Random) -> Counter[tuple[str, str]]:
    """Kills and freezes for so long; counts both by process."""
    faults: Counter[tuple[str, str]] = Counter()
    end = time.monotonic() + 60 * minutes
    following = learner_rests = time.monotonic()
    names = [*(service.name for service in watch.services), "redis"]
    unharmed = chance.sample(names, len(names))
    while time.monotonic() < end:
        watch.look()
        time.sleep(0.2)
        if time.monotonic() < following:
            continue
        following = time.monotonic() + chance.uniform(*PAUSE_S)
        name = unharmed[-1] if unharmed else chance.choice(names)
        kills, seconds = chance.random() < 0.7, chance.uniform(*FREEZE_S)
        if name in watch.frozen or name not in watch.processes():
            continue
        if name == "learner":
            if time.monotonic() < learner_rests:
                continue
            learner_rests = time.monotonic() + LEARNER_REST_S
        if unharmed:
            unharmed.pop()
            kills = True
        what = "killed" if kills else "frozen"
        faults[name, what] += 1
        watch.note(f"{name} {what}{'' if kills else f' for {seconds:.1f} s'}")
        if kills:
            watch.send(name, signal.SIGKILL)
        else:
            watch.frozen[name] = time.monotonic() + seconds
            watch.send(name, signal.SIGSTOP)
    return faults


def finish(watch: Watch, config: Config, rows: int) -> int:
    """Stops the learner as a preemption would, and has another one complete the epoch; returns its last batch."""
    learner = watch.learner
    watch.services.remove(learner)
    learner.terminate()
    until(watch, "the learner's end", lambda: learner.exit_status() is not None, 120.0)
    per_epoch = rows // PROMPTS_PER_BATCH
    batches = -(-(_batches(config) + 2) // per_epoch) * per_epoch  # two batches of prompts may have been issued
    watch.note(f"in peace until batch {batches}")
    watch.change_mode()
    learner.again = (*learner.again, f"learner.batches={batches}")
    learner.start()
    until(watch, f"batch {batches}", lambda: learner.exit_status() is not None)
    if learner.own_status() != 0:
        raise SystemExit(f"the learner ended with {learner.own_status()}:\n{learner.last_lines()}")
    return batches


def audit(config: Config, watch: Watch, batches: int, rows: int) -> list[str]:
    """What is not as it should be."""
    wrong = [*_audit_ledger(config, batches, rows), *_audit_answers(config), *_audit_memory(watch)]
    wrong += asyncio.run(_audit_streams(config))
    wrong += asyncio.run(_audit_weights(config, batches))
    return wrong


def _audit_ledger(config: Config, batches: int, rows: int) -> Iterator[str]:
    """Every prompt of every epoch exactly once, and no group short."""
    ledger = {number: groups for number, groups in read_ledger(config.run.path).items() if number <= batches}
    if sorted(ledger) != list(range(1, batches + 1)):
        yield f"batches {sorted(set(range(1, batches + 1)) - ledger.keys())} are not in the ledger"
    trained = Counter(prompt for groups in ledger.values() for prompt in groups)
    epochs = batches * PROMPTS_PER_BATCH // rows
    expected = {f"{epoch}/{index}" for epoch in range(epochs) for index in range(rows)}
    if missing := expected - trained.keys():
        yield f"{len(missing)} prompts were never trained on: {sorted(missing)[:5]}"
    if doubled := [prompt for prompt, count in trained.items() if count > 1]:
        yield f"{len(doubled)} prompts were trained on more than once: {sorted(doubled)[:5]}"
    if strange := trained.keys() - expected:
        yield f"{len(strange)} prompts are of no complete epoch: {sorted(strange)[:5]}"
    wrong_sizes = {p: n for groups in ledger.values() for p, n in groups.items() if n != GROUP_SIZE}
    if wrong_sizes:
        yield f"{len(wrong_sizes)} groups have not {GROUP_SIZE} rollouts: {dict(list(wrong_sizes.items())[:5])}"


def _audit_answers(config: Config) -> Iterator[str]:
    """All are about an image, ended by the policy or by their length, and empty by chance alone."""
    reader = TraceReader(open_store(config.reward.traces, config.traces_url, read_only=True))
    samples, last = [], 0
    while found := reader.after(TraceFilter(config.run.name), last, 1_000):
        last = found[-1].sequence
        rollouts = [trace.scored.rollout for trace in found]
        samples += [rollout.sample for rollout in rollouts]
        if blind := [rollout.id for rollout in rollouts if not rollout.prompt.images]:
            yield f"{len(blind)} prompts had no image: {blind[:5]}"
    reader.close()
    reasons = Counter(sample.finish_reason for sample in samples)
    if not reasons or reasons.keys() - {"stop", "length"}:
        yield f"answers ended by {dict(reasons)}"
    empty = sum(len(sample.response_token_ids) <= 1 for sample in samples)
    if empty > EMPTY_SHARE * len(samples):
        yield f"{empty} of {len(samples)} answers are empty"


def _audit_memory(watch: Watch) -> Iterator[str]:
    """No process takes more in the last third than half as much again as in the first."""
    for name, values in watch.memory.items():
        third = len(values) // 3
        if third and max(values[-third:]) > 1.5 * max(values[:third]) + 100:
            yield f"{name} grew from {max(values[:third]):.0f} to {max(values[-third:]):.0f} MB"


async def _audit_streams(config: Config) -> list[str]:
    """Nothing waits, nothing is dead, and no key stays but those of the run itself."""
    wrong: list[str] = []
    streams = running_server(config.run.path / REDIS)
    if streams is None:
        raise StreamsUnavailableError("the soak's Redis is not running")
    redis: Any = await connect(streams)
    keys = Keys(config.streams_name)
    wrong += [
        f"stream {stream.name}: {stream.depth} entries, {stream.dead} dead"
        for stream in await stream_statuses(redis, keys)
        if stream.depth or stream.dead
    ]
    stay = {keys.learner, keys.actors, keys.published, *(keys.stream(n) for n in ("prompts", "rollouts", "scored"))}
    stay |= {keys.stream("evaluated"), keys.stream("dead")}
    async for key in redis.scan_iter(count=1000):
        name = key.decode()
        if name not in stay and await redis.ttl(name) == -1:
            wrong.append(f"key {name} would stay for ever")
    await redis.aclose()
    return wrong


async def _audit_weights(config: Config, batches: int) -> list[str]:
    """The last checkpoint loads, and every actor answers with its weights."""
    import torch

    from learner.model.packing import pack
    from learner.model.policy import load_policy, rope_positions, token_logprobs
    from learner.model.sequences import SequenceBuilder
    from vision_sr1.data import Questions

    policy = load_policy(
        config, str(config.run.path / "checkpoints" / f"{batches:06d}" / "policy"), forbidden_token_ids=[]
    )
    builder = SequenceBuilder(config.model)
    row = Questions(config.data.train[0].path, config.data)[0]
    streams = running_server(config.run.path / REDIS)
    assert streams is not None
    redis = await connect(streams)
    actors = await Fleet(redis, Keys(config.streams_name)).alive()
    await redis.aclose()
    wrong = []
    for actor in actors:
        request = actor_pb2.GenerateRequest(
            schema_version=SCHEMA_VERSION,
            request_id=f"audit-{actor.id}",
            text=PromptTemplate(config.data.prompt_template).answer(row.question.replace(IMAGE_MARKER, ""), 0),
            num_samples=1,
            sampling=pb.SamplingParams(temperature=1.0, top_p=1.0, max_tokens=24, seed=1),
            required_policy_version=batches,
        )
        try:
            async with rpc.aio_channel(actor.address, config.tls) as channel:
                replies = [r async for r in actor_pb2_grpc.ActorStub(channel).Generate(request, timeout=60)]
        except grpc.aio.AioRpcError as error:
            wrong.append(f"actor {actor.id}: {error.code().name} {error.details()}")
            continue
        sample = replies[0].sample
        sequence = builder.from_tokens(list(sample.prompt_token_ids), list(sample.response_token_ids), None)
        packed = pack([sequence], builder.filler(), lambda s: rope_positions(policy, s))
        with torch.no_grad():
            here = token_logprobs(policy, packed, torch.device("cpu")).tolist()
        worst = max(abs(a - b) for a, b in zip(here, sample.logprobs, strict=True))
        if worst > TOLERANCE:
            wrong.append(f"actor {actor.id}: log-probabilities differ from the checkpoint's by {worst:.4f}")
    return wrong


def _versions(config: Config) -> list[int]:
    """What the actors alive hold; one that was killed is among them until its heartbeat expires."""

    async def look() -> list[int]:
        streams = running_server(config.run.path / REDIS)
        assert streams is not None
        redis = await connect(streams)
        actors = await Fleet(redis, Keys(config.streams_name)).alive()
        await redis.aclose()
        return [actor.policy_version for actor in actors]

    return asyncio.run(look())


def _running(process: psutil.Process) -> str | None:
    """The name of a process that runs; None of one that has ended, whether or not its parent has noticed."""
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.name())
    except psutil.NoSuchProcess:
        return None


def _batches(config: Config) -> int:
    """The last batch learned."""
    try:
        return max(read_ledger(config.run.path), default=0)
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
