"""Activation memory at real sizes: `vision-sr1 plan` estimates what a traced forward and backward pass takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.model.attention_kernels import Varlen, kernel_for
from learner.model.policy import choose_trainable, load_policy
from learner.model.sequences import SequenceBuilder
from tests.architectures import qwen3_vl, qwen25_vl
from tests.conftest import TINY
from tests.learner.model.traced import META, image_pack, response_pack, traced_bytes, traced_policy
from vision_sr1.cli.planning.estimates import GIB, activation_bytes, model_size
from vision_sr1.config import Config, load_config
from vision_sr1.families import family_of

EXAMPLES = Path(__file__).parents[3] / "examples"
LARGE_CHUNKS = "learner.logits_chunk_tokens=4096"  # so that the output head takes the most
NAME = "test_a_plan_knows_the_activations_of_a_traced_pass_within_a_tenth"
OTHERS = pytest.mark.full(sibling=f"tests/learner/model/test_memory.py::{NAME}")
SETTINGS = [  # examples whose activations differ: others divide the same ones over other GPUs
    pytest.param("vision_sr1_3b", qwen25_vl, "3b", [], id="3b"),
    pytest.param("vision_sr1_7b", qwen25_vl, "7b", [], id="7b"),
    pytest.param("vision_sr1_qwen3_4b", qwen3_vl, "4b", [], id="qwen3-4b"),
    pytest.param("gpus/vision_sr1_3b_1gpu", qwen25_vl, "3b", [LARGE_CHUNKS], id="3b-adapters-large-chunks"),
    pytest.param("gpus/vision_sr1_3b_1gpu", qwen25_vl, "3b", [], id="3b-adapters", marks=OTHERS),
    pytest.param("gpus/vision_sr1_7b_1gpu", qwen25_vl, "7b", [], id="7b-adapters", marks=OTHERS),
    pytest.param("vision_sr1_qwen3_8b", qwen3_vl, "8b", [], id="qwen3-8b", marks=OTHERS),
]


@pytest.mark.slow
@pytest.mark.parametrize(("example", "architecture", "name", "overrides"), SETTINGS)
def test_a_plan_knows_the_activations_of_a_traced_pass_within_a_tenth(
    tmp_path: Path, example: str, architecture: Callable[[str], Any], name: str, overrides: list[str]
):
    config = _example(example, overrides)
    model = architecture(name)
    model.save_pretrained(tmp_path)
    planned = activation_bytes(model_size(str(tmp_path), config.learner), config.learner)
    policy = traced_policy(config, model)
    assert planned / GIB == pytest.approx(traced_bytes(policy, image_pack(config, policy)) / GIB, rel=0.1)


def test_every_example_of_rl_has_the_activations_of_one_that_is_traced():
    given: Any = [parameters.values for parameters in SETTINGS]
    traced = {_what_matters(_example(example, overrides)) for example, _, _, overrides in given}
    files = [*EXAMPLES.glob("vision_sr1_*.yaml"), *EXAMPLES.glob("gpus/*.yaml")]
    assert len(files) == 10
    for file in files:
        assert _what_matters(_example(str(file.relative_to(EXAMPLES).with_suffix("")), [])) in traced, file.name


@pytest.mark.slow
@pytest.mark.parametrize("example", ["vision_sr1_3b", "gpus/vision_sr1_3b_1gpu"])
def test_a_pack_of_images_takes_more_than_one_of_responses(example: str):
    """With a tenth of the layers."""
    config, model = _example(example, []), qwen25_vl("3b")
    model.text_config.num_hidden_layers = 4
    model.vision_config.depth = 3
    policy = traced_policy(config, model)
    images, responses = (traced_bytes(policy, pack(config, policy)) for pack in (image_pack, response_pack))
    assert images > responses


def test_a_trace_takes_the_kernels_of_cuda_and_frees_what_is_no_longer_needed():
    assert isinstance(kernel_for(torch.empty(1, 1, 8, dtype=torch.bfloat16, device=META)), Varlen)
    config, model = _example("vision_sr1_3b", []), qwen25_vl("3b")
    model.text_config.num_hidden_layers = 1
    model.vision_config.depth = 1
    policy = traced_policy(config, model)
    pack = response_pack(config, policy)
    taken = traced_bytes(policy, pack)
    heads, tokens = model.text_config.num_attention_heads, pack["input_ids"].shape[1]
    assert taken < 4 * heads * tokens**2 / 4, "no weights of attention between all tokens"
    assert traced_bytes(policy, response_pack(config, policy)) == taken


@pytest.mark.parametrize("freeze_vision", [True, False])
def test_a_frozen_vision_tower_keeps_nothing_for_a_backward_pass(tiny_model: Path, freeze_vision: bool):
    options = [f"learner.freeze_vision={freeze_vision}", "learner.gradient_checkpointing=true"]
    config = load_config(None, [f"model.path={tiny_model}", *TINY, *options], environment={}).config
    policy: Any = load_policy(config, str(tiny_model), forbidden_token_ids=[])
    choose_trainable(policy, config.learner.lora, freeze_vision=freeze_vision)
    image = SequenceBuilder(config.model).filler().images
    assert image is not None
    features = family_of(policy.config.model_type).features(policy.train(), image.inputs[0].tensors, [0])
    assert features.pooler_output[0].requires_grad != freeze_vision


def _example(name: str, overrides: list[str]) -> Config:
    return load_config(EXAMPLES / f"{name}.yaml", overrides, environment={}).config


def _what_matters(config: Config) -> tuple[object, ...]:
    learner = config.learner
    return (
        config.model.path,
        config.model.dtype,
        learner.micro_batch_tokens,
        learner.logits_chunk_tokens,
        learner.lora.rank,
        learner.freeze_vision,
        learner.gradient_checkpointing,
    )
