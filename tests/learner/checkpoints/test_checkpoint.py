"""Checkpoints on a real disk: written beside training, incomplete, disk full, pruned, and those of another model."""

import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from learner.checkpoints.saver import CheckpointError, Checkpoints
from learner.distributed.deepspeed_engine import build_engine
from learner.model.policy import choose_trainable, load_policy
from learner.model.sequences import SequenceBuilder
from tests.conftest import TINY
from vision_sr1.config import ConfigError, load_config
from vision_sr1.run_folder.checkpoints import ADAPTER, POLICY, best, newest_healthy


class Saver:
    """A policy of one rank that is never trained, and its checkpoints."""

    def __init__(self, folder: Path, model: Path, *overrides: str) -> None:
        options = [f"run.dir={folder}", f"model.path={model}", "learner.zero_stage=1", "learner.resume=true", *TINY]
        self.config = load_config(None, [*options, *overrides], environment={}).config
        policy = load_policy(self.config, str(model), forbidden_token_ids=[])
        choose_trainable(policy, self.config.learner.lora, freeze_vision=True)
        self.engine = build_engine(self.config, policy, learning_rate=1e-3, weight_decay=0.0)
        self.processor = SequenceBuilder(self.config.model).processor
        self.checkpoints = Checkpoints(self.config, stage="rl")
        self.folder = self.config.run.path / "checkpoints"
        _step(self.engine)

    def save(self, number: int, **state: object) -> Path:
        self.checkpoints.begin(self.engine, self.processor, number, {"policy_version": number, **state})
        folder = self.checkpoints.finalize(wait=True, last=True)
        assert folder is not None
        return folder

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


def _step(engine) -> None:
    loss = sum(parameter.sum() for parameter in engine.module.parameters() if parameter.requires_grad) * 1e-3
    engine.backward(loss, scale_wrt_gas=False)
    engine.step()


@pytest.fixture
def saver(tmp_path: Path, tiny_model: Path, single_rank: torch.device) -> Callable[..., Saver]:
    return lambda *overrides: Saver(tmp_path, tiny_model, *overrides)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 10 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_training_goes_on_while_a_checkpoint_of_before_is_written(saver):
    one = saver()
    before = {name: p.detach().clone() for name, p in one.engine.module.named_parameters()}
    one.checkpoints.begin(one.engine, one.processor, 1, {"policy_version": 1})
    _step(one.engine)
    for _ in range(600):
        if folder := one.checkpoints.finalize():
            break
        time.sleep(0.05)
    saved = load_file(folder / POLICY / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in before.items() if name in saved)
    assert any(not torch.equal(p, before[name]) for name, p in one.engine.module.named_parameters())
    assert one.checkpoints.finalize(wait=True) is None, "it is said once"


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_an_incomplete_checkpoint_is_passed_over(saver, damage: str):
    one = saver()
    one.save(1)
    newest = one.save(2)
    weights = newest / POLICY / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "gone":
        next(newest.glob("state/*.safetensors")).unlink()
    else:
        (newest / "trainer.json").write_text('{"policy_version": 2, "fi')
    assert one.checkpoints.to_resume() == one.folder / "000001"
    assert one.checkpoints.load(one.engine, one.folder / "000001")["policy_version"] == 1


def test_a_run_without_any_whole_checkpoint_says_so(saver):
    one = saver()
    (one.save(1) / "trainer.json").write_text("{}")
    with pytest.raises(ConfigError, match="none of the checkpoints in .* is whole .*start again with --fresh"):
        one.checkpoints.to_resume()


def test_a_full_disk_costs_a_checkpoint_and_not_those_before(saver):
    one = saver()
    one.save(1)
    with full_disk():
        one.checkpoints.begin(one.engine, one.processor, 2, {"policy_version": 2})
        with pytest.raises(CheckpointError, match="checkpoint 2 could not be written to"):
            one.checkpoints.finalize(wait=True, last=True)
    assert one.names() == ["000001"]
    one.save(3)
    assert one.names() == ["000001", "000003"]


def test_training_goes_on_without_a_checkpoint_until_the_third_fails_in_a_row(saver):
    one = saver()
    for failing in (2, 2, 3):
        with full_disk():
            for number in range(failing):
                one.checkpoints.begin(one.engine, one.processor, number, {})
                if number < 2:
                    assert one.checkpoints.finalize(wait=True) is None
                else:
                    with pytest.raises(CheckpointError, match="checkpoint 2 could not be written to"):
                        one.checkpoints.finalize(wait=True)
        one.save(7)


def test_checkpoints_of_a_run_that_diverges_do_not_replace_healthy_ones(saver):
    one = saver("learner.keep_checkpoints=2")
    for number in range(1, 8):
        one.save(number, healthy=number not in (4, 5, 7))
        kept = {3: [2, 3], 4: [2, 3, 4], 5: [2, 3, 5], 6: [3, 6], 7: [3, 6, 7]}.get(number)
        assert kept is None or one.names() == [f"{folder:06d}" for folder in kept]
    assert newest_healthy(one.config.run.path) == one.folder / "000006"


def test_what_a_killed_learner_was_writing_is_cleared_away(saver):
    one = saver()
    (one.folder / ".writing-000009" / "state").mkdir(parents=True)
    assert one.checkpoints.to_resume() is None
    one.save(1)
    assert one.names() == ["000001"]


def test_one_that_was_being_replaced_when_the_learner_died_is_there_again(saver):
    one = saver()
    one.save(1).rename(one.folder / ".replaced-000001")
    assert one.checkpoints.to_resume() == one.folder / "000001"
    one.save(1)
    assert one.names() == ["000001"]


def test_the_latest_and_the_best_are_kept(saver):
    one = saver("learner.keep_checkpoints=2")
    for number, score in ((1, 0.2), (2, 0.9), (3, None), (4, 0.5), (5, None)):
        one.save(number, score=score)
    assert one.names() == ["000002", "000004", "000005", "best"]
    assert (one.folder / "best").resolve().name == "000002"
    one.save(6, score=0.9)
    assert one.names() == ["000005", "000006", "best"], "of equals the newer"
    assert json.loads((one.folder / "best" / "trainer.json").read_text())["policy_version"] == 6


def test_a_copied_run_whose_best_is_no_link_goes_on(saver):
    one = saver("learner.keep_checkpoints=1")
    one.save(1, score=0.9)
    one.save(2, score=0.5)
    link = one.folder / "best"
    kept = shutil.copytree(link.resolve(), one.folder / "copy")
    link.unlink()
    kept.rename(link)
    assert best(one.folder.parent) == one.folder / "000001"
    one.save(3, score=1.0)
    assert link.is_symlink()
    assert best(one.folder.parent) == one.folder / "000003"


def test_an_adapter_is_written_beside_the_merged_policy_as_peft_reads_it(saver, tiny_model: Path):
    one = saver("learner.lora.rank=4", "learner.learning_rate=1e-2")
    _step(one.engine)
    folder = one.save(1)
    merged = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(tiny_model), folder / ADAPTER)
    merged = merged.merge_and_unload().state_dict()
    policy = AutoModelForImageTextToText.from_pretrained(folder / POLICY).state_dict()
    before = AutoModelForImageTextToText.from_pretrained(tiny_model).state_dict()
    assert any(not torch.equal(policy[name], before[name]) for name in policy)
    assert all(torch.allclose(merged[name], policy[name], atol=1e-6) for name in policy)


def test_what_a_checkpoint_was_written_with_is_compared_on_resuming(saver):
    folder = saver().save(1)
    assert saver("learner.learning_rate=1e-2").checkpoints.to_resume() == folder
    with pytest.raises(ConfigError, match=r"000001 cannot be resumed .*run\.seed: 1 instead of 0"):
        saver("run.seed=1").checkpoints.to_resume()


def test_scores_by_another_name_are_not_compared(saver):
    saver("learner.keep_best=eval_accuracy/a").save(1, score=0.9, best=0.9)
    other = saver("learner.keep_best=eval_accuracy/b", "learner.keep_checkpoints=1")
    assert other.checkpoints.load(other.engine, other.folder / "000001")["best"] is None
    other.save(2, score=0.1)
    other.save(3)
    assert other.names() == ["000002", "000003", "best"]


def test_a_checkpoint_of_another_model_is_refused(saver, tmp_path: Path, tiny_model: Path, untied_model: Path):
    folder = saver().save(1)
    other = Saver(tmp_path / "other", untied_model)
    with pytest.raises(ConfigError, match="lm_head.weight.*it is a checkpoint of another model"):
        other.checkpoints.load(other.engine, folder)
