"""Low-rank adapters: only they learn, and everybody else sees one merged model."""

from pathlib import Path

import pytest
import torch

from learner.checkpoints.hf_folder import export_policy
from learner.model.lora import add_adapters, merged_parameters, merged_shapes
from learner.model.policy import load_policy
from learner.model.reference import BaseWeights
from tests.learner.objective.test_update import Learner, changed
from vision_sr1.config import ConfigError, LoraConfig

LORA = "learner.lora.rank=4"


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_only_adapters_learn_and_the_export_is_the_merged_policy(
    stage: int, tiny_model: Path, shapes: dict[str, Path], single_rank: torch.device, tmp_path: Path
):
    learner = Learner(tiny_model, shapes["cold_start"], single_rank, LORA, f"learner.zero_stage={stage}")
    original = load_policy(learner.config, str(tiny_model), forbidden_token_ids=[])
    merged = {name: value.clone() for name, value in merged_parameters(learner.policy)}
    assert changed(dict(original.named_parameters()), merged) == set(), "adapters begin as nothing"
    before = learner.weights()
    learner.learn()
    moved = changed(before, learner.weights())
    assert moved
    assert all("lora_" in name for name in moved)

    assert dict(merged_shapes(learner.policy)) == {name: p.shape for name, p in original.named_parameters()}
    export_policy(learner.policy, learner.builder.processor, tmp_path / "merged")
    exported = load_policy(learner.config, str(tmp_path / "merged"), forbidden_token_ids=[])
    different = changed(dict(original.named_parameters()), dict(exported.named_parameters()))
    assert different
    assert all(".language_model." in name for name in different)
    sample = learner.groups[0].rollouts[0].rollout
    own = learner.logprobs(sample.sample, sample.prompt.images)
    learner.policy = exported
    assert learner.logprobs(sample.sample, sample.prompt.images) == pytest.approx(own, rel=1e-5)


def test_the_reference_is_the_policy_without_its_adapters(
    tiny_model: Path, shapes: dict[str, Path], single_rank: torch.device
):
    learner = Learner(tiny_model, shapes["cold_start"], single_rank, LORA)
    learner.learn()
    rollout = learner.groups[0].rollouts[0].rollout
    packed = learner.packed(rollout.sample, rollout.prompt.images)
    without = BaseWeights(learner.engine, single_rank).logprobs(packed)
    torch.testing.assert_close(without, learner.reference.logprobs(packed))
    moved = torch.tensor(learner.logprobs(rollout.sample, rollout.prompt.images))
    assert not torch.allclose(without, moved, rtol=1e-4)
    assert all(p.requires_grad == ("lora_" in name) for name, p in learner.policy.named_parameters())


def test_modules_that_do_not_exist_are_named(tiny_model: Path, shapes: dict[str, Path], single_rank: torch.device):
    learner = Learner(tiny_model, shapes["cold_start"], single_rank)
    with pytest.raises(ConfigError, match=r"learner\.lora\.target_modules 'nothing'"):
        add_adapters(learner.policy, LoraConfig(rank=4, target_modules="nothing"))
