"""Model FLOPs against what torch counts in a forward pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from learner.model.flops import ModelFlops
from learner.model.packing import pack
from learner.model.policy import load_policy, rope_positions, token_logprobs
from learner.model.sequences import SequenceBuilder
from tests.conftest import TINY
from vision_sr1.config import DependencyConfig, load_config
from vision_sr1.runtime.gpus import GPUS, known_gpu


@pytest.mark.parametrize("folder", ["tiny_model", "untied_model"])
def test_of_a_forward_pass_they_are_what_torch_counts(folder: str, request: pytest.FixtureRequest):
    model: Path = request.getfixturevalue(folder)
    config = load_config(None, [f"model.path={model}", *TINY], environment={}).config
    policy: Any = load_policy(config, str(model), forbidden_token_ids=[])
    builder = SequenceBuilder(config.model)
    prompt, response = list(range(20, 120)), list(range(20, 80))
    sequence = builder.from_tokens(prompt, response, None)
    packed = pack([sequence], builder.filler(), lambda s: rope_positions(policy, s))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        token_logprobs(policy, packed, torch.device("cpu"))
    per_pass = ModelFlops(policy, forward_passes=0)([(prompt, [len(response)])]) / 3
    assert per_pass == pytest.approx(counter.get_total_flops(), rel=0.25)


def test_a_reference_adds_a_pass_and_adapters_save_one(tiny_model: Path):
    config = load_config(None, [f"model.path={tiny_model}", *TINY], environment={}).config
    policy: Any = load_policy(config, str(tiny_model), forbidden_token_ids=[])
    sequences = [([1, 2, 3], [4])]
    full = ModelFlops(policy, forward_passes=0)(sequences)
    assert ModelFlops(policy, forward_passes=1)(sequences) == pytest.approx(full * 4 / 3)
    image = [([1, policy.config.image_token_id, 3], [4])]
    measured, bonus = DependencyConfig(measure=True), DependencyConfig(kl_bonus=0.1)
    of_images = ModelFlops(policy, forward_passes=0)(image)
    assert ModelFlops(policy, forward_passes=0, dependency=measured)(image) == pytest.approx(of_images * 4 / 3)
    assert ModelFlops(policy, forward_passes=0, dependency=measured)(image + sequences) == pytest.approx(
        of_images * 4 / 3 + full
    )
    assert ModelFlops(policy, forward_passes=0, dependency=bonus)(image) == pytest.approx(of_images * 7 / 3)
    policy.requires_grad_(False)
    assert ModelFlops(policy, forward_passes=0)(sequences) == pytest.approx(full * 2 / 3)


def test_gpus_are_known_by_the_names_that_drivers_give_them():
    names = {"NVIDIA H100 80GB HBM3": "H100", "NVIDIA H200": "H200", "NVIDIA GeForce RTX 4090": "RTX4090"}
    names |= {"NVIDIA A100-SXM4-80GB": "A100", "NVIDIA A100-PCIE-40GB": "A100-40GB"}
    for name, kind in names.items():
        assert known_gpu(name) == GPUS[kind]
    assert known_gpu("Tesla T4") is None
