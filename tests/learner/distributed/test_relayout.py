"""A checkpoint is taken up by any number of ranks and in any ZeRO stage, to the last bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from learner.distributed.state_shards import MOMENTS, WEIGHT, StateShardsError, _Saved
from tests.conftest import TINY
from tests.learner.distributed.relayout import DTYPES
from tests.learner.made_groups import make_groups, write_groups
from tests.learner.ranks import run_ranks
from vision_sr1.config import load_config

OPTIONS = [
    *(*TINY, "learner.prompts_per_batch=4", "learner.prompts_per_step=4"),
    *("learner.components=[{name: a, reward: {accuracy: 1.0}, tokens: [response], kl_coef: 0.0}]",),
]
LAYOUTS = {1: [0, 1, 3], 2: [0, 1, 2, 3]}  # ZeRO stages by number of ranks


def whole(folder: Path, shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """A written state put together."""
    saved = _Saved(folder)
    return {
        f"{kind}/{name}": saved.read(kind, name, 0, shape.numel())
        for name, shape in shapes.items()
        for kind in (WEIGHT, *MOMENTS)
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, shapes: dict[str, Path]) -> Path:
    """States written by two ranks under ZeRO-3, taken up again in every other layout."""
    folder = tmp_path_factory.mktemp("relayout")
    options = [f"model.path={tiny_model}", *OPTIONS]
    config = load_config(None, options, environment={}).config
    write_groups(folder, *make_groups(config, shapes["cold_start"], prompts=4, group_size=4))
    for dtype in DTYPES:
        (folder / dtype).mkdir()
    run_ranks("tests.learner.distributed.relayout", 2, folder, "3", *options)
    for ranks, stages in LAYOUTS.items():
        run_ranks("tests.learner.distributed.relayout", ranks, folder, ",".join(map(str, stages)), *options)
    return folder


@pytest.mark.system
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_state_is_the_same_in_every_layout_and_so_is_the_next_step(trained: Path, dtype: str):
    folder = trained / dtype
    undisturbed = load_file(folder / "undisturbed.safetensors")
    shapes = {name: tensor.shape for name, tensor in undisturbed.items()}
    expected = whole(folder / "state", shapes)
    assert any(values.any() for key, values in expected.items() if key.startswith("exp_avg/"))
    for ranks, stage in ((ranks, stage) for ranks, stages in LAYOUTS.items() for stage in stages):
        name = f"{ranks}-ranks-stage-{stage}"
        held = whole(folder / f"state-{name}", shapes)
        for key, values in expected.items():
            assert torch.equal(held[key], values), (name, key)
        after = load_file(folder / f"{name}.safetensors")
        for key, values in undisturbed.items():
            if (ranks, stage) == (2, 3):
                assert torch.equal(after[key], values), key
            else:  # sums come in another order
                assert torch.allclose(after[key].float(), values.float(), rtol=2e-2, atol=2e-3), (name, key)


def test_a_state_of_another_model_is_refused_by_the_name_of_what_it_lacks(tmp_path: Path):
    (tmp_path / "state").mkdir()
    save_file(
        {"weight/0/model.a": torch.zeros(3), "weight/3/model.a": torch.ones(2)}, tmp_path / "state/rank.safetensors"
    )
    saved = _Saved(tmp_path / "state")
    assert saved.read(WEIGHT, "model.a", 2, 2).tolist() == [0.0, 1.0]
    with pytest.raises(
        StateShardsError, match=r"5 of the 8 elements of model.a \(weight\): it is a checkpoint of another"
    ):
        saved.read(WEIGHT, "model.a", 0, 8)
