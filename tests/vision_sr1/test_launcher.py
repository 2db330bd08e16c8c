"""What the launcher decides before it starts anything."""

import pytest

from vision_sr1.config import ConfigError, load_config
from vision_sr1.gpus import visible_gpus
from vision_sr1.launcher.services import divided


def test_each_service_has_gpus_of_its_own():
    config = load_config(None, ["actors.tensor_parallel_size=2"], environment={}).config
    assert divided(["0", "2", "3", "5", "6", "7"], 2, 2, config) == {
        "learner": "0,2",
        "actor-0": "3,5",
        "actor-1": "6,7",
    }
    assert divided(["0", "1"], 0, 1, config) == {"learner": "", "actor-0": "0,1"}
    assert divided(["0", "1"], 2, 0, config) == {"learner": "0,1"}


def test_too_few_gpus_are_said_so_and_none_are_none():
    config = load_config(None, [], environment={}).config
    with pytest.raises(ConfigError, match="9 GPUs are needed, 8 for the learner and 1 for each of 1 actors, and 8 are"):
        divided([str(number) for number in range(8)], 8, 1, config)
    assert divided([], 8, 1, config) == {}


def test_gpus_that_are_hidden_are_not_given_to_anybody(monkeypatch: pytest.MonkeyPatch):
    everything = visible_gpus()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, 3")
    assert visible_gpus() == (["1", "3"] if everything else [])
