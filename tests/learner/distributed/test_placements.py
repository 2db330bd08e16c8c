"""A reference predicts the same wherever its weights are."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY
from tests.learner.distributed.placements import PLACES
from tests.learner.made_groups import make_groups, write_groups
from tests.learner.ranks import run_ranks
from vision_sr1.config import load_config


@pytest.mark.system
def test_two_ranks_predict_the_same_with_the_reference_in_every_place(
    tmp_path: Path, tiny_model: Path, shapes: dict[str, Path]
):
    options = [f"model.path={tiny_model}", *TINY]
    config = load_config(None, options, environment={}).config
    write_groups(tmp_path, *make_groups(config, shapes["cold_start"], prompts=2, group_size=2))
    run_ranks("tests.learner.distributed.placements", 2, tmp_path, *options)
    first, second = (load_file(tmp_path / f"logprobs-{rank}.safetensors") for rank in range(2))
    copied, *divided = PLACES
    for logprobs in (first, second):
        expected = logprobs[f"{copied}, pass 0"]
        assert len(expected) > 10
        for place in PLACES:
            for pass_ in range(3):
                torch.testing.assert_close(logprobs[f"{place}, pass {pass_}"], expected, rtol=0, atol=1e-5)
        for place in divided:
            assert logprobs[f"{place}, held"] < 0.51 * logprobs[f"{copied}, held"], place
    assert not torch.equal(first[f"{copied}, pass 0"], second[f"{copied}, pass 0"])
