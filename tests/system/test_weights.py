"""After each published version the actor is transformers on the learner's weights."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2
from transformers import AutoModelForImageTextToText

from learner.engine import build_engine
from learner.policy import load_policy
from learner.sequences import SequenceBuilder
from learner.transfer import FleetTransfer
from tests.conftest import TINY
from tests.system.actors import Actor, greedy, redis_for, running_actor
from vision_sr1.chat import render_user_turn, vision_token_ids
from vision_sr1.dataset import Questions
from vision_sr1.v1 import actor_pb2
from vision_sr1.v1 import pipeline_pb2 as pb
from vision_sr1.weights.fleet_client import ActorUpdateError, FleetClient


@pytest.fixture(
    scope="module",
    params=[
        ("cold_start_model", "cpu"),  # tied embeddings
        ("untied_model", "cpu"),
        pytest.param(
            ("cold_start_model", "cuda"),
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(
                    torch.cuda.device_count() < 2, reason="needs two CUDA devices, one for the learner, one for vLLM"
                ),
            ],
        ),
    ],
    ids=lambda param: "-".join(param),
)
def actor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Actor]:
    name, device = request.param
    folder = tmp_path_factory.mktemp("actor")
    options = [f"model.path={request.getfixturevalue(name)}", "data.prompt_template=plain_answer", *TINY]
    options += [f"actors.device={device}", "learner.weights.sync_timeout_s=20"]
    with (
        redis_for(folder, *options) as (config, environment),
        running_actor(folder, config, environment, device=device) as actor,
    ):
        assert config.actors.enable_prefix_caching
        yield actor


@dataclass
class Learner:
    """A policy under DeepSpeed in this process, and what publishes it to the actor."""

    policy: torch.nn.Module
    transfer: FleetTransfer
    builder: SequenceBuilder
    forbidden: list[int]

    def change(self, scale: float, seed: int) -> None:
        """Moves every parameter at random, by `scale` of its spread."""
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in self.policy.parameters():
                parameter += scale * parameter.std() * torch.randn_like(parameter)


@pytest.fixture(scope="module")
def learner(actor: Actor, single_rank: torch.device) -> Learner:
    builder = SequenceBuilder(actor.config.model)
    forbidden = vision_token_ids(builder.tokenizer)
    policy = load_policy(actor.config, str(actor.model), forbidden_token_ids=forbidden)
    engine = build_engine(actor.config, policy, learning_rate=1e-3, weight_decay=0.0)
    return Learner(policy, FleetTransfer(actor.config, engine), builder, forbidden)


def test_the_actor_equals_transformers_after_each_version(
    actor: Actor, learner: Learner, shapes: dict[str, Path], tmp_path: Path
):
    assert actor.health() == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.RpcError, match="holds no published weights yet"):
        actor.generate("what color is the square", [])

    builder, transfer = learner.builder, learner.transfer
    rows = Questions(str(shapes["train"]), actor.config.data)
    turns = [(rows[i].question, rows[i].images) for i in range(4)] + [
        ("top left square red . what color is the square", [])
    ]
    references = [(text, [actor.image(data) for data in images], images) for text, images in turns]

    answers = []
    for version in range(3):
        learner.change(0.05 * version, seed=version)
        assert transfer.send(version, transfer.reachable([actor.info]))
        assert actor.health() == health_pb2.HealthCheckResponse.SERVING
        learner.policy.save_pretrained(tmp_path / str(version))
        reference = AutoModelForImageTextToText.from_pretrained(tmp_path / str(version), dtype=torch.float32)
        for text, refs, images in references:
            for _ in range(2):  # the second time from the prefix cache
                sample = actor.generate(text, refs)
                tokens, logprobs = greedy(
                    reference, list(sample.prompt_token_ids), builder.images(images), learner.forbidden
                )
                assert list(sample.response_token_ids) == tokens
                assert list(sample.logprobs) == pytest.approx(logprobs, abs=2e-4)
                assert [span.policy_version for span in sample.versions] == [version]
            rendered = render_user_turn(builder.tokenizer, text, len(images))
            assert builder.tokenizer.decode(sample.prompt_token_ids).replace("<|image_pad|>", "") == rendered.replace(
                "<|image_pad|>", ""
            )
            answers.append((tuple(tokens), round(sum(logprobs), 3)))
    assert len(set(answers)) > len(references), "the versions should answer differently"

    with pytest.raises(grpc.RpcError, match="holds policy version 2, not 7"):
        actor.generate("what color is the square", [], required_policy_version=7)
    with pytest.raises(grpc.RpcError, match="cannot be read"):
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


def test_a_broken_off_update_leaves_the_actor_on_its_weights(actor: Actor):
    """The trainer disappears between the start of an update and its weights."""
    before = actor.generate("what color is the square", [])
    actor.stub.StartWeightUpdate(actor_pb2.StartWeightUpdateRequest(), timeout=20)
    with pytest.raises(grpc.RpcError, match="no received update to finish"):
        actor.stub.FinishWeightUpdate(actor_pb2.FinishWeightUpdateRequest(policy_version=9), timeout=20)
    actor.stub.StartWeightUpdate(actor_pb2.StartWeightUpdateRequest(), timeout=20)
    parameter = actor_pb2.ParameterInfo(name="x", dtype="no_such_dtype", shape=[1])
    with pytest.raises(grpc.RpcError, match="ABORTED"):
        actor.stub.UpdateWeights(actor_pb2.UpdateWeightsRequest(parameters=[parameter]), timeout=20)
    after = actor.generate("what color is the square", [])
    assert after.response_token_ids == before.response_token_ids
    assert after.versions == before.versions


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
        after = actor.generate("what color is the square", [])  # frozen until the actor gives the update up
        assert after.response_token_ids == before.response_token_ids
        assert after.versions == before.versions
        assert actor.health() == health_pb2.HealthCheckResponse.SERVING
        assert not transfer.send(version + 1, [actor.info])
    assert transfer.send(version + 1, [actor.info])  # at once, while the unfinished update is still open
    later = actor.generate("what color is the square", [])
    assert [span.policy_version for span in later.versions] == [version + 1]
    assert list(later.logprobs) != list(before.logprobs)


def test_vision_tokens_are_never_sampled(actor: Actor):
    tokenizer = SequenceBuilder(actor.config.model).tokenizer
    sampling = pb.SamplingParams(temperature=2.0, top_p=1.0, max_tokens=64)
    request = actor_pb2.GenerateRequest(
        schema_version=1, request_id="hot", text="what", num_samples=32, sampling=sampling
    )
    replies = list(actor.stub.Generate(request, timeout=120))
    assert sorted(reply.sample_index for reply in replies) == list(range(32))
    sampled = {token for reply in replies for token in reply.sample.response_token_ids}
    assert len(sampled) > 50
    assert not sampled & set(vision_token_ids(tokenizer))


def test_a_seeded_sample_is_the_same_alone_and_in_a_crowd(actor: Actor):
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
