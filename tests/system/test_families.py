"""Each family of models end to end: actors equal transformers over versions, and RL runs with two ranks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from learner.checkpoints.hf_folder import export_policy
from learner.distributed.deepspeed_engine import build_engine
from learner.model.policy import load_policy
from learner.model.sequences import SequenceBuilder
from learner.publishing.fleet_transfer import FleetTransfer
from tests.conftest import TINY, Once
from tests.families.side import PICTURES, append, processor_inputs
from tests.system.actors import TOKENS, Actor, redis_for, running_actor
from tests.system.conftest import training
from vision_sr1.cli.tasks.distributions import TASKS, corpus
from vision_sr1.families import known_families
from vision_sr1.run_folder.checkpoints import POLICY, checkpoints

CORE = "qwen3_vl"
TURNS = [  # words and images
    ("what color is the square", []),
    ("<image>what color is the square", PICTURES[:1]),
    ("<image>what color is the square", PICTURES[1:]),
    ("<image> and <image>: which is larger " + "of them " * 20, PICTURES),  # longer than a block of the prefix cache
]


def families(test: str) -> list[Any]:
    """One of them in `make test`, all others in the full tier."""
    sibling = f"tests/system/test_families.py::{test}"
    return [
        name if name == CORE else pytest.param(name, marks=pytest.mark.full(sibling=sibling))
        for name in known_families()
    ]


@pytest.fixture
def model(request: pytest.FixtureRequest, once: Once) -> Path:
    """A tiny model of the family, with random weights; with tied embeddings it would repeat its last token."""
    from vision_sr1.cli.tasks.tiny_model import make_tiny_model

    family: str = request.param

    def make(folder: Path) -> None:
        texts = corpus(TASKS["shapes"], rows=300)
        make_tiny_model(folder, texts, family=family, tie_word_embeddings=False)

    return once(f"family_{family}_untied", make)


@pytest.fixture
def exported(model: Path, tmp_path: Path) -> Path:
    """The same as the learner writes it."""
    processor = AutoProcessor.from_pretrained(model)
    export_policy(AutoModelForImageTextToText.from_pretrained(model), processor, tmp_path / "exported")
    return tmp_path / "exported"


@pytest.fixture
def actor(exported: Path, single_rank: torch.device, tmp_path: Path) -> Iterator[Actor]:
    options = [
        f"model.path={exported}",
        "data.prompt_template=plain_answer",
        *TINY,
        "learner.weights.sync_timeout_s=20",
    ]
    with redis_for(tmp_path, *options) as (config, environment), running_actor(tmp_path, config, environment) as actor:
        yield actor


@pytest.mark.parametrize("model", families("test_the_actor_equals_transformers_after_each_version"), indirect=True)
def test_the_actor_equals_transformers_after_each_version(actor: Actor, exported: Path, tmp_path: Path):
    config, builder = actor.config, SequenceBuilder(actor.config.model)
    forbidden = builder.family.reserved_token_ids(builder.tokenizer)
    policy: Any = load_policy(config, str(exported), forbidden_token_ids=forbidden)
    transfer = FleetTransfer(config, build_engine(config, policy, learning_rate=1e-3, weight_decay=0.0))
    answers = set()
    for version in range(3):
        if version:
            change(policy, seed=version)
        assert transfer.send(version, transfer.reachable([actor.info]))
        policy.save_pretrained(tmp_path / str(version))
        reference = AutoModelForImageTextToText.from_pretrained(tmp_path / str(version), dtype=torch.float32)
        for text, images in TURNS:
            inputs = processor_inputs(builder, config, text, images)
            prompt = inputs.input_ids[0].tolist()
            tokens, logprobs = greedy(reference, inputs, forbidden)
            refs = [actor.image(encoded) for encoded in images]
            for _ in range(2):  # the second from the prefix cache
                sample = actor.generate(text, refs)
                assert list(sample.prompt_token_ids) == prompt
                assert list(sample.response_token_ids) == tokens
                assert list(sample.logprobs) == pytest.approx(logprobs, abs=2e-4)
            answers.add((text, len(images), tuple(tokens), round(sum(logprobs), 2)))
    assert len(answers) == 3 * len(TURNS), "versions and images should answer differently"


def change(policy: Any, seed: int) -> None:
    """Moves every parameter at random, those of the vision tower too."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            spread = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
            parameter.add_(0.05 * spread * torch.randn_like(parameter))


def greedy(model: Any, inputs: Any, forbidden: list[int]) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log-probabilities by transformers, recomputing the whole sequence for each token."""
    tokens: list[int] = []
    logprobs: list[float] = []
    while len(tokens) < TOKENS and (not tokens or tokens[-1] not in model.generation_config.eos_token_id):
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1].float()
        logits[forbidden] = float("-inf")
        tokens.append(int(logits.argmax()))
        logprobs.append(float(logits.log_softmax(-1)[tokens[-1]]))
        append(inputs, tokens[-1:])
    return tokens, logprobs


@pytest.mark.parametrize("model", families("test_rl_learns_with_two_ranks_and_its_checkpoint_loads"), indirect=True)
def test_rl_learns_with_two_ranks_and_its_checkpoint_loads(model: Path, shapes: dict[str, Path], tmp_path: Path):
    run = training(tmp_path, model, shapes, "learner.batches=2", "learner.learning_rate=1e-3", "data.evaluation={}")
    status, output = run.finish()
    assert status == 0, output + run.logs()
    lines = [line for line in run.scalars() if "seconds/batch" in line]
    assert [line["policy/version"] for line in lines] == [1.0, 2.0]
    assert all(abs(line["mismatch_kl/engine_trainer"]) < 1e-6 for line in lines), "actors hold other weights"
    assert "prompt_sharing_disabled" not in run.logs()
    learned = AutoModelForImageTextToText.from_pretrained(
        checkpoints(run.folder / "runs" / "run")[-1] / POLICY, dtype=torch.float32
    )
    before = dict(AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).named_parameters())
    changed = [name for name, parameter in learned.named_parameters() if not torch.equal(parameter, before[name])]
    assert len(changed) > 0.5 * len(before)
