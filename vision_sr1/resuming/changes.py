"""Resuming with other settings, data or weights than a checkpoint was written with: what changed, and what follows."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vision_sr1.config import Config, ConfigError, DataConfig, SourceConfig, current_key
from vision_sr1.data.fingerprint import fingerprint
from vision_sr1.data.tables import load_table
from vision_sr1.prompting.prompt_template import template_text
from vision_sr1.run_folder.checkpoints import POLICY, manifest

Stage = Literal["rl", "sft"]

ORIGIN = "origin"  # in a checkpoint's manifest
REFUSED = "refused"
_NEXT_STEP = "from the next optimizer step on"
_NEXT_BATCH = "from the next batch on"
_NEXT_PROMPTS = "for prompts issued from now on; those in the streams stay as they are"
_NEXT_EVALUATION = "from the next evaluation on"
_SCHEDULE = "the learning rate's schedule for the new total goes on at the present step"
_SAME_CONTENT = "another place of the same content"

# What resuming does with a changed setting: of the keys that begin its own the longest decides; None: not compared.
EFFECTS: dict[Stage, dict[str, str | None]] = {
    "rl": {
        "run.seed": REFUSED,
        "model": _NEXT_PROMPTS,
        "model.path": None,  # compared by its weights
        "model.min_pixels": REFUSED,
        "model.max_pixels": REFUSED,
        "data": _NEXT_PROMPTS,
        "data.train": None,  # compared by its rows
        "data.evaluation": _NEXT_EVALUATION,
        "data.sft": None,
        "data.sft_evaluation": None,
        "data.image_root": None,
        "sampling": _NEXT_PROMPTS,
        "sampling.temperature": f"{_NEXT_PROMPTS}, and are learned from at the new temperature",
        "sampling.group_size": REFUSED,
        "reward": "for rollouts scored from now on",
        "reward.requery.questions": _NEXT_PROMPTS,
        "reward.host": None,
        "reward.port": None,
        "reward.api": None,
        "reward.traces": None,
        "learner": _NEXT_STEP,
        "learner.batches": "training ends at the new total, for which the learning rate's schedule goes on; at once "
        "where the checkpoint is past it",
        "learner.schedule": _SCHEDULE,
        "learner.stop_when": _NEXT_BATCH,
        "learner.prompts_per_batch": f"{_NEXT_BATCH}; prompts that are issued already come first",
        "learner.prompts_per_step": _NEXT_BATCH,
        "learner.max_staleness": _NEXT_BATCH,
        "learner.weights": "from the next publication on",
        "learner.off_policy.recompute_proximal": _NEXT_BATCH,
        "learner.off_policy.correction": _NEXT_BATCH,
        "learner.evaluate_every": _NEXT_EVALUATION,
        "learner.keep_best": f"{_NEXT_EVALUATION}; the best by another name is no longer kept",
        "learner.freeze_vision": REFUSED,
        "learner.lora": REFUSED,
        "learner.lora.publish": _NEXT_STEP,
        "learner.resume": None,
        "learner.sft": None,
    },
    "sft": {
        "run.seed": REFUSED,
        "model": _NEXT_STEP,
        "model.path": None,
        "data": _NEXT_STEP,
        "data.train": None,
        "data.evaluation": None,
        "data.sft": None,
        "data.sft_evaluation": _NEXT_EVALUATION,
        "data.prompt_template": None,
        "data.image_root": None,
        "learner.lora": REFUSED,
        "learner.zero_stage": _NEXT_STEP,
        "learner.max_grad_norm": _NEXT_STEP,
        "learner.micro_batch_tokens": _NEXT_STEP,
        "learner.processes": _NEXT_STEP,
        "learner.sft": _NEXT_STEP,
        "learner.sft.sequences_per_step": f"{_NEXT_STEP}, with the conversations that come next",
        "learner.sft.steps": _SCHEDULE,
        "learner.sft.epochs": _SCHEDULE,
        "learner.sft.warmup_ratio": _SCHEDULE,
        "learner.sft.freeze_vision": REFUSED,
        "learner.sft.output": None,
    },
}
WITHIN_A_BATCH = ("learner.prompts_per_step", "learner.off_policy.recompute_proximal")

BLOCKS, BLOCK_BYTES = 64, 4096  # of each file of weights


@dataclass(frozen=True)
class Change:
    """A difference between what a checkpoint was written with and the present configuration.

    Attributes:
        effect: what resuming does with it.
    """

    setting: str
    then: str
    now: str
    effect: str

    @property
    def is_refused(self) -> bool:
        """Whether the checkpoint cannot be resumed with it."""
        return self.effect.startswith(REFUSED)


def origin(config: Config, stage: Stage) -> dict[str, Any]:
    """What a checkpoint of this configuration is written with: settings, and fingerprints of rows and weights.

    It is the same on every rank and machine, and takes seconds whatever the sizes of data and model.

    Raises:
        DataError: a data set cannot be read.
        TemplateError: there is no such prompt template.
    """
    key, sources = _sources(config, stage)
    return {
        "settings": _settings(config, stage),
        "model.path": {"path": config.model.path, "fingerprint": _weights(config.model.path)},
        key: [_rows(source, config.data) for source in sources],
    }


def changes(checkpoint: Path, config: Config, stage: Stage, now: dict[str, Any]) -> list[Change]:
    """What changed since a checkpoint was written; nothing where it does not say what it was written with.

    Args:
        now: the present `origin`.

    Raises:
        ConfigError: it cannot be resumed with these changes, or is of another stage.
    """
    state = manifest(checkpoint)
    found = state.get("stage", "rl")
    if found != stage:
        raise ConfigError(f"{checkpoint} is a checkpoint of {found}, not of {stage}: choose another run.name")
    then = state.get(ORIGIN)
    if then is None:
        return []
    effects = dict(EFFECTS[stage])
    if state.get("unfinished"):
        effects |= dict.fromkeys(WITHIN_A_BATCH, f"{REFUSED}, until batch {state['batch'] + 1} is learned from")
    key, sources = _sources(config, stage)
    since = [
        *_changed_data(key, then[key], now[key], sources, config.data),
        *_changed_model(then["model.path"], now["model.path"]),
        *_changed_settings(
            {current_key(key): value for key, value in then["settings"].items()}, now["settings"], effects
        ),
    ]
    if refused := [change for change in since if change.is_refused]:
        named = "; ".join(f"{c.setting}: {c.now} instead of {c.then}{c.effect.removeprefix(REFUSED)}" for c in refused)
        raise ConfigError(
            f"{checkpoint} cannot be resumed with what has changed since ({named}): restore the old values, or start a "
            f"new run from its weights with run.name=OTHER model.path={checkpoint / POLICY}"
        )
    return since


def _sources(config: Config, stage: Stage) -> tuple[str, list[SourceConfig]]:
    return ("data.train", config.data.train) if stage == "rl" else ("data.sft", config.data.sft)


def _rows(source: SourceConfig, config: DataConfig) -> dict[str, Any]:
    table = load_table(source.path)
    rows = len(table)
    return {**source.model_dump(), "rows": rows, "fingerprint": fingerprint(table, config, rows)}


def _settings(config: Config, stage: Stage) -> dict[str, Any]:
    """Every setting that is compared, by its key; templates with a fingerprint of their text."""
    tree = config.model_dump(mode="json")
    if not config.learner.lora.rank:
        tree["learner"]["lora"] = {"rank": 0}
    templates = ((tree["data"], "prompt_template"), (tree["reward"]["requery"], "template")) if stage == "rl" else ()
    for section, key in templates:
        text = template_text(section[key])
        section[key] += f" ({_short(hashlib.sha256(text.encode()).hexdigest())})"
    return {key: value for key, value in _leaves(tree, "") if _effect(EFFECTS[stage], key) is not None}


def _leaves(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else key)
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        for index, item in enumerate(tree):
            yield from _leaves(item, f"{prefix}[{index}]")
    else:
        yield prefix, tree


def _effect(effects: dict[str, str | None], key: str) -> str | None:
    known = [prefix for prefix in effects if key == prefix or key.startswith((f"{prefix}.", f"{prefix}["))]
    return effects[max(known, key=len)] if known else None


def _changed_settings(then: dict[str, Any], now: dict[str, Any], effects: dict[str, str | None]) -> Iterator[Change]:
    for key in {**then, **now}:
        effect = _effect(effects, key)
        is_comparable = effect != REFUSED or (key in then and key in now)  # adapters have settings only where there are
        if then.get(key) != now.get(key) and effect is not None and is_comparable:
            yield Change(key, str(then.get(key, "-")), str(now.get(key, "-")), effect)


def _changed_model(then: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    paths = then["path"], now["path"]
    prints = then["fingerprint"], now["fingerprint"]
    if None in prints:  # a hub's model that is not on this disk yet
        if paths[0] != paths[1]:
            yield Change("model.path", *paths, REFUSED)
    elif prints[0] != prints[1]:
        said = [f"{path} (weights {_short(print_)})" for path, print_ in zip(paths, prints, strict=True)]
        yield Change("model.path", said[0], said[1], REFUSED)
    elif paths[0] != paths[1]:
        yield Change("model.path", *paths, _SAME_CONTENT)


def _changed_data(
    key: str,
    then: list[dict[str, Any]],
    now: list[dict[str, Any]],
    sources: Sequence[SourceConfig],
    config: DataConfig,
) -> Iterator[Change]:
    if len(then) != len(now):
        paths = [", ".join(one["path"] for one in side) or "none" for side in (then, now)]
        yield Change(key, paths[0], paths[1], REFUSED)
        return
    for index, (old, new, source) in enumerate(zip(then, now, sources, strict=True)):
        name = key if len(now) == 1 else f"{key}[{index}]"
        if old["weight"] != new["weight"]:
            yield Change(f"{name}.weight", str(old["weight"]), str(new["weight"]), REFUSED)
        if old["fingerprint"] != new["fingerprint"]:
            before, after = (
                f"{one['rows']} rows in {one['path']} ({_short(one['fingerprint'])})" for one in (old, new)
            )
            if new["rows"] > old["rows"]:
                first = fingerprint(load_table(source.path), config, old["rows"])
                after += ", which begin with the old ones," if first == old["fingerprint"] else ""
            yield Change(name, before, after, REFUSED)
        elif old["path"] != new["path"]:
            yield Change(f"{name}.path", old["path"], new["path"], _SAME_CONTENT)


def _weights(path: str) -> str | None:
    """A fingerprint of a model's weights by the sizes of its files and a few blocks of each; None: not on this disk."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(path) if Path(path).is_dir() else Path(snapshot_download(path, local_files_only=True))
    except (OSError, ValueError):
        return None
    digest, files = hashlib.sha256(), sorted(folder.glob("*.safetensors"))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as content:
            for block in range(BLOCKS):
                content.seek(block * max(0, size - BLOCK_BYTES) // (BLOCKS - 1))
                digest.update(content.read(BLOCK_BYTES))
    return digest.hexdigest() if files else None


def _short(digest: str) -> str:
    return digest[:8]
