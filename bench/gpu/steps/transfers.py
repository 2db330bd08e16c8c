"""Weights between devices: in full, as differences, to an actor that stalls or dies, and to an actor on two GPUs.

The learner has the first GPU, actors have the others. On the CPU all goes over gloo.
"""

import signal
import subprocess
import time

import psutil
import torch

from bench.fleet import Actors, running_actors
from bench.gpu.asked import answers_of
from bench.gpu.compared import compare, prompts
from bench.gpu.findings import Bench, Findings, NotRunError
from bench.gpu.models import cut_model, pixels
from bench.gpu.publishing import Publishing

TIMEOUT_S = 15
RECOVERY_S = 60
CHANGED = 8  # one parameter in so many


def run(bench: Bench, findings: Findings) -> None:
    """After each publication the actors answer as transformers does."""
    gpus = torch.cuda.device_count() if bench.is_cuda else 0
    if gpus == 1:
        raise NotRunError("there is one GPU here; learner and actors need two")
    model = cut_model(bench.folder / "model", bench)
    options = [f"model.path={model}", "model.dtype=bfloat16", "learner.zero_stage=2", "learner.weights.send=delta"]
    options += [*pixels(bench), f"learner.weights.sync_timeout_s={TIMEOUT_S}"]
    devices = [str(number) for number in range(1, min(gpus, 3))] if bench.is_cuda else [""]
    with running_actors(bench.folder / "one", len(devices), options, devices) as actors:
        learner = Publishing(actors)
        findings.figure("actors", f"{len(devices)}, weights by {actors.infos[0].weight_transfer}")
        findings.figure("weights in full, s", learner.send(0, actors.infos))
        learner.change(every=CHANGED)
        findings.figure("weights as differences, s", learner.send(1, actors.infos))
        share = learner.transfer.sent_bytes / learner.transfer.bytes
        findings.figure("bytes of the differences, as a part of all", share)
        findings.holds("differences are fewer bytes than all weights", share < 1)
        _compare(actors, learner, bench, findings, "differences")
        _stall(actors, learner, findings)
        _compare(actors, learner, bench, findings, "stall")
        _kill(actors, learner, findings)
    if gpus < 3:
        findings.figure("tensor parallel", "not run: needs three GPUs")
    else:
        options += ["actors.tensor_parallel_size=2"]
        with running_actors(bench.folder / "two", 1, options, ["1,2"]) as actors:
            learner.serve(actors)
            learner.send(3, actors.infos)
            _compare(actors, learner, bench, findings, "tensor parallel")
    torch.distributed.destroy_process_group()


def _compare(actors: Actors, learner: Publishing, bench: Bench, findings: Findings, name: str) -> None:
    published = learner.save(bench.folder / name.replace(" ", "_"))
    answers = answers_of(actors, prompts(bench), 64 if bench.is_cuda else 24)
    compare(actors.config, published, answers, bench, findings, f"{name}: ")


def _stall(actors: Actors, learner: Publishing, findings: Findings) -> None:
    """One actor stops while weights are sent, and goes on later."""
    _signal(actors.processes[0], signal.SIGSTOP)
    try:
        started = time.monotonic()
        is_taken = learner.transfer.send(2, actors.infos)
        findings.figure("publication to an actor that stalls, s", time.monotonic() - started)
        findings.holds("a publication to an actor that stalls fails", not is_taken)
        findings.holds("the actor that stalls is named", learner.transfer.lost == [actors.infos[0].id])
    finally:
        _signal(actors.processes[0], signal.SIGCONT)
    started = time.monotonic()
    while not learner.transfer.send(2, learner.transfer.reachable(actors.infos)):
        if time.monotonic() - started > RECOVERY_S:
            raise RuntimeError("the actor that had stalled took no more weights")
    findings.figure("until it takes weights again, s", time.monotonic() - started)


def _kill(actors: Actors, learner: Publishing, findings: Findings) -> None:
    """One actor dies; the others, where there are any, take the version."""
    _signal(actors.processes[0], signal.SIGKILL)
    started = time.monotonic()
    is_taken = learner.transfer.send(3, actors.infos)
    findings.figure("publication to an actor that died, s", time.monotonic() - started)
    findings.holds("a publication to an actor that died fails", not is_taken)
    findings.holds("the actor that died is named", learner.transfer.lost == [actors.infos[0].id])
    if len(actors.infos) > 1:
        findings.figure("publication to the other, s", learner.send(3, actors.infos[1:]))


def _signal(actor: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the server and its engine."""
    server = psutil.Process(actor.pid)
    for process in [*server.children(recursive=True), server]:
        process.send_signal(number)
