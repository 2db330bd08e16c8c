"""Each family of models end to end: actors equal transformers over versions, and RL runs with two ranks."""

import copy
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
from tests.families.conftest import tiny_model_of
from tests.families.side import PICTURES, append, processor_inputs
from tests.system.actors import Actor, redis_for, running_actor
from tests.system.conftest import training
from vision_sr1.families import TINY_FAMILY, family_of_model, known_families
from vision_sr1.run_folder.checkpoints import POLICY, checkpoints

CORE = "qwen3_vl"
TURNS = [  # words and images
    ("what color is the square", []),
    ("<image>what color is the square", PICTURES[:1]),
    ("<image>what color is the square", PICTURES[1:]),
    ("<image> and <image>: which is larger " + "of them " * 20, PICTURES),  # longer than a block of the prefix cache
]


def families(test: str) -> list[Any]:
    """One of them in `make test`, the others in the full tier; all other tests are of the default family."""
    full = pytest.mark.full(sibling=f"tests/system/test_families.py::{test}")
    others = [name for name in known_families() if name not in {CORE, TINY_FAMILY}]
    return [CORE, *(pytest.param(name, marks=full) for name in others)]


@pytest.fixture
def model(request: pytest.FixtureRequest, once: Once) -> Path:
    """Of the family, with random weights; with tied embeddings it would repeat its last token."""
    return tiny_model_of(once, request.param, tie_word_embeddings=False)


@pytest.fixture
def exported(model: Path, tmp_path: Path) -> Path:
    """The same as the learner writes it."""
    processor = AutoProcessor.from_pretrained(model)
    export_policy(AutoModelForImageTextToText.from_pretrained(model), processor, tmp_path / "exported")
    return tmp_path / "exported"


@pytest.fixture
def actor(exported: Path, single_rank: torch.device, tmp_path: Path) -> Iterator[Actor]:
    options = [f"model.path={exported}", "data.prompt_template=plain_answer", *TINY, dtype_of(exported)]
    options += ["learner.weights.sync_timeout_s=20"]
    with redis_for(tmp_path, *options) as (config, environment), running_actor(tmp_path, config, environment) as actor:
        yield actor


def dtype_of(model: Path) -> str:
    """The most exact that vLLM computes in on CPUs."""
    return f"model.dtype={family_of_model(str(model)).cpu_actor_dtypes[0]}"


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
            refs = [actor.image(encoded) for encoded in images]
            for _ in range(2):  # the second from the prefix cache
                sample = actor.generate(text, refs)
                assert list(sample.prompt_token_ids) == prompt
                expected, best = judged(reference, inputs, list(sample.response_token_ids), forbidden)
                deviations = (torch.tensor(sample.logprobs) - expected).abs()
                if config.model.dtype == "float32":
                    assert list(sample.response_token_ids) == best
                    assert deviations.max() < 2e-4
                else:
                    assert deviations.mean() < 0.05
            answers.add((text, len(images), tuple(sample.response_token_ids), round(sum(sample.logprobs), 2)))
    assert len(answers) == 3 * len(TURNS), "versions and images should answer differently"


def change(policy: Any, seed: int) -> None:
    """Moves every parameter at random, those of the vision tower too."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            spread = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
            parameter.add_(0.05 * spread * torch.randn_like(parameter))


def judged(model: Any, inputs: Any, response: list[int], forbidden: list[int]) -> tuple[torch.Tensor, list[int]]:
    """By transformers: log-probabilities of a response's tokens, and what is likeliest at their places."""
    whole = copy.deepcopy(inputs)
    append(whole, response)
    with torch.no_grad():
        logits = model(**whole).logits[0, inputs.input_ids.shape[1] - 1 : -1].float()
    logits[:, forbidden] = float("-inf")
    logprobs = logits.log_softmax(-1)
    return logprobs.gather(1, torch.tensor(response)[:, None])[:, 0], logprobs.argmax(-1).tolist()


@pytest.mark.parametrize("model", families("test_rl_learns_with_two_ranks_and_its_checkpoint_loads"), indirect=True)
def test_rl_learns_with_two_ranks_and_its_checkpoint_loads(model: Path, shapes: dict[str, Path], tmp_path: Path):
    options = ["learner.batches=2", "learner.learning_rate=1e-3", "data.evaluation={}", dtype_of(model)]
    run = training(tmp_path, model, shapes, *options)
    status, output = run.finish()
    assert status == 0, output + run.logs()
    lines = [line for line in run.scalars() if "seconds/batch" in line]
    assert [line["policy/version"] for line in lines] == [1.0, 2.0]
    rounding = 1e-6 if "float32" in dtype_of(model) else 1e-2
    assert all(abs(line["mismatch_kl/engine_trainer"]) < rounding for line in lines), "actors hold other weights"
    assert "prompt_sharing_disabled" not in run.logs()
    learned = AutoModelForImageTextToText.from_pretrained(
        checkpoints(run.folder / "runs" / "run")[-1] / POLICY, dtype=torch.float32
    )
    before = dict(AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).named_parameters())
    changed = [name for name, parameter in learned.named_parameters() if not torch.equal(parameter, before[name])]
    assert len(changed) > 0.5 * len(before)
