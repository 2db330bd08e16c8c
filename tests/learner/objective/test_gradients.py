"""The gradient of an optimizer step does not depend on how its batch is cut, distributed or sharded."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY
from tests.learner.made_groups import make_groups, write_groups
from tests.learner.one_step import gradient_file
from tests.learner.ranks import run_ranks
from vision_sr1.config import load_config

STEP = [*TINY, "learner.prompts_per_batch=8", "learner.prompts_per_step=8", "learner.max_grad_norm=1e9"]
Gradient = dict[str, torch.Tensor]
ALL, SMALL = 100_000, 210  # tokens of a micro-batch

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, shapes: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("groups")
    config = load_config(None, [f"model.path={tiny_model}", *STEP], environment={}).config
    write_groups(folder, *make_groups(config, shapes["cold_start"], prompts=8, group_size=4))
    return folder


DEPENDENCY = ["learner.dependency.token_share=0.5", "learner.dependency.kl_bonus=0.1"]


@pytest.mark.parametrize(
    ("objective", "passes", "stages"),
    [([], 1, [0, 1, 2, 3]), (DEPENDENCY, 2, [0, 3])],
    ids=["plain", "dependency"],
)
def test_gradients_are_equal_however_a_batch_is_cut(
    batch: Path, tiny_model: Path, objective: list[str], passes: int, stages: list[int]
):
    def gradient(ranks: int, stage: int, tokens: int) -> Gradient:
        return load_file(gradient_file(batch, ranks, stage, tokens))

    small = ",".join(f"{stage}:{SMALL}" for stage in stages)
    for ranks, cuts in ((1, f"0:{ALL},{small}"), (2, small)):
        run_ranks("tests.learner.one_step", ranks, batch, cuts, f"model.path={tiny_model}", *STEP, *objective)
    whole = gradient(1, 0, ALL)
    assert int(whole.pop("backward_passes")) == passes
    assert float(whole["model.language_model.norm.weight"].norm()) > 0
    assert float(whole["model.visual.patch_embed.proj.weight"].norm()) > 0
    for ranks, micro_batches in ((1, 7), (2, 4)):
        for stage in stages:
            cut = gradient(ranks, stage, SMALL)
            assert int(cut["backward_passes"]) == passes * micro_batches
            for name, expected in whole.items():
                difference = float((cut[name] - expected).norm())
                assert difference <= 1e-4 * float(expected.norm()), (ranks, stage, name)


def test_a_loss_that_is_not_finite_on_one_rank_skips_the_step_on_all(
    tmp_path: Path, tiny_model: Path, shapes: dict[str, Path]
):
    config = load_config(None, [f"model.path={tiny_model}", *STEP], environment={}).config
    groups, images = make_groups(config, shapes["cold_start"], prompts=4, group_size=4)
    for name, batch in (("healthy", groups[:2]), ("broken", groups[2:])):
        (tmp_path / name).mkdir()
        if name == "broken":
            sample = batch[0].rollouts[0].rollout.sample
            tokens = len(sample.logprobs)
            sample.ClearField("logprobs")
            sample.logprobs.extend([-1e30] * tokens)
        write_groups(tmp_path / name, batch, images)
    options = [*STEP[:-1], f"model.path={tiny_model}"]
    run_ranks("tests.learner.distributed.skipped_step", 2, tmp_path, *options)
