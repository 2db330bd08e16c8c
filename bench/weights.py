"""Publishing weights to 1, 2 and 4 actors, against a bare broadcast of the same bytes; what `delta` saves.

`python -m bench.weights [--quick] [--actors N ...] [--rounds N] [--bucket-mib N]`: randomly initialized models of about
6 MB, 256 MB and 1 GB (`--quick`: only 6 MB) go to real actor servers on this machine, over gloo and from CPU memory, or
over NCCL where there is a GPU for each. The baseline sends as many bytes in as large buckets to as many processes that
do nothing but receive them into memory that is there. Seconds are medians of 3 rounds.
"""

import argparse
import json
import logging
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import grpc
import structlog
import torch

from bench.fleet import running_actors
from vision_sr1.config import WeightsConfig
from vision_sr1.v1 import actor_pb2, actor_pb2_grpc
from vision_sr1.v1 import pipeline_pb2 as pb
from vision_sr1.weights.buckets import Packer, Part
from vision_sr1.weights.delta import SentWeights
from vision_sr1.weights.gloo_group import GlooGroup
from vision_sr1.weights.transfer_group import Rendezvous, TransferError, TransferGroup

if TYPE_CHECKING:
    from learner.publishing.fleet_transfer import FleetTransfer

SIZES = {"6 MB": (128, 4, 4), "256 MB": (512, 15, 8), "1 GB": (1024, 15, 16)}  # hidden size, layers, heads
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Row:
    """One measurement; seconds are medians over the rounds.

    Attributes:
        first_s: of the version that forms the group.
        sent_s: until everything had arrived; the rest of `publish_s` is loading it.
        frozen_s: how long an actor that was generating stood still.
    """

    size: str
    receivers: int
    gigabytes: float
    first_s: float
    sent_s: float
    publish_s: float
    bare_s: float
    frozen_s: float

    @property
    def ratio(self) -> float:
        """Of the bare broadcast's speed."""
        return self.bare_s / self.publish_s


def main() -> None:
    from learner.distributed.ranks import init_process_group

    parser = argparse.ArgumentParser(prog="python -m bench.weights", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the smallest model")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4], help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--bucket-mib", type=float, default=WeightsConfig().bucket_mib, help="default: %(default)s")
    arguments = parser.parse_args()
    sizes = list(SIZES)[:1] if arguments.quick else list(SIZES)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    device = init_process_group()
    if device.type == "cuda" and torch.cuda.device_count() <= max(arguments.actors):
        raise SystemExit(
            f"only {torch.cuda.device_count()} GPUs: the learner and each of {max(arguments.actors)} actors need one"
        )
    print(
        f"{'model':>8} {'actors':>7} {'first s':>8} {'bare s':>7} {'GB/s':>6} {'sent s':>7} {'ratio':>6} "
        f"{'publish s':>10} {'GB/s':>6} {'ratio':>6} {'frozen s':>9}"
    )
    rows = []
    for size in sizes:
        for row in measured(size, arguments.actors, arguments.rounds, arguments.bucket_mib):
            rows.append(row)
            print(
                f"{row.size:>8} {row.receivers:>7} {row.first_s:8.2f} "
                f"{row.bare_s:7.3f} {row.gigabytes / row.bare_s:6.2f} "
                f"{row.sent_s:7.3f} {row.bare_s / row.sent_s if row.sent_s else 0:6.2f} "
                f"{row.publish_s:10.3f} {row.gigabytes / row.publish_s:6.2f} {row.ratio:6.2f} {row.frozen_s:9.3f}",
                flush=True,
            )
    full, changed = delta_bytes()
    print(
        f"\ndelta at the paper's learning rate, bfloat16: {changed / 1e6:.1f} MB of {full / 1e6:.1f} MB, "
        f"{changed / full:.1%}"
    )
    last = rows[-1]
    print(
        json.dumps(
            {
                "name": "weights_publish",
                "value": round(last.gigabytes / last.publish_s, 3),
                "unit": "GB/s",
                "baseline": round(last.gigabytes / last.bare_s, 3),
                "ratio": round(last.ratio, 3),
            }
        )
    )


def measured(size: str, numbers: list[int], rounds: int, bucket_mib: float) -> Iterator[Row]:
    """Rows of one size, by number of actors."""
    # Not above: each receiver of the bare broadcast imports this module too.
    from learner.distributed.deepspeed_engine import build_engine
    from learner.model.policy import load_policy
    from learner.publishing.fleet_transfer import FleetTransfer
    from vision_sr1.cli.tasks.distributions import TASKS, corpus
    from vision_sr1.cli.tasks.tiny_model import make_tiny_model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model"
        hidden, layers, heads = SIZES[size]
        make_tiny_model(
            model,
            corpus(TASKS["shapes"], rows=300),
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            layers=layers,
            heads=heads,
        )
        overrides = [
            f"model.path={model}",
            "model.dtype=float32",
            "model.max_model_len=256",
            f"learner.weights.bucket_mib={bucket_mib}",
            f"learner.weights.sync_timeout_s={TIMEOUT_S}",
            "learner.zero_stage=0",
        ]
        with running_actors(folder, max(numbers), overrides) as actors:
            policy = load_policy(actors.config, str(model), forbidden_token_ids=[])
            engine = build_engine(actors.config, policy, learning_rate=1e-6, weight_decay=0.0)
            transfer = FleetTransfer(actors.config, engine)
            for number in numbers:
                yield measure(size, transfer, actors.infos[:number], rounds, bucket_mib)


def measure(size: str, transfer: "FleetTransfer", members: list[pb.ActorInfo], rounds: int, bucket_mib: float) -> Row:
    """Publishes to some of the actors, first while they rest, then while the first of them generates."""
    versions = count()

    def publish() -> float:
        started = time.monotonic()
        if not transfer.send(next(versions), members):
            raise SystemExit("a publication failed: see the log above")
        return time.monotonic() - started

    first = publish()
    resting, sent, frozen = [], [], []
    for _ in range(rounds):
        resting.append(publish())
        sent.append(transfer.sent_s)
    with generating(members[0].address):
        for _ in range(rounds):
            publish()
            frozen.append(transfer.frozen_s[members[0].id])
    return Row(
        size=size,
        receivers=len(members),
        gigabytes=transfer.bytes / 1e9,
        first_s=first,
        sent_s=median(sent),
        publish_s=median(resting),
        bare_s=bare_broadcast(transfer.bytes, len(members), rounds, int(bucket_mib * 2**20)),
        frozen_s=median(frozen),
    )


@contextmanager
def generating(address: str) -> Iterator[None]:
    """Has an actor answer one request after another meanwhile."""
    stop = threading.Event()

    def generate() -> None:
        sampling = pb.SamplingParams(temperature=1.0, top_p=1.0, max_tokens=64)
        with grpc.insecure_channel(address) as channel:
            stub = actor_pb2_grpc.ActorStub(channel)
            while not stop.is_set():
                request = actor_pb2.GenerateRequest(
                    schema_version=1, request_id=str(time.monotonic()), text="what", num_samples=4, sampling=sampling
                )
                list(stub.Generate(request, timeout=TIMEOUT_S))

    thread = threading.Thread(target=generate)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def bare_broadcast(size: int, receivers: int, rounds: int, bucket_bytes: int) -> float:
    """Seconds to send so many bytes to processes that only receive."""
    transfer_group = TransferGroup.open("127.0.0.1", 1, 1 + receivers, TIMEOUT_S)
    spawn = multiprocessing.get_context("spawn")
    others = [
        spawn.Process(
            target=receive,
            args=(transfer_group.rendezvous.master_port, rank + 1, 1 + receivers, size, rounds, bucket_bytes),
            daemon=True,
        )
        for rank in range(receivers)
    ]
    for process in others:
        process.start()
    group = GlooGroup(transfer_group)
    buckets, seconds = chunks(size, bucket_bytes), []
    for _ in range(rounds + 1):
        started = time.monotonic()
        for buffer in buckets:
            transfer_group.run(partial(group.broadcast, buffer))
        seconds.append(time.monotonic() - started)
    group.close()
    for process in others:
        process.join(TIMEOUT_S)
    return median(seconds[1:])


def receive(port: int, rank: int, world_size: int, size: int, rounds: int, bucket_bytes: int) -> None:
    """One receiver."""
    transfer_group = TransferGroup(Rendezvous("127.0.0.1", port, 1, rank, world_size, TIMEOUT_S))
    group = GlooGroup(transfer_group)
    buckets = chunks(size, bucket_bytes)
    for _ in range(rounds + 1):
        for buffer in buckets:
            transfer_group.run(partial(group.broadcast, buffer))
    with suppress(TransferError):
        transfer_group.wait_for(Future())  # until the sender has left


def chunks(size: int, bucket_bytes: int) -> list[torch.Tensor]:
    """Buckets of together so many bytes."""
    return list(torch.ones(size, dtype=torch.uint8).split(bucket_bytes))


def delta_bytes() -> tuple[int, int]:
    """Bytes of all bfloat16 weights, and of those that a batch of the paper's four optimizer steps has changed."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(0.02 * torch.randn(2048, 11_008))  # fp32 master weights, of the 3B model's size
    optimizer = torch.optim.AdamW([weight], lr=1e-6, weight_decay=1e-2)

    def stored() -> dict[str, torch.Tensor]:
        return {"weight": weight.detach().to(torch.bfloat16)}

    def step() -> None:
        weight.grad = torch.randn_like(weight)
        optimizer.step()

    sent = SentWeights()
    for _ in range(4):
        step()
    full = size_of(sent.remember(stored().items()))
    for _ in range(4):
        step()
    return full, size_of(sent.changes(stored().items()))


def size_of(contents: Iterator[tuple[Part, Any]]) -> int:
    """Bytes on the wire."""
    return sum(len(buffer) for _, buffer in Packer(2**28, torch.device("cpu")).pack(contents))


if __name__ == "__main__":
    main()
