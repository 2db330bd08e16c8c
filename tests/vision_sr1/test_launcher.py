"""What the launcher decides before it starts anything, and when something ends."""

from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from vision_sr1.config import ConfigError, load_config
from vision_sr1.gpus import visible_gpus
from vision_sr1.launcher.processes import ServiceProcess
from vision_sr1.launcher.progress import ScalarTail
from vision_sr1.launcher.run import StageFailedError, _watch
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


@pytest.mark.parametrize(("status", "goes_on"), [(143, True), (1, False)])
def test_a_learner_that_was_stopped_is_started_again_and_one_that_failed_before_its_first_batch_is_not(
    tmp_path: Path, status: int, goes_on: bool
):
    once = tmp_path / "once"
    command = ["sh", "-c", f"test -e {once} || {{ touch {once}; exit {status}; }}"]
    learner = ServiceProcess("learner", command, {}, tmp_path / "learner.log", restarts_left=5)
    learner.start()
    watch = partial(
        _watch, [learner], learner, ScalarTail(tmp_path / "scalars.jsonl"), lambda: False, lambda: None, Console()
    )
    if goes_on:
        watch()
        assert learner.restarts_left == 4
    else:
        with pytest.raises(StageFailedError, match=f"the learner ended with status {status}"):
            watch()
