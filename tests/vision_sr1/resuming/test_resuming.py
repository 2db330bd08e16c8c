"""What resuming does with whatever changed since a checkpoint, and fingerprints of data and weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from tests.conftest import TINY
from vision_sr1.cli.launcher.changes_on_resume import print_changes
from vision_sr1.config import Config, ConfigError, load_config
from vision_sr1.config.loading import RENAMED
from vision_sr1.data.fingerprint import TAIL_BYTES, fingerprint
from vision_sr1.data.tables import load_table
from vision_sr1.resuming.changes import EFFECTS, ORIGIN, Stage, changes, origin

ROWS: list[dict[str, Any]] = [
    {
        "problem": f"what is {number}",
        "answer": str(number),
        "messages": [{"role": "user", "content": f"{number}"}, {"role": "assistant", "content": "yes"}],
        "images": [{"bytes": bytes([number]) * 100, "path": None}],
    }
    for number in range(6)
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def model(folder: Path, first: int = 0) -> Path:
    """Weights of a megabyte."""
    folder.mkdir()
    save_file({"weight": np.arange(first, first + 250_000, dtype=np.float32)}, folder / "model.safetensors")
    return folder


class Checkpoint:
    """A manifest as the learner writes it, of a run whose settings are then changed."""

    def __init__(self, folder: Path, stage: Stage, **state: Any) -> None:
        self.stage = stage
        self.data = written(folder / "data" / "rows.parquet", ROWS)
        self.second = written(folder / "data" / "second.parquet", ROWS[:2])
        key = "data.train" if stage == "rl" else "data.sft"
        sets = json.dumps([{"path": str(self.data), "weight": 0.5}, {"path": str(self.second)}])
        self.settings = [
            *TINY,
            f"run.dir={folder}",
            f"model.path={model(folder / 'model')}",
            f"{key}={sets}",
            "learner.resume=true",
        ]
        self.folder = folder / "run" / "checkpoints" / "000003"
        self.folder.mkdir(parents=True)
        config = self.config()
        state = {"stage": stage, ORIGIN: origin(config, stage), "files": {}, **state}
        (self.folder / "trainer.json").write_text(json.dumps(state))

    def config(self, *more: str) -> Config:
        return load_config(None, [*self.settings, *more], environment={}).config

    def changes(self, *more: str) -> dict[str, str]:
        config = self.config(*more)
        return {c.setting: c.effect for c in changes(self.folder, config, self.stage, origin(config, self.stage))}


@pytest.fixture(params=["rl", "sft"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path, request.param)


def test_nothing_changed_where_nothing_did(checkpoint: Checkpoint, tmp_path: Path):
    assert checkpoint.changes() == {}
    assert checkpoint.changes("run.name=other", "metrics.learner_port=0", "learner.lora.alpha=1.0") == {}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ROWS + ROWS[:2], r"8 rows in .* \(\w{8}\), which begin with the old ones, instead of 6 rows in"),
        (ROWS[1:] + ROWS[:3], r"8 rows in \S* \(\w{8}\) instead of 6 rows in"),
        (ROWS[:4], "4 rows in .* instead of 6 rows in"),
        (ROWS[::-1], "6 rows in .* instead of 6 rows in"),
        ([{**ROWS[0], "problem": "why", "messages": ROWS[1]["messages"]}, *ROWS[1:]], "6 rows in .* instead of 6"),
        ([{**ROWS[0], "images": [{"bytes": b"x" * 100, "path": None}]}, *ROWS[1:]], "6 rows in .* instead of 6"),
        ([{**ROWS[0], "images": []}, *ROWS[1:]], "6 rows in .* instead of 6"),
    ],
    ids=["grown", "grown at its front", "shrunk", "order", "a text", "an image", "no image"],
)
def test_other_rows_are_refused_with_the_way_out(checkpoint: Checkpoint, rows: list[dict[str, Any]], said: str):
    written(checkpoint.data, rows)
    way_out = r"restore the old values, or start a new run .* run.name=OTHER model.path=\S*000003/policy$"
    with pytest.raises(ConfigError, match=rf"data\.(train|sft)\[0\]: {said}.*{way_out}") as refused:
        checkpoint.changes()
    assert "\n" not in str(refused.value)


def test_the_same_rows_and_weights_elsewhere_go_on(checkpoint: Checkpoint, tmp_path: Path):
    """With columns that nobody reads, in row groups of another size; and the model in another folder."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([{**row, "note": 1} for row in ROWS]), folder / "a.parquet", row_group_size=2)
    shutil.copytree(checkpoint.config().model.path, folder / "model")
    (folder / "model" / "README.md").write_text("moved")
    text = json.dumps(checkpoint.settings).replace(str(checkpoint.data), str(folder / "a.parquet"))
    checkpoint.settings = [*json.loads(text), f"model.path={folder / 'model'}"]
    found = checkpoint.changes()
    assert set(found) == {"model.path", f"data.{'train' if checkpoint.stage == 'rl' else 'sft'}[0].path"}
    assert set(found.values()) == {"another place of the same content"}


def test_another_model_is_refused(checkpoint: Checkpoint, tmp_path: Path):
    for path in (model(tmp_path / "other", first=1), "someone/model"):
        with pytest.raises(ConfigError, match=rf"model\.path: {path}.* instead of "):
            checkpoint.changes(f"model.path={path}")


@pytest.mark.parametrize(
    ("stage", "override", "setting", "effect"),
    [
        ("rl", "run.seed=7", "run.seed", "refused"),
        ("rl", "sampling.group_size=4", "sampling.group_size", "refused"),
        ("rl", "model.max_pixels=6272", "model.max_pixels", "refused"),
        ("rl", "learner.freeze_vision=true", "learner.freeze_vision", "refused"),
        ("rl", "learner.lora.rank=4", "learner.lora.rank", "refused"),
        ("rl", "learner.prompts_per_batch=1024", "learner.prompts_per_batch", "from the next batch on; prompts that"),
        ("rl", "learner.prompts_per_step=64", "learner.prompts_per_step", "from the next batch on"),
        ("rl", "learner.preset=gdpo", "learner.components[0].advantage", "from the next optimizer step on"),
        ("rl", "learner.learning_rate=1e-5", "learner.learning_rate", "from the next optimizer step on"),
        ("rl", "learner.dependency.kl_bonus=0.1", "learner.dependency.kl_bonus", "from the next optimizer step on"),
        ("rl", "learner.batches=7", "learner.batches", "training ends at the new total"),
        ("rl", "learner.schedule.name=cosine", "learner.schedule.name", "the learning rate's schedule for the new"),
        ("rl", "learner.stop_when.kl.above=1", "learner.stop_when.kl.above", "from the next batch on"),
        ("rl", "data.prompt_template=plain_answer", "data.prompt_template", "for prompts issued from now on"),
        ("rl", "data.evaluation={a: b}", "data.evaluation.a", "from the next evaluation on"),
        ("rl", "sampling.top_p=0.5", "sampling.top_p", "for prompts issued from now on"),
        ("rl", "reward.requery.questions=3", "reward.requery.questions", "for prompts issued from now on"),
        ("rl", "reward.grader=exact", "reward.grader", "for rollouts scored from now on"),
        ("rl", "learner.keep_best=eval_accuracy/a", "learner.keep_best", "from the next evaluation on; the best by"),
        ("sft", "run.seed=7", "run.seed", "refused"),
        ("sft", "learner.sft.freeze_vision=false", "learner.sft.freeze_vision", "refused"),
        ("sft", "learner.sft.sequences_per_step=2", "learner.sft.sequences_per_step", "from the next optimizer step"),
        ("sft", "learner.sft.steps=7", "learner.sft.steps", "the learning rate's schedule for the new total"),
        ("sft", "learner.sft.learning_rate=1e-3", "learner.sft.learning_rate", "from the next optimizer step on"),
    ],
)
def test_each_setting_has_its_effect(tmp_path: Path, stage: Stage, override: str, setting: str, effect: str):
    checkpoint = Checkpoint(tmp_path, stage)
    if effect == "refused":
        with pytest.raises(ConfigError, match=rf"\({setting}: \S+ instead of \S+\): restore the old values"):
            checkpoint.changes(override)
    else:
        assert checkpoint.changes(override)[setting].startswith(effect)


def test_weights_and_number_of_mixed_sets_are_refused(checkpoint: Checkpoint):
    key = "data.train" if checkpoint.stage == "rl" else "data.sft"
    with pytest.raises(ConfigError, match=rf"{key}\[0\]\.weight: 1\.0 instead of 0\.5"):
        checkpoint.changes(f"{key}={json.dumps([str(checkpoint.data), str(checkpoint.second)])}")
    with pytest.raises(ConfigError, match=rf"{key}: \S+second.parquet instead of \S+, \S+second.parquet"):
        checkpoint.changes(f"{key}={checkpoint.second}")


def test_within_a_batch_its_steps_stay_as_they_are(tmp_path: Path):
    state = {"unfinished": {"prompts": ["0/1"], "steps": 1}, "batch": 2}
    checkpoint = Checkpoint(tmp_path, "rl", **state)
    for override in ("learner.prompts_per_step=64", "learner.off_policy.recompute_proximal=true"):
        with pytest.raises(ConfigError, match=rf"{override.partition('=')[0]}: .*, until batch 3 is learned from"):
            checkpoint.changes(override)
    assert checkpoint.changes("learner.prompts_per_batch=1024")


def test_a_checkpoint_of_before_or_of_another_stage(tmp_path: Path):
    checkpoint = Checkpoint(tmp_path, "rl")
    config = checkpoint.config(f"data.sft={checkpoint.data}")
    with pytest.raises(ConfigError, match="is a checkpoint of rl, not of sft: choose another run.name"):
        changes(checkpoint.folder, config, "sft", origin(config, "sft"))
    manifest = checkpoint.folder / "trainer.json"
    manifest.write_text(json.dumps({k: v for k, v in json.loads(manifest.read_text()).items() if k != ORIGIN}))
    written(checkpoint.data, ROWS[:2])
    assert checkpoint.changes("run.seed=7") == {}


def test_a_template_that_was_edited_is_seen(tmp_path: Path):
    template = tmp_path / "own.jinja"
    template.write_text("{{ question }}")
    checkpoint = Checkpoint(tmp_path, "rl")
    checkpoint.settings.append(f"data.prompt_template={template}")
    before = origin(checkpoint.config(), "rl")["settings"]["data.prompt_template"]
    template.write_text("{{ question }}!")
    assert origin(checkpoint.config(), "rl")["settings"]["data.prompt_template"] != before


def test_the_command_prints_the_changes(checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]):
    print_changes(checkpoint.config("learner.max_grad_norm=0.5"), checkpoint.stage, Console(width=200))
    printed = " ".join(capsys.readouterr().out.split())
    assert "learner.max_grad_norm 1.0 0.5 from the next optimizer step on" in printed


def test_fingerprints_are_of_every_form_of_data(tmp_path: Path):
    """A folder of images, lines of JSON, a saved set that was shuffled, and a set of many parts."""
    config = load_config(None, environment={}).config.data

    def of(source: Path | str) -> str:
        table = load_table(str(source))
        return fingerprint(table, config, len(table))

    many = [{"problem": f"what is {number}", "answer": "a"} for number in range(2500)]
    seen = {of(written(tmp_path / "many.parquet", many)), of(written(tmp_path / "less.parquet", many[:-1]))}
    table = load_table(str(tmp_path / "many.parquet"))
    assert fingerprint(table, config, 2499) in seen
    latin = pa.table({"problem": pa.array([b"caf\xe9"]).view(pa.string()), "answer": ["a"]})
    pq.write_table(latin, tmp_path / "latin.parquet")
    assert of(tmp_path / "latin.parquet") not in seen, "what is no UTF-8 is one row's fault"
    datasets.Dataset.from_list(many).save_to_disk(tmp_path / "saved")
    assert of(tmp_path / "saved") in seen, "however it is stored"
    datasets.Dataset.from_list(many).shuffle(seed=1).save_to_disk(tmp_path / "shuffled")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many[::-1]))
    more = {of(tmp_path / name) for name in ("shuffled", "a.jsonl", "b.jsonl")}
    assert len(seen | more) == 5
    rows = [{"problem": f"what is {number}", "answer": "a" * 2 * TAIL_BYTES} for number in (1, 2, 3, 4)]
    for place, lines in (("x/rows", rows[:2]), ("y/rows", rows[2:]), ("z", rows), ("w", [*rows[:3], rows[0]])):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / f"{place}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    assert of(tmp_path / "?/rows.jsonl") == of(tmp_path / "z.jsonl") != of(tmp_path / "w.jsonl")
    table = load_table(str(tmp_path / "?/rows.jsonl"))
    assert fingerprint(table, config, 3) == fingerprint(load_table(str(tmp_path / "w.jsonl")), config, 3)


def test_every_setting_whose_change_has_an_effect_exists():
    for key in {key for effects in EFFECTS.values() for key in effects}:
        section: Any = Config
        for name in key.split("."):
            assert name in section.model_fields, key
            section = section.model_fields[name].annotation


def test_a_checkpoint_that_has_former_names_of_settings_is_compared_by_the_present_ones(tmp_path: Path):
    checkpoint = Checkpoint(tmp_path, "rl")
    file = checkpoint.folder / "trainer.json"
    state = json.loads(file.read_text())
    kept = state[ORIGIN]["settings"]
    former_names = {present: former for former, present in RENAMED.items()}
    state[ORIGIN]["settings"] = {former_names.get(key, key): value for key, value in kept.items()}
    assert state[ORIGIN]["settings"].keys() & RENAMED.keys()
    file.write_text(json.dumps(state))
    assert checkpoint.changes() == {}
    assert checkpoint.changes("sampling.deterministic_sampling=false").keys() == {"sampling.deterministic_sampling"}
