"""After each published version the actor is transformers on the learner's weights."""

import asyncio
import io
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil
import pytest
import torch
from grpc_health.v1 import health_pb2
from PIL import Image
from transformers import AutoModelForImageTextToText
from vllm.distributed.weight_transfer.base import ParamMeta

from learner.connection.images import RunImages
from learner.connection.session import RedisSession
from learner.distributed.deepspeed_engine import build_engine
from learner.model.policy import load_policy
from learner.model.sequences import SequenceBuilder
from learner.publishing.fleet_transfer import EngineSource, FleetTransfer
from learner.publishing.probe import ImagesIgnoredError, Probe
from tests.conftest import TINY
from tests.system import nccl_over_gloo
from tests.system.actors import TOKENS, Actor, greedy, redis_for, running_actor
from vision_sr1.config import RunConfig
from vision_sr1.data import Mixture, Questions
from vision_sr1.families import family_of
from vision_sr1.pipeline.fleet import Fleet, file_digests
from vision_sr1.pipeline.wire import SCHEMA_VERSION
from vision_sr1.prompting.chat import Chat
from vision_sr1.runtime.ports import free_port
from vision_sr1.streams import Keys, Output, Stream, connect
from vision_sr1.v1 import actor_pb2
from vision_sr1.v1 import pipeline_pb2 as pb
from vision_sr1.weights.files import read_weights
from vision_sr1.weights.fleet_client import ActorUpdateError, FleetClient

T = TypeVar("T")
Test = Callable[..., object]


TIED = ("cold_start_model", "cpu", 1, "gloo")  # tied embeddings
SHARDED = ("untied_model", "cpu", 2, "gloo")
NCCL = ("cold_start_model", "cpu", 1, "nccl")  # over gloo
NCCL_SHARDED = ("untied_model", "cpu", 2, "nccl")
CUDA = pytest.param(
    ("cold_start_model", "cuda", 1, "nccl"),
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(
            torch.cuda.device_count() < 2, reason="needs two CUDA devices, one for the learner, one for vLLM"
        ),
    ],
)


def name(parameters: tuple[str, str, int, str]) -> str:
    """As it stands in a test's id."""
    return "-".join(map(str, parameters))


ALL = (TIED, SHARDED, NCCL, NCCL_SHARDED)


def on_actors(
    *short: tuple[str, str, int, str], among: tuple[tuple[str, str, int, str], ...] = ALL
) -> Callable[[Test], Test]:
    """In `make test` with these actors, with the others in the full tier."""

    def on(test: Test) -> Test:
        full = pytest.mark.full(sibling=f"tests/system/test_weights.py::{test.__name__}")
        long = [pytest.param(actor, marks=full) for actor in among if actor not in short]
        return pytest.mark.parametrize("actor", [*short, *long, CUDA], ids=name, indirect=True, scope="module")(test)

    return on


on_all_actors = on_actors(TIED, SHARDED)
on_each_actor = on_actors(TIED)  # for what has nothing to do with how weights lie in the workers
on_each_over_gloo = on_actors(TIED, among=(TIED, SHARDED))  # nor with how they come


@pytest.fixture(scope="module")
def actor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Actor]:
    model, device, tensor_parallel_size, backend = request.param
    folder = tmp_path_factory.mktemp("actor")
    options = [f"model.path={request.getfixturevalue(model)}", "data.prompt_template=plain_answer", *TINY]
    options += [f"actors.device={device}", f"actors.tensor_parallel_size={tensor_parallel_size}"]
    options += ["learner.weights.sync_timeout_s=20", f"metrics.actor_port={free_port()}"]
    options += [f"learner.weights.backend={backend}"]
    with ExitStack() as stack:
        config, environment = stack.enter_context(redis_for(folder, *options))
        if (backend, device) == ("nccl", "cpu"):
            environment = {**environment, **nccl_over_gloo.SWITCH}
            nccl_over_gloo.install(stack.enter_context(pytest.MonkeyPatch.context()).setattr)
        actor = stack.enter_context(running_actor(folder, config, environment, device=device))
        assert config.actors.enable_prefix_caching
        assert actor.info.weight_transfer == backend
        assert actor.health() == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError, match="holds no published weights yet"):
            actor.generate("what color is the square", [])
        yield actor


@dataclass
class Learner:
    """A policy under DeepSpeed in this process, and what publishes it to the actor."""

    policy: Any
    engine: Any
    transfer: FleetTransfer
    builder: SequenceBuilder
    forbidden: list[int]

    def change(self, scale: float, seed: int) -> None:
        """Moves every parameter at random, by `scale` of its spread."""
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in self.policy.parameters():
                parameter.add_(scale * parameter.std() * torch.randn_like(parameter))


@pytest.fixture(scope="module")
def learner(actor: Actor, single_rank: torch.device) -> Learner:
    builder = SequenceBuilder(actor.config.model)
    forbidden = builder.family.reserved_token_ids(builder.tokenizer)
    policy = load_policy(actor.config, str(actor.model), forbidden_token_ids=forbidden)
    engine = build_engine(actor.config, policy, learning_rate=1e-3, weight_decay=0.0)
    transfer = FleetTransfer(actor.config, engine)
    assert transfer.send(0, transfer.reachable([actor.info]))
    return Learner(policy, engine, transfer, builder, forbidden)


@on_actors(TIED, SHARDED, NCCL)
def test_the_actor_equals_transformers_after_each_version(
    actor: Actor, learner: Learner, shapes: dict[str, Path], tmp_path: Path
):
    builder, transfer = learner.builder, learner.transfer
    rows = Questions(str(shapes["train"]), actor.config.data)
    turns = [(rows[i].question, rows[i].images) for i in range(4)] + [
        ("top left square red . what color is the square", []),
        ("top left square red ; " * 30 + "what color is the square", []),  # longer than a block of the prefix cache
    ]
    references = [(text, [actor.image(data) for data in images], images) for text, images in turns]

    answers = []
    following = actor.version() + 1
    for version in range(following, following + 3):
        learner.change(0.05, seed=version)
        assert transfer.send(version, transfer.reachable([actor.info]))
        assert actor.health() == health_pb2.HealthCheckResponse.SERVING
        learner.policy.save_pretrained(tmp_path / str(version))
        reference = AutoModelForImageTextToText.from_pretrained(tmp_path / str(version), dtype=torch.float32)
        for text, refs, images in references:
            first, again = actor.generate(text, refs), actor.generate(text, refs)
            tokens, logprobs = greedy(
                reference, list(first.prompt_token_ids), builder.images(images), learner.forbidden
            )
            for sample in (first, again):  # the second from the prefix cache
                assert list(sample.response_token_ids) == tokens
                assert list(sample.logprobs) == pytest.approx(logprobs, abs=2e-4)
                assert [span.policy_version for span in sample.versions] == [version]
            rendered = Chat(builder.tokenizer).user_turn(text, len(images))
            assert builder.tokenizer.decode(sample.prompt_token_ids).replace("<|image_pad|>", "") == rendered.replace(
                "<|image_pad|>", ""
            )
            answers.append((tuple(tokens), round(sum(logprobs), 3)))
    assert len(set(answers)) > len(references), "the versions should answer differently"

    with pytest.raises(grpc.RpcError, match=f"holds policy version {version}, not {version + 5}"):
        actor.generate("what color is the square", [], required_policy_version=version + 5)
    with pytest.raises(grpc.RpcError, match="that are not an image"):
        actor.generate("<image>what", [actor.image(b"\x89PNG no picture")])
    with pytest.raises(grpc.RpcError, match="not in the blob store"):
        actor.generate("<image>what", [pb.ImageRef(sha256="00")])
    with pytest.raises(grpc.RpcError, match="schema version 9"):
        actor.generate("what", [], schema_version=9)
    with pytest.raises(grpc.RpcError, match=r"INVALID_ARGUMENT[\s\S]*schema version 9"):
        actor.stub.InitWeightTransfer(actor_pb2.InitWeightTransferRequest(schema_version=9), timeout=20)
    with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
        actor.generate("square " * 300, [])
    with pytest.raises(grpc.RpcError, match=r"temperature must be in \[0, 2\]"):
        actor.generate("what", [], sampling=pb.SamplingParams(temperature=50.0, top_p=1.0, max_tokens=4))


@on_each_over_gloo
def test_an_actor_that_cannot_reach_redis_says_so_until_it_can(actor: Actor, learner: Learner):
    assert actor.health() == health_pb2.HealthCheckResponse.SERVING
    assert actor.config.streams.url is not None
    port = int(actor.config.streams.url.rpartition(":")[2].partition("/")[0])
    server = next(
        process
        for process in psutil.Process().children(recursive=True)
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections())
    )
    try:
        for number, status in (
            (signal.SIGSTOP, health_pb2.HealthCheckResponse.NOT_SERVING),
            (signal.SIGCONT, health_pb2.HealthCheckResponse.SERVING),
        ):
            server.send_signal(number)
            deadline = time.monotonic() + 60
            while actor.health() != status:
                assert time.monotonic() < deadline
                time.sleep(0.2)
    finally:
        server.send_signal(signal.SIGCONT)


def loads_what_comes(actor: Actor) -> bool:
    """Rather than first receiving all of it."""
    return actor.info.weight_transfer == "nccl"


def holds_nothing(actor: Actor) -> None:
    assert actor.version() == -1
    deadline = time.monotonic() + 20
    while actor.health() != health_pb2.HealthCheckResponse.NOT_SERVING:  # it tells its version and its health apart
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(grpc.RpcError, match="holds no published weights yet"):
        actor.generate("what color is the square", [])


@on_each_actor
def test_a_broken_off_update_leaves_the_actor_on_its_weights(actor: Actor, learner: Learner):
    """The trainer disappears between the start of an update and its weights; where those are loaded as they come, it
    has none once some may have.
    """
    before = actor.generate("what color is the square", [])
    actor.stub.StartWeightUpdate(actor_pb2.StartWeightUpdateRequest(), timeout=20)
    with pytest.raises(grpc.RpcError, match="no received update to finish"):
        actor.stub.FinishWeightUpdate(actor_pb2.FinishWeightUpdateRequest(policy_version=99), timeout=20)
    actor.stub.StartWeightUpdate(actor_pb2.StartWeightUpdateRequest(), timeout=20)
    parameter = actor_pb2.ParameterInfo(name="x", dtype="no_such_dtype", shape=[1])
    assert actor.version() == before.versions[0].policy_version
    with pytest.raises(grpc.RpcError, match="ABORTED"):
        actor.stub.UpdateWeights(actor_pb2.UpdateWeightsRequest(parameters=[parameter]), timeout=20)
    if loads_what_comes(actor):
        holds_nothing(actor)
        assert learner.transfer.send(before.versions[0].policy_version, [actor.info])
    after = actor.generate("what color is the square", [])
    assert after.response_token_ids == before.response_token_ids
    assert after.versions == before.versions


@on_each_actor
def test_an_update_received_but_never_finished_is_discarded(
    actor: Actor, learner: Learner, monkeypatch: pytest.MonkeyPatch
):
    """The learner dies after the weights were sent and before it commits them."""
    transfer = learner.transfer
    before = actor.generate("what color is the square", [])
    (version,) = [span.policy_version for span in before.versions]

    def dies(client: FleetClient, weight_version: str | None = None) -> None:
        raise ActorUpdateError(actor.info.id, "FinishWeightUpdate", "the learner is gone")

    learner.change(0.2, seed=9)
    with monkeypatch.context() as patch:
        patch.setattr(FleetClient, "finish_weight_update", dies)
        assert not transfer.send(version + 1, [actor.info])
        if loads_what_comes(actor):
            given_up = time.monotonic() + 60
            while actor.version() != -1 and time.monotonic() < given_up:
                time.sleep(0.2)
            holds_nothing(actor)
        else:
            after = actor.generate("what color is the square", [])  # frozen until the actor gives the update up
            assert after.response_token_ids == before.response_token_ids
            assert after.versions == before.versions
            assert actor.health() == health_pb2.HealthCheckResponse.SERVING
        assert not transfer.send(version + 1, [actor.info])
    assert transfer.send(version + 1, [actor.info])  # at once, while the unfinished update is still open
    later = actor.generate("what color is the square", [])
    assert [span.policy_version for span in later.versions] == [version + 1]
    assert list(later.logprobs) != list(before.logprobs)


@on_all_actors
def test_an_actor_that_could_load_only_a_part_answers_nothing_until_it_has_all(
    actor: Actor, learner: Learner, monkeypatch: pytest.MonkeyPatch
):
    transfer, version = learner.transfer, actor.version() + 1
    yielded, named = EngineSource.__iter__, EngineSource.metadata
    broken = "layers.1.mlp.down_proj"

    def cut_off(source: EngineSource) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in yielded(source):
            yield name, tensor[:-1] if broken in name else tensor

    def cut_off_names(source: EngineSource) -> list[ParamMeta]:
        return [
            replace(meta, shape=(meta.shape[0] - 1, *meta.shape[1:])) if broken in meta.name else meta
            for meta in named(source)
        ]

    before = digests(actor)
    with monkeypatch.context() as patch:
        patch.setattr(EngineSource, "__iter__", cut_off)
        patch.setattr(EngineSource, "metadata", cut_off_names)
        assert not transfer.send(version, [actor.info])
    assert transfer.lost == [actor.info.id]
    holds_nothing(actor)
    assert transfer.send(version, [actor.info])
    assert [span.policy_version for span in actor.generate("what color is the square", []).versions] == [version]
    assert digests(actor) == before


@on_each_actor
@pytest.mark.parametrize("phase", ["StartWeightUpdate", "UpdateWeights"])
def test_an_update_whose_caller_goes_away_at_any_moment_is_no_obstacle_to_the_next(
    actor: Actor, learner: Learner, phase: str
):
    for moment_s in (0.0, 0.001, 0.002, 0.004, 0.008):
        if phase == "UpdateWeights":
            actor.stub.StartWeightUpdate(actor_pb2.StartWeightUpdateRequest(), timeout=20)
        call = getattr(actor.stub, phase).future(getattr(actor_pb2, f"{phase}Request")(), timeout=20)
        time.sleep(moment_s)
        call.cancel()
    version = actor.version() + 1
    assert learner.transfer.send(version, [actor.info])
    assert [span.policy_version for span in actor.generate("what color is the square", []).versions] == [version]


@on_each_actor
def test_the_device_has_finished_before_weights_are_read(
    actor: Actor, learner: Learner, monkeypatch: pytest.MonkeyPatch
):
    """An optimizer's step may be under way on another stream than the one that they are read on."""
    source = EngineSource(learner.engine, torch.float32)
    order, parameters = [], source._parameters

    def read(policy: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        order.append("read")
        return parameters(policy)

    monkeypatch.setattr(torch.accelerator, "is_available", lambda check_available=False: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device=None, /: order.append("finished"))
    monkeypatch.setattr(source, "_parameters", read)
    next(iter(source))
    assert order == ["finished", "read"]


@on_each_over_gloo
def test_vision_tokens_are_never_sampled(actor: Actor, learner: Learner):
    tokenizer = SequenceBuilder(actor.config.model).tokenizer
    sampling = pb.SamplingParams(temperature=2.0, top_p=1.0, max_tokens=64)
    request = actor_pb2.GenerateRequest(
        schema_version=1, request_id="hot", text="what", num_samples=32, sampling=sampling
    )
    replies = list(actor.stub.Generate(request, timeout=120))
    assert sorted(reply.sample_index for reply in replies) == list(range(32))
    sampled = {token for reply in replies for token in reply.sample.response_token_ids}
    assert len(sampled) > 50
    assert not sampled & set(family_of("qwen2_5_vl").reserved_token_ids(tokenizer))


@on_each_over_gloo
def test_a_seeded_sample_is_the_same_alone_and_in_a_crowd(actor: Actor, learner: Learner):
    """In the crowd most prompts are computed in parts, which CPU generators must survive."""
    prompts = [" ".join([word, *["top left square red ;"] * 30]) for word in ("red", "blue", "green") for _ in range(8)]

    def sampled(index: int, num_samples: int) -> dict[int, list[int]]:
        request = actor_pb2.GenerateRequest(
            schema_version=1,
            request_id=f"seeded/{index}/{num_samples}",
            text=prompts[index],
            num_samples=num_samples,
            sampling=pb.SamplingParams(temperature=1.0, top_p=1.0, max_tokens=16, seed=1000 * index),
        )
        replies = actor.stub.Generate(request, timeout=240)
        return {reply.sample_index: list(reply.sample.response_token_ids) for reply in replies}

    with ThreadPoolExecutor(len(prompts)) as pool:
        crowd = list(pool.map(lambda index: sampled(index, 16), range(len(prompts))))
    assert len({tuple(tokens) for samples in crowd for tokens in samples.values()}) > 50
    for index in (0, 11, 23):
        assert sampled(index, 2) == {sample: crowd[index][sample] for sample in (0, 1)}


@on_each_over_gloo
def test_a_prompt_is_computed_once_for_all_its_samples(actor: Actor, learner: Learner):
    """As far as whole blocks of the key-value cache hold it."""
    samples, blocks = 6, 128  # tokens of a block on CPUs; more than it on none
    text = " ".join([str(time.time()), *["top left square red ;"] * 30])
    before = {
        source: actor.counted("vision_sr1_actor_prompt_tokens_total", source=source)
        for source in ("cached", "computed")
    }
    request = actor_pb2.GenerateRequest(
        schema_version=1,
        request_id=text,
        text=text,
        num_samples=samples,
        sampling=pb.SamplingParams(temperature=1.0, top_p=1.0, max_tokens=4),
    )
    replies = list(actor.stub.Generate(request, timeout=120))
    tokens = len(replies[0].sample.prompt_token_ids)
    cached, computed = (
        actor.counted("vision_sr1_actor_prompt_tokens_total", source=source) - before[source]
        for source in ("cached", "computed")
    )
    assert len(replies) == samples
    assert cached + computed == samples * tokens
    assert tokens > blocks
    assert cached >= (samples - 1) * (tokens // blocks * blocks)


def transfer_with(learner: Learner, actor: Actor, **changes: object) -> FleetTransfer:
    """Another transfer of the same weights to the same actor, with other settings."""
    weights = actor.config.learner.weights.model_copy(update=changes)
    settings = actor.config.learner.model_copy(update={"weights": weights})
    return FleetTransfer(actor.config.model_copy(update={"learner": settings}), learner.engine)


def digests(actor: Actor) -> dict[str, str]:
    found = actor.stub.Checksums(actor_pb2.ChecksumsRequest(), timeout=60).digests
    return {parameter.name: parameter.digest for parameter in found}


@on_all_actors
def test_changes_alone_give_bit_for_bit_what_all_weights_give(actor: Actor, learner: Learner):
    version = actor.version()
    delta = transfer_with(learner, actor, send="delta", full_sync_every=4, bucket_mib=0.5)
    assert delta.send(version + 1, [actor.info])
    assert delta.sent_bytes >= delta.bytes
    held = [digests(actor)]
    for step in (2, 3):
        torch.manual_seed(step)
        with torch.no_grad():
            for parameter in learner.policy.parameters():
                parameter.add_(0.1 * parameter.std() * (torch.rand_like(parameter) < 0.01))
        assert delta.send(version + step, [actor.info])
        assert 0 < delta.sent_bytes < 0.05 * delta.bytes
        held.append(digests(actor))
        assert held[-1] != held[-2]
    assert delta.send(version + 4, [actor.info])
    assert delta.sent_bytes == 0, "nothing has changed since"
    assert digests(actor) == held[-1]
    assert actor.version() == version + 4
    assert delta.send(version + 5, [actor.info])
    assert delta.sent_bytes >= delta.bytes, "the fourth after a full version is a full one"
    assert digests(actor) == held[-1]


def publish_checkpoint(actor: Actor, published: pb.PublishedWeights | None) -> None:
    """As the learner tells the fleet which weights are the current ones."""

    async def publish() -> None:
        redis = await connect(actor.config.streams)
        await Fleet(redis, Keys(actor.config.run.name)).publish(published)
        await redis.aclose()

    asyncio.run(publish())


@on_each_actor
def test_weights_of_a_checkpoint_replace_those_that_came_with_changes(actor: Actor, learner: Learner):
    """The parameters have other names in its files than on the wire."""
    version = actor.version() + 1
    delta = transfer_with(learner, actor, send="delta")
    assert delta.send(version, [actor.info])
    sent = digests(actor)
    learner.change(0.05, seed=version)
    folder = actor.config.run.path / "checkpoint"
    learner.policy.save_pretrained(folder)
    current = pb.PublishedWeights(
        schema_version=SCHEMA_VERSION, policy_version=version + 1, folder=folder.name, sha256=file_digests(folder)
    )
    publish_checkpoint(actor, current)
    deadline = time.monotonic() + 60
    while actor.version() != version + 1:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    publish_checkpoint(actor, None)
    read = digests(actor)
    if not loads_what_comes(actor):  # the others say what is in the model, by its own names
        stored = {parameter for parameter, _ in read_weights(str(folder))}
        assert stored != {meta.name for meta in EngineSource(learner.engine, torch.float32).metadata()}
        assert {key.rpartition(":")[2] for key in read} == stored
    assert sorted(read.values()) != sorted(sent.values())
    assert delta.send(version + 2, [actor.info]) or delta.send(version + 2, [actor.info])  # from the second: all
    assert sorted(digests(actor).values()) == sorted(read.values())


@on_each_actor
def test_weights_of_another_run_are_not_answered_with(actor: Actor, learner: Learner):
    """An actor that missed how another run began on its streams, though that has come to the same number."""
    version = actor.version() + 1
    transfer = transfer_with(learner, actor)
    assert transfer.send(version, [actor.info])
    publish_checkpoint(actor, pb.PublishedWeights(schema_version=SCHEMA_VERSION, policy_version=version, run="another"))
    try:
        deadline = time.monotonic() + 60
        while actor.version() == version:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        holds_nothing(actor)
    finally:
        publish_checkpoint(actor, None)
    assert transfer.send(version + 1, [actor.info])
    assert actor.version() == version + 1


@pytest.fixture
def images(actor: Actor) -> Iterator[RunImages]:
    with closing(RedisSession(actor.config, lambda: False)) as session:
        yield RunImages(actor.config, session)


def probe_of(actor: Actor, learner: Learner, images: RunImages, shapes: dict[str, Path], **sampling: float) -> Probe:
    config = actor.config.model_copy(update={"sampling": actor.config.sampling.model_copy(update=sampling)})
    questions = Mixture([Questions(str(shapes["train"]), config.data)], [1.0], 0)
    return Probe(config, learner.engine, learner.builder, questions, images, torch.device("cpu"))


@on_all_actors
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.01])
def test_log_probabilities_are_over_the_whole_vocabulary_whatever_the_nucleus(
    actor: Actor, learner: Learner, images: RunImages, shapes: dict[str, Path], top_p: float
):
    """So that the ratio of an update without a step is 1."""
    transfer, version = transfer_with(learner, actor), actor.version() + 1
    assert transfer.send(version, [actor.info])
    probe = probe_of(actor, learner, images, shapes, top_p=top_p)
    assert probe.comparisons(version, transfer.members)[actor.info.id].deviation < 1e-4
    sampling = pb.SamplingParams(temperature=1.0, top_p=top_p, max_tokens=TOKENS, seed=1)
    sample = actor.generate("what color is the square", [], sampling=sampling)
    assert min(sample.logprobs) < -0.1, "renormalized over a nucleus of one token they would all be 0"
    if top_p == 0.01:
        greedily = actor.generate("what color is the square", [])
        assert sample.response_token_ids == greedily.response_token_ids
        assert list(sample.logprobs) == pytest.approx(list(greedily.logprobs), abs=1e-5)


@on_each_over_gloo
@pytest.mark.parametrize("ignoring", ["the trainer", "actor", "the trainer and actor"])
def test_the_side_that_ignores_images_is_named(
    actor: Actor,
    learner: Learner,
    images: RunImages,
    shapes: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    ignoring: str,
):
    transfer, version = transfer_with(learner, actor), actor.version() + 1
    assert transfer.send(version, [actor.info])
    probe = probe_of(actor, learner, images, shapes)
    black = io.BytesIO()
    Image.new("RGB", (64, 64)).save(black, "PNG")
    seen = probe.comparisons(version, transfer.members)[actor.info.id]
    assert seen.change is not None
    assert seen.change > 1e-3
    assert seen.actors_change == pytest.approx(seen.shared_change, abs=1e-4)

    stored, decoded = images.put_for_now, learner.builder.images
    if "actor" in ignoring:
        monkeypatch.setattr(images, "put_for_now", lambda shown: stored([black.getvalue()] * len(shown)))
    if "trainer" in ignoring:
        monkeypatch.setattr(learner.builder, "images", lambda images: decoded([black.getvalue()] * len(images)))
    named = ignoring.replace("actor", f"actor {actor.info.id}")
    with pytest.raises(ImagesIgnoredError, match=f"version {version}: images are ignored by {named}[.]"):
        probe.comparisons(version, transfer.members)


@on_all_actors
def test_the_first_wrong_parameter_is_named(
    actor: Actor, learner: Learner, images: RunImages, shapes: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    probe = probe_of(actor, learner, images, shapes)
    transfer, version = transfer_with(learner, actor), actor.version() + 1

    def deviation(version: int) -> float:
        return probe.comparisons(version, transfer.members)[actor.info.id].deviation

    assert transfer.send(version, [actor.info])
    assert deviation(version) < 1e-4

    yielded = EngineSource.__iter__

    def damaged(source: EngineSource) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in yielded(source):
            yield name, tensor.roll(1, 0) if "layers.1.mlp.down_proj" in name else tensor

    with monkeypatch.context() as patch:
        patch.setattr(EngineSource, "__iter__", damaged)
        assert transfer.send(version + 1, [actor.info])
    assert deviation(version + 1) > 0.01
    diagnosis = transfer.diagnose(version + 1, actor.info.id)
    assert "layers.1.mlp.down_proj.weight" in diagnosis
    assert deviation(version + 1) < 1e-4


@on_each_actor
def test_an_actor_that_takes_other_weights_is_not_counted_on(actor: Actor, learner: Learner):
    transfer = learner.transfer
    assert transfer.can_reach(actor.info)
    for other in ({"dtype": "bfloat16"}, {"weight_transfer": "adapter"}):
        stranger = pb.ActorInfo()
        stranger.CopyFrom(actor.info)
        for name, value in other.items():
            setattr(stranger, name, value)
        assert not transfer.can_reach(stranger)


def answered(actor: Actor, streams_work: Callable[[Stream, Stream], Awaitable[T]]) -> T:
    """What becomes of prompts that are fed to the actor's stream while something else goes on."""

    async def run() -> T:
        redis = await connect(actor.config.streams)
        keys = Keys(actor.config.run.name)
        prompts = Stream(redis, keys, "prompts", actor.config.streams)
        rollouts = Stream(redis, keys, "rollouts", actor.config.streams, group="test", consumer="test")
        await rollouts.open()
        try:
            return await streams_work(prompts, rollouts)
        finally:
            await redis.aclose()

    return asyncio.run(run())


async def feed(
    prompts: Stream, ids: list[str], version: int, images: Sequence[pb.ImageRef] = (), **sampling: float
) -> None:
    outputs = []
    fields: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 150}
    for item in ids:
        prompt = pb.Prompt(
            schema_version=1,
            id=item,
            run=RunConfig().name,
            question="what color is the square",
            images=images,
            group_size=8,
            sampling=pb.SamplingParams(**(fields | sampling)),
            policy_version=version,
        )
        outputs.append(Output("prompts", item, prompt.SerializeToString()))
    await prompts.append(outputs)


async def take(rollouts: Stream, count: int) -> list[pb.Rollout]:
    taken: list[pb.Rollout] = []
    async with asyncio.timeout(120):
        while len(taken) < count:
            entries = await rollouts.read(count, 1.0)
            taken += [pb.Rollout.FromString(entry.message) for entry in entries]
            await rollouts.acknowledge(entries)
    return taken


@on_each_actor
@pytest.mark.parametrize("mode", ["in_flight", "wait", "abort"])
def test_generations_under_way_go_on_are_waited_for_or_begin_again(
    actor: Actor, learner: Learner, shapes: dict[str, Path], mode: str
):
    """All ask about one image, of which vLLM's process is sent the hash alone once it has it."""
    (seen,) = map(actor.image, Questions(str(shapes["train"]), actor.config.data)[0].images)
    settings = {"update_mode": mode, "same_weights_grace_s": 0.1, "sync_timeout_s": 90.0}
    transfer, version = transfer_with(learner, actor, **settings), actor.version() + 1
    assert transfer.send(version, [actor.info])
    actor.generate("what color is the square", [seen])
    begun_again = actor.counted("vision_sr1_actor_sample_retries_total", reason="abort")

    async def work(prompts: Stream, rollouts: Stream) -> list[pb.Rollout]:
        """Keeps the actor busy while the following version is published."""
        fed, taken = 0, list[pb.Rollout]()
        publishing: asyncio.Task[bool] | None = None
        while publishing is None or not publishing.done():
            while 8 * fed - len(taken) < 24 * 8:
                await feed(prompts, [f"{mode}/{fed}"], version, [seen], temperature=2.0)
                fed += 1
            taken += await take(rollouts, 1)
            publishing = publishing or asyncio.create_task(asyncio.to_thread(transfer.send, version + 1, [actor.info]))
        assert publishing.result()
        return taken + await take(rollouts, 8 * fed - len(taken))

    samples = [rollout.sample for rollout in answered(actor, work)]
    versions = [[span.policy_version for span in sample.versions] for sample in samples]
    for sample in samples:
        assert sample.finish_reason in ("stop", "length")
        assert sample.response_token_ids
        assert [span.start for span in sample.versions] == [0, *(span.end for span in sample.versions)][:-1]
        assert sample.versions[-1].end == len(sample.response_token_ids) == len(sample.logprobs)
    assert ([version, version + 1] in versions) == (mode == "in_flight")
    begun_again = actor.counted("vision_sr1_actor_sample_retries_total", reason="abort") - begun_again
    assert (begun_again > 0) == (mode == "abort")


@pytest.fixture
def indifferent_learner(learner: Learner) -> Iterator[Learner]:
    """Its policy takes all tokens for equally probable, so that it seldom ends a response."""
    scale = learner.policy.get_parameter("model.language_model.norm.weight")
    before = scale.detach().clone()
    with torch.no_grad():
        scale.zero_()
        yield learner
        scale.copy_(before)


@on_each_actor
def test_a_sample_that_updates_throw_away_again_and_again_is_given_up(actor: Actor, indifferent_learner: Learner):
    transfer = transfer_with(indifferent_learner, actor, update_mode="abort", same_weights_grace_s=0.1)
    assert transfer.send(actor.version() + 1, [actor.info])
    sampling = pb.SamplingParams(temperature=1.0, top_p=1.0, max_tokens=1000)
    request = actor_pb2.GenerateRequest(
        schema_version=1, request_id="hurried", text="what", num_samples=1024, sampling=sampling
    )
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(lambda: list(actor.stub.Generate(request, timeout=120)))
        while not answering.done():
            assert transfer.send(actor.version() + 1, [actor.info])
    with pytest.raises(
        grpc.RpcError, match=r"hurried/\d+: the engine finished none of 10 attempts[\s\S]*published faster"
    ):
        answering.result()


@on_each_actor
def test_an_update_waits_until_re_queries_are_home(
    actor: Actor, learner: Learner, shapes: dict[str, Path], untied_model: Path
):
    if actor.model == untied_model:
        pytest.skip("this model has not learned to write descriptions")
    (seen,) = map(actor.image, Questions(str(shapes["train"]), actor.config.data)[0].images)
    version = actor.version() + 1
    impatient = transfer_with(learner, actor, same_weights_grace_s=0.1)
    assert impatient.send(version, [actor.info])  # forgets those of earlier tests, for which nobody has asked
    transfer = transfer_with(learner, actor, same_weights_grace_s=15.0)

    async def work(prompts: Stream, rollouts: Stream) -> pb.Sample:
        await feed(prompts, ["requeries/0"], version, [seen], max_tokens=64)
        answers = await take(rollouts, 8)
        described = [rollout for rollout in answers if rollout.parts.description]
        assert described, "the cold start should write descriptions"
        publishing = asyncio.create_task(asyncio.to_thread(transfer.send, version + 1, [actor.info]))
        await asyncio.sleep(1.0)
        for rollout in described:
            sample = await asyncio.to_thread(
                actor.generate,
                "top left square red . what color is the square",
                [],
                request_id=rollout.requery_id,
                required_policy_version=version,
            )
            assert [span.policy_version for span in sample.versions] == [version]
        assert await publishing
        return sample

    answered(actor, work)
    assert actor.version() == version + 1
