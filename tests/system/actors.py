"""Actor servers of a test's own, and what transformers says of the same weights."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from learner.model.sequences import Images
from vision_sr1.config import Config, load_config, save_config
from vision_sr1.families.family import joined
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.runtime import rpc
from vision_sr1.streams import Blobs, Keys, connect
from vision_sr1.streams.embedded import EmbeddedRedis
from vision_sr1.v1 import actor_pb2, actor_pb2_grpc
from vision_sr1.v1 import pipeline_pb2 as pb

TOKENS = 24


@dataclass
class Actor:
    """A running actor server and what a client needs to talk to it."""

    config: Config
    info: pb.ActorInfo
    stub: actor_pb2_grpc.ActorStub
    channel: grpc.Channel
    model: Path
    process: subprocess.Popen[bytes]

    def image(self, data: bytes) -> pb.ImageRef:
        async def put() -> pb.ImageRef:
            redis = await connect(self.config.streams)
            ref = await Blobs(redis, Keys(self.config.run.name), 600).put(data)
            await redis.aclose()
            return ref

        return asyncio.run(put())

    def generate(self, text: str, images: list[pb.ImageRef], **changes: Any) -> pb.Sample:
        fields: dict[str, Any] = {
            "schema_version": 1,
            "request_id": f"{text}{time.time()}",
            "text": text,
            "images": images,
            "num_samples": 1,
            "sampling": pb.SamplingParams(temperature=0.0, top_p=1.0, max_tokens=TOKENS),
        }
        request = actor_pb2.GenerateRequest(**(fields | changes))
        (reply,) = list(self.stub.Generate(request, timeout=120))
        return reply.sample

    def health(self) -> int:
        return health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(), timeout=10).status

    def version(self) -> int:
        return int(self.stub.Status(actor_pb2.StatusRequest(), timeout=10).actor.policy_version)

    def counted(self, metric: str, **labels: str) -> float:
        """The sum of a counter's values under these labels."""
        text = httpx.get(f"http://127.0.0.1:{self.config.metrics.actor_port}/metrics", timeout=10).text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == metric]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def signal(self, number: signal.Signals) -> None:
        """To the server and its engine, as a machine that dies or hangs would have it."""
        for process in [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]:
            process.send_signal(number)


@contextmanager
def redis_for(folder: Path, *overrides: str) -> Iterator[tuple[Config, dict[str, str]]]:
    """A Redis and a configuration that finds it, with the variables that a service's process needs."""
    with EmbeddedRedis(folder / "redis") as server:
        options = [f"run.dir={folder}", "metrics.actor_port=0", *overrides]
        config = load_config(None, options, environment=server.environment).config
        save_config(config, folder / "config.yaml")
        yield config, server.environment


@contextmanager
def running_actor(
    folder: Path,
    config: Config,
    environment: dict[str, str],
    name: str = "actor",
    device: str = "cpu",
    options: Sequence[str] = (),
) -> Iterator[Actor]:
    """Starts an actor and waits until it announces itself."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "actors", folder / "config.yaml", "--id", name, *options],
            env={**os.environ, **environment, "CUDA_VISIBLE_DEVICES": "1" if device == "cuda" else ""},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    async def announced() -> pb.ActorInfo:
        redis = await connect(config.streams)
        fleet = Fleet(redis, Keys(config.streams_name))
        for _ in range(480):
            for actor in await fleet.alive():
                if actor.id.startswith(f"{name}-"):
                    await redis.aclose()
                    return actor
            assert process.poll() is None, log.read_text()[-3000:]
            await asyncio.sleep(0.25)
        pytest.fail("the actor did not come up")

    try:
        info = asyncio.run(announced())
        with rpc.channel(info.address, config.tls) as channel:
            yield Actor(config, info, actor_pb2_grpc.ActorStub(channel), channel, Path(config.model.path), process)
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(20)


def greedy(model: Any, prompt: list[int], images: Images | None, forbidden: list[int]) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log-probabilities by transformers, recomputing the whole sequence for each token."""
    ids = list(prompt)
    tokens: list[int] = []
    logprobs: list[float] = []
    while len(tokens) < TOKENS:
        features = {} if images is None else joined(images.inputs)
        input_ids = torch.tensor([ids])
        with torch.no_grad():
            logits = model(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                mm_token_type_ids=torch.eq(input_ids, model.config.image_token_id).int(),
                **features,
            ).logits[0, -1]
        logits[forbidden] = float("-inf")
        token = int(logits.argmax())
        tokens.append(token)
        logprobs.append(float(logits.log_softmax(-1)[token]))
        ids.append(token)
        if token in model.generation_config.eos_token_id:
            break
    return tokens, logprobs
