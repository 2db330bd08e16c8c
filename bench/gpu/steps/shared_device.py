"""An actor and a learner on one device: the actor sleeps, and wakes with the weights that the learner sends."""

import time
from pathlib import Path
from typing import Any

import torch

from bench.fleet import Actors, running_actors
from bench.gpu.asked import answers_of, digests_of
from bench.gpu.compared import compare, prompts
from bench.gpu.findings import Bench, Findings
from bench.gpu.models import cut_model, pixels
from learner.devices.offload import Offload
from learner.devices.turns import put_to_sleep
from learner.publishing.fleet_transfer import FleetTransfer
from vision_sr1.run_folder.names import DEVICES
from vision_sr1.runtime.device_lease import DeviceLease, device_name

TIMEOUT_S = 120
CHANGE = 0.02  # of each parameter's spread


def run(bench: Bench, findings: Findings) -> None:
    """Weights are sent to an actor that sleeps, to one that is awake, and again to one that sleeps."""
    model = cut_model(bench.folder / "model", bench)
    options = [f"model.path={model}", "model.dtype=bfloat16", "actors.placement=shared", "learner.zero_stage=2"]
    options += [*pixels(bench), f"learner.weights.sync_timeout_s={TIMEOUT_S}"]
    tokens = 64 if bench.is_cuda else 24
    before = _used_gib(bench)
    with running_actors(bench.folder, 1, options) as actors:
        _asleep(bench, findings, "before any weights", before)
        learner = Learner(actors, bench)
        learner.give()
        findings.figure("first weights, to an actor asleep, s", learner.send(0))
        learner.change()
        findings.figure("weights to an actor awake, s", learner.send(1))
        digests, answers = digests_of(actors), answers_of(actors, prompts(bench), tokens)
        findings.figure("falling asleep, s", learner.take())
        _asleep(bench, findings, "between turns", before)
        published = learner.save(bench.folder / "published")
        compare(actors.config, str(published), answers, bench, findings)
        learner.give()
        findings.figure("the same weights to an actor asleep, s", learner.send(2))
        findings.holds("digests after sleep are those before it", digests_of(actors) == digests)
        answers = answers_of(actors, prompts(bench), tokens)
        learner.take()
        compare(actors.config, str(published), answers, bench, findings, "after sleep: ")
    torch.distributed.destroy_process_group()


class Learner:
    """A policy in this process that takes turns with the actor."""

    def __init__(self, actors: Actors, bench: Bench) -> None:
        from learner.distributed.deepspeed_engine import build_engine
        from learner.distributed.ranks import init_process_group
        from learner.model.policy import load_policy

        self._actors = actors
        device = init_process_group()
        self._lease = DeviceLease(actors.config.run.path / DEVICES, device_name(device))
        self._lease.acquire(TIMEOUT_S, alone=True)
        self._policy: Any = load_policy(actors.config, actors.config.model.path, forbidden_token_ids=[]).to(device)
        engine = build_engine(actors.config, self._policy, learning_rate=1e-6, weight_decay=0.0)
        self._memory = Offload(engine, [], device)
        self._transfer = FleetTransfer(actors.config, engine)

    def give(self) -> None:
        """Ends the learner's turn."""
        self._memory.release()
        self._lease.release()

    def take(self) -> float:
        """Begins it; returns how long the actor took to fall asleep."""
        started = time.monotonic()
        if silent := put_to_sleep(self._actors.infos, TIMEOUT_S, self._actors.config.tls):
            raise RuntimeError(f"did not fall asleep: {silent}")
        seconds = time.monotonic() - started
        self._lease.acquire(TIMEOUT_S, alone=True)
        self._memory.restore()
        return seconds

    def send(self, version: int) -> float:
        """Publishes the weights; returns how long that took."""
        started = time.monotonic()
        if not self._transfer.send(version, self._transfer.reachable(self._actors.infos)):
            raise RuntimeError(f"version {version} did not reach the actor: {self._transfer.lost}")
        return time.monotonic() - started

    def change(self) -> None:
        """Moves every parameter at random."""
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in self._policy.parameters():
                parameter.add_(CHANGE * parameter.std() * torch.randn_like(parameter))

    def save(self, folder: Path) -> Path:
        """The weights as a checkpoint that transformers loads, beside the model's other files."""
        for file in Path(self._actors.config.model.path).iterdir():
            if file.suffix != ".safetensors":
                folder.mkdir(exist_ok=True)
                (folder / file.name).write_bytes(file.read_bytes())
        self._policy.save_pretrained(folder)
        return folder


def _used_gib(bench: Bench) -> float:
    """Of the device, by all processes but without what this one has allocated."""
    if not bench.is_cuda:
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free - torch.cuda.memory_reserved()) / 2**30


def _asleep(bench: Bench, findings: Findings, when: str, before: float) -> None:
    name = f"an actor asleep holds {when}, GiB"
    if bench.is_cuda:
        findings.within("asleep_gib", name, _used_gib(bench) - before)
    else:
        findings.figure(name, None)
