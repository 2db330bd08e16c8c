"""Memory that `vision-sr1 plan` counts for weights, gradients and optimizer is what DeepSpeed holds."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.learner.distributed.held_memory import PARAMETERS, WIDTH
from tests.learner.ranks import run_ranks
from vision_sr1.cli.planning.estimates import GIB, learner_memory, model_size
from vision_sr1.config import load_config

RANKS = 2


@pytest.mark.system
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_plan_knows_what_an_engine_holds(tmp_path: Path, tiny_model: Path, stage: int):
    run_ranks("tests.learner.distributed.held_memory", RANKS, tmp_path / "held", str(stage))
    config = load_config(None, ["model.dtype=bfloat16"], environment={}).config
    of_tiny = model_size(str(tiny_model), config.learner)
    size = replace(of_tiny, parameters=PARAMETERS, trainable=PARAMETERS, vocabulary=WIDTH, hidden=WIDTH)
    planned = learner_memory(size, config, RANKS, zero_stage=stage, placement="policy")
    gathered = 2 * PARAMETERS / GIB if stage == 3 else 0.0  # during the passes alone
    states = planned.weights - gathered + planned.gradients + planned.optimizer
    assert states == pytest.approx(int((tmp_path / "held").read_text()) / GIB, rel=0.1)
