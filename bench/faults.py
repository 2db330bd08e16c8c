"""Metrics of real runs at their faults, for the tests of alerts.

`python -m bench.faults [--folder F] [--only NAME ... --output FILE]` starts two runs of real services, one that is
disturbed on purpose and one that was set up carelessly, beside a Prometheus (Debian's) that takes a sample a second.
Each fault becomes a test of `deploy/prometheus/recorded.test.yaml`, which plays those samples as one a minute: a tiny
model's seconds are a large one's minutes. Which alerts are due is said here, by hand, and judged by promtool. Some
recordings alone, named as in that file, go to a file of their own.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from bench.prometheus import CONFIG, METRIC, RULES, Prometheus, alerts
from bench.soak import SIZES, prepare, teach
from vision_sr1.cli.launcher.processes import ServiceProcess, stop_all
from vision_sr1.cli.launcher.services import Services
from vision_sr1.config import Config, load_config
from vision_sr1.prompting.response import parse_response
from vision_sr1.run_folder.names import REDIS
from vision_sr1.runtime.ports import free_port
from vision_sr1.streams import Keys, Output, Stream, connect
from vision_sr1.streams.embedded import running_server

RECORDED = CONFIG / "recorded.test.yaml"
BEFORE_S = 15  # of each recording, before its fault
UP_S = 240.0
NO_ROOM = 2**20  # bytes that a file may have on the disk that is full

Test = dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """What is recorded.

    Attributes:
        seconds: of a run as it is, or of a fault.
        due: alerts that fire at its end; no other does.
    """

    seconds: int
    due: Sequence[str] = ()


HEALTHY, CARELESS = "a healthy run", "a careless run"
RECORDINGS = {
    HEALTHY: Recording(120),
    "a prompt that nobody can read": Recording(10, ["DeadLetters"]),
    "the reward service hangs": Recording(75, ["NoProgress", "ServiceDown", "StageStalled"]),
    "the actors are gone": Recording(75, ["NoActors", "NoProgress", "ServiceDown", "StageStalled"]),
    "an actor's engine hangs": Recording(45, ["VersionSkew"]),
    "Redis hangs": Recording(40, ["RedisUnavailable", "StageStalled"]),
    "the disk is full": Recording(60, ["CheckpointsFail", "ServiceDown"]),
    CARELESS: Recording(75, ["AnswerLeak", "MismatchKL", "RewardsMissing", "TracesLost"]),
}


class Watched:
    """A run of two actors under a Prometheus.

    Args:
        folder: for the run and what watches it.
        model: that the policy begins with.
        data: rows to train on.
        options: beyond those of the soak.
        actors: options of the actors alone.
    """

    def __init__(self, folder: Path, model: Path, data: Path, *options: str, actors: Sequence[str] = ()) -> None:
        self._stack = ExitStack()
        self._names = {name for rule in alerts() for name in METRIC.findall(rule["expr"])} | {"up"}
        folder.mkdir()
        ports = {"actor": free_port(), "learner": free_port(), "reward-service": free_port()}
        chosen = [
            *(f"run.dir={folder}", "run.name=watched", f"model.path={model}", f"data.train={data}"),
            *SIZES,
            *(f"metrics.learner_port={ports['learner']}", f"reward.port={ports['reward-service']}"),
            *options,
        ]
        self.config: Config = load_config(None, chosen, environment={}).config
        self._made = self._stack.enter_context(Services(self.config))
        self.learner = self._made.learner()
        self.actors = [self._made.actor(0), self._made.actor(1)]
        self.reward_service = self._made.reward_service()
        actor_ports = {}
        for actor in self.actors:
            actor_ports[actor.name] = free_port()
            actor.command = [*actor.command, f"metrics.actor_port={actor_ports[actor.name]}", *actors]
        targets = {
            "actor": actor_ports,
            "learner": {"learner": ports["learner"]},
            "reward-service": {"reward-service": ports["reward-service"]},
        }
        self._prometheus = self._stack.enter_context(Prometheus(folder, targets))

    def __enter__(self) -> "Watched":
        services = [self.learner, self.reward_service, *self.actors]
        self._stack.callback(lambda: stop_all(services, 5.0))
        for service in services:
            service.start()
        self._prometheus.wait_until_all_are_up(UP_S)
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def redis(self) -> psutil.Process:
        """Its server."""
        assert self._made.redis is not None
        return psutil.Process(self._made.redis.process.pid)

    def step(self) -> float:
        """Batches that the learner has finished."""
        found = self._prometheus.get("query", query="vision_sr1_learner_step")["result"]
        return float(found[0]["value"][1]) if found else -1.0

    def go_on(self, batches: int = 3) -> None:
        """Returns when so many batches more are finished with both actors, so that nothing is left of a fault."""
        goal, deadline = self.step() + batches, time.monotonic() + UP_S
        while self.step() < goal or self._prometheus.get("query", query="sum(up) < 4")["result"]:
            if time.monotonic() > deadline:
                raise SystemExit(f"the run does not go on; its logs are in {self.config.run.path / 'logs'}")
            time.sleep(1.0)
        time.sleep(2 * self.config.learner.weights.sync_timeout_s)  # an actor that was excluded is back by then

    def record(self, name: str, seconds: int, well_for: int = 0) -> Test:
        """A test of rules from the last seconds, at whose end the alerts that are due fire, and no other.

        Args:
            name: of the recording.
            well_for: so many seconds from its beginning none fires.
        """
        end = time.time()
        series = self._prometheus.recorded(self._names, end - seconds, end)
        firing = [{"labels": f'{{alertname="VisionSR1{alert}"}}', "value": 1} for alert in sorted(RECORDINGS[name].due)]
        asked = 'group by (alertname) (ALERTS{alertstate="firing"})'
        return {
            "name": name,
            "interval": "1m",
            "input_series": [{"series": said, "values": notation(values)} for said, values in series.items()],
            "promql_expr_test": [
                *({"expr": asked, "eval_time": f"{minute}m", "exp_samples": []} for minute in range(well_for)),
                {"expr": asked, "eval_time": f"{seconds}m", "exp_samples": firing},
            ],
        }

    def disturb(self, name: str, fault: Callable[[], Callable[[], object]]) -> Test:
        """Records a fault that lasts to the recording's end; what `fault` returns ends it."""
        time.sleep(BEFORE_S)
        heal = fault()
        time.sleep(RECORDINGS[name].seconds)
        test = self.record(name, BEFORE_S + RECORDINGS[name].seconds, well_for=BEFORE_S)
        heal()
        self.go_on()
        return test


def notation(values: Sequence[float | None]) -> str:
    """Samples as promtool reads them; a target that is gone takes its series with it at once."""
    words, last = [], None
    for value, same in groupby(values):
        count = len(list(same))
        if value is not None:
            words.append(f"{value:.6g}x{count - 1}" if count > 1 else f"{value:.6g}")
        elif last is None:
            words.append(f"_x{count}")
        else:
            words += ["stale"] + ([f"_x{count - 1}"] if count > 1 else [])
        last = value
    return " ".join(words)


def freeze(*processes: psutil.Process) -> Callable[[], None]:
    """Stops them where they are, as a machine that hangs; what is returned lets them go on."""
    whole = [one for process in processes for one in (process, *process.children(recursive=True))]
    for one in whole:
        one.send_signal(signal.SIGSTOP)

    def heal() -> None:
        for one in whole:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGCONT)

    return heal


def kill(*services: ServiceProcess) -> Callable[[], None]:
    """Ends them without warning; what is returned starts them again."""
    for service in services:
        service.kill_tree()

    def heal() -> None:
        for service in services:
            service.start()

    return heal


def fill_disk(learner: ServiceProcess) -> Callable[[], None]:
    """No checkpoint fits any more; what is returned makes room, and starts the learner that has ended over it."""
    for process in (process_of(learner), *process_of(learner).children(recursive=True)):
        process.rlimit(psutil.RLIMIT_FSIZE, (NO_ROOM, resource.RLIM_INFINITY))
    return lambda: kill(learner)()


def write_garbage(config: Config) -> Callable[[], None]:
    """A prompt that nobody can read; what is returned does nothing."""

    async def append() -> None:
        streams = running_server(config.run.path / REDIS)
        assert streams is not None
        redis = await connect(streams)
        stream = Stream(redis, Keys(config.streams_name), "prompts", streams, group="actors", consumer="stranger")
        await stream.append([Output("prompts", "garbage", b"not a prompt")])
        await redis.aclose()

    asyncio.run(append())
    return lambda: None


def process_of(service: ServiceProcess) -> psutil.Process:
    """A service's main process."""
    assert service.process is not None
    return psutil.Process(service.process.pid)


def engine_of(actor: ServiceProcess) -> psutil.Process:
    """The process of its vLLM engine."""
    return next(child for child in process_of(actor).children(recursive=True) if "VLLM" in child.cmdline()[0])


def state_answers(conversations: Path, output: Path) -> None:
    """Conversations whose descriptions say the answer, which a policy then learns to do."""
    table = pq.read_table(conversations)
    told = table["messages"].to_pylist()
    for messages in told:
        description, boxed = messages[1]["content"].partition("</description>")[::2]
        if boxed:
            answer = parse_response(boxed.encode()).answer
            messages[1]["content"] = f"{description} ; the answer is {answer}</description>{boxed}"
    place = table.column_names.index("messages")
    pq.write_table(table.set_column(place, "messages", pa.array(told, table.schema.field("messages").type)), output)


def disturbed(folder: Path, model: Path, data: Path, names: Collection[str]) -> Iterator[Test]:
    """A run to which one thing after another happens, as far as it is to be recorded."""
    with Watched(folder, model, data) as run:
        if HEALTHY in names:
            seconds = RECORDINGS[HEALTHY].seconds
            time.sleep(seconds)
            yield run.record(HEALTHY, seconds, well_for=seconds)
        faults: dict[str, Callable[[], Callable[[], object]]] = {
            "a prompt that nobody can read": lambda: write_garbage(run.config),
            "the reward service hangs": lambda: freeze(process_of(run.reward_service)),
            "the actors are gone": lambda: kill(*run.actors),
            "an actor's engine hangs": lambda: freeze(engine_of(run.actors[1])),
            "Redis hangs": lambda: freeze(run.redis),
            "the disk is full": lambda: fill_disk(run.learner),
        }
        for name, fault in faults.items():
            if name in names:
                yield run.disturb(name, fault)


def careless(folder: Path, data: Path) -> Iterator[Test]:
    """A policy that states the answer, a judge and a database that are not there, actors of an edited model."""
    state_answers(folder / "data" / "cold_start.parquet", folder / "leaky.parquet")
    teach(folder, "taught_to_leak", folder / "random", folder / "leaky.parquet", folder / "leaky")
    edited = folder / "edited"
    shutil.copytree(folder / "leaky", edited, dirs_exist_ok=True)
    model = json.loads((edited / "config.json").read_text())
    model["text_config"]["rms_norm_eps"] = 0.05
    (edited / "config.json").write_text(json.dumps(model))
    nobody = f"127.0.0.1:{free_port()}"
    options = [
        f"reward.judge.url=http://{nobody}",
        *("reward.judge.model=nobody", "reward.judge.attempts=1"),
        f"reward.traces.url=postgresql+psycopg://nobody@{nobody}/traces",
        *("learner.weights.verify_every=0", "learner.max_staleness=0", "learner.learning_rate=1e-9"),
    ]
    with Watched(folder / "careless", folder / "leaky", data, *options, actors=[f"model.path={edited}"]) as run:
        time.sleep(RECORDINGS[CARELESS].seconds)
        yield run.record(CARELESS, RECORDINGS[CARELESS].seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("--folder", type=Path, help="of the runs; default: a temporary one")
    parser.add_argument("--only", nargs="+", choices=RECORDINGS, metavar="NAME", help="default: all recordings")
    parser.add_argument("--output", type=Path, default=RECORDED, help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.only and arguments.output == RECORDED:
        parser.error(f"{RECORDED.name} has every recording: --only needs an --output of its own")
    names = arguments.only or list(RECORDINGS)
    tests: list[Test] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        data, model = prepare(folder)
        if names != [CARELESS]:
            tests += disturbed(folder / "disturbed", model, data, names)
        if CARELESS in names:
            tests += careless(folder, data)
    head = "# Made by `python -m bench.faults`: samples of real runs, one a second, played as one a minute.\n"
    rules = os.path.relpath(RULES, arguments.output.parent)
    document = {"rule_files": [rules], "evaluation_interval": "1m", "tests": tests}
    arguments.output.write_text(head + yaml.safe_dump(document, sort_keys=False, width=10_000))
    judged = subprocess.run(["promtool", "test", "rules", arguments.output], capture_output=True, text=True)
    print(judged.stdout + judged.stderr)
    print(json.dumps({"name": "recorded_faults", "value": len(tests), "unit": "recordings"}))
    sys.exit(judged.returncode)


if __name__ == "__main__":
    main()
