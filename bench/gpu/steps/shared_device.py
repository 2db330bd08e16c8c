"""An actor and a learner on one device: the actor sleeps, and wakes with the weights that the learner sends."""

import time

import torch

from bench.fleet import Actors, running_actors
from bench.gpu.asked import answers_of, digests_of
from bench.gpu.compared import compare, prompts
from bench.gpu.findings import Bench, Findings
from bench.gpu.models import cut_model, pixels
from bench.gpu.publishing import Publishing
from learner.devices.offload import Offload
from learner.devices.turns import put_to_sleep
from vision_sr1.run_folder.names import DEVICES
from vision_sr1.runtime.device_lease import DeviceLease, device_name

TIMEOUT_S = 120


def run(bench: Bench, findings: Findings) -> None:
    """Weights are sent to an actor that sleeps, to one that is awake, and again to one that sleeps."""
    model = cut_model(bench.folder / "model", bench)
    options = [f"model.path={model}", "model.dtype=bfloat16", "actors.placement=shared", "learner.zero_stage=2"]
    options += [*pixels(bench), f"learner.weights.sync_timeout_s={TIMEOUT_S}"]
    tokens = 64 if bench.is_cuda else 24
    before = _used_gib(bench)
    with running_actors(bench.folder, 1, options) as actors:
        _asleep(bench, findings, "before any weights", before)
        without_learner = _used_gib(bench)
        learner = Learner(actors, bench)
        before += _used_gib(bench) - without_learner  # communicators and kernels of this process
        learner.give()
        findings.figure("first weights, to an actor asleep, s", learner.send(0))
        learner.publishing.change()
        findings.figure("weights to an actor awake, s", learner.send(1))
        digests, answers = digests_of(actors), answers_of(actors, prompts(bench), tokens)
        findings.figure("falling asleep, s", learner.take())
        _asleep(bench, findings, "between turns", before)
        published = learner.publishing.save(bench.folder / "published")
        compare(actors.config, published, answers, bench, findings)
        learner.give()
        findings.figure("the same weights to an actor asleep, s", learner.send(2))
        findings.holds("digests after sleep are those before it", digests_of(actors) == digests)
        answers = answers_of(actors, prompts(bench), tokens)
        learner.take()
        compare(actors.config, published, answers, bench, findings, "after sleep: ")
    torch.distributed.destroy_process_group()


class Learner:
    """A policy in this process that takes turns with the actor."""

    def __init__(self, actors: Actors, bench: Bench) -> None:
        self._actors = actors
        self._lease = DeviceLease(actors.config.run.path / DEVICES, device_name(torch.device(bench.device)))
        self._lease.acquire(TIMEOUT_S, alone=True)
        self.publishing = Publishing(actors)
        self._memory = Offload(self.publishing.engine, [], self.publishing.device)

    def give(self) -> None:
        """Ends the learner's turn."""
        self._memory.release()
        self._lease.release()

    def take(self) -> float:
        """Begins it; returns how long the actor took to fall asleep, in seconds."""
        started = time.monotonic()
        if silent := put_to_sleep(self._actors.infos, TIMEOUT_S, self._actors.config.tls):
            raise RuntimeError(f"did not fall asleep: {silent}")
        seconds = time.monotonic() - started
        self._lease.acquire(TIMEOUT_S, alone=True)
        self._memory.restore()
        return seconds

    def send(self, version: int) -> float:
        """Publishes the weights; returns how long that took, in seconds."""
        return self.publishing.send(version, self._actors.infos)


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
