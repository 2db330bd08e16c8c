"""A run's policy as a model of its own: a folder that transformers, vLLM and PEFT load without this project."""

import hashlib
import json
import shutil
from pathlib import Path

from vision_sr1.cli.export.model_card import model_card
from vision_sr1.cli.runs import load_run, settings_file
from vision_sr1.config import Config, ConfigError, save_config
from vision_sr1.families import family_of_model
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.atomic import written_whole
from vision_sr1.run_folder.checkpoints import (
    ADAPTER,
    BEST,
    POLICY,
    best,
    checkpoints,
    damage_of,
    is_healthy,
    manifest,
    newest_healthy,
)
from vision_sr1.run_folder.names import SCALARS

CARD = "README.md"
CHECKSUMS = "SHA256SUMS"  # of all other files, as `sha256sum --check` reads it
RUN_SETTINGS = "vision_sr1.yaml"  # the run's configuration, secrets left out


def export(run: Path, version: str, output: Path, *, adapter: bool, license_id: str | None) -> Path:
    """Writes a policy version with its model card, the run's configuration, and checksums; returns the checkpoint.

    Args:
        version: a checkpoint's number, `latest`, or `best` (by `learner.keep_best`).
        output: a folder that is not there yet.
        adapter: only what was learned beside the base model's weights, in PEFT's format.
        license_id: of the model, as the Hub names licences; None leaves it out of the card.

    Raises:
        ConfigError: there is no such version, it has no adapter, it is damaged, or the folder is there already.
    """
    config = load_run(run).config
    checkpoint = find_checkpoint(run, version)
    source = checkpoint / (ADAPTER if adapter else POLICY)
    if not source.is_dir():
        raise ConfigError(f"{checkpoint} has no adapter: the run learned all weights (learner.lora.rank is 0)")
    if output.exists():
        raise ConfigError(f"{output} is there already; remove it or choose another --output")
    with written_whole(output) as folder:
        shutil.copytree(source, folder)
        if not adapter:
            _scale_images_as_trained(folder, config)
            end_replies_as_trained(folder, config)
        save_config(config, folder / RUN_SETTINGS)
        card = model_card(config, int(checkpoint.name), _evaluation(run, int(checkpoint.name)), adapter, license_id)
        (folder / CARD).write_text(card, encoding="utf-8")
        sums = {file.relative_to(folder): _sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}
        (folder / CHECKSUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), "utf-8")
    return checkpoint


def find_checkpoint(run: Path, version: str) -> Path:
    """A run's checkpoint by its number, or the `latest`, or the `best`.

    Raises:
        ConfigError: there is none, or its files are not whole.
    """
    settings_file(run)
    found = checkpoints(run)
    if not found:
        raise ConfigError(f"{run} has no checkpoints to export")
    known = ", ".join(str(int(folder.name)) for folder in found)
    and_best = " and best" if best(run) else ""
    if version == "latest":
        checkpoint = found[-1]
    elif version == BEST:
        named = best(run)
        if named is None:
            raise ConfigError(f"{run} has no best checkpoint: learner.keep_best names no metric; there are: {known}")
        checkpoint = named
    else:
        by_number = {int(folder.name): folder for folder in found}
        if not version.isdecimal() or int(version) not in by_number:
            raise ConfigError(f"{run} has no version {version!r}; there are: {known}, latest{and_best}")
        checkpoint = by_number[int(version)]
    if damage := damage_of(checkpoint):
        raise ConfigError(f"{checkpoint} is not whole: {damage}; choose another version of {known}")
    return checkpoint


def doubt_about(run: Path, checkpoint: Path) -> str | None:
    """Why another checkpoint may be the better one; None where nothing speaks against this one."""
    if is_healthy(manifest(checkpoint)):
        return None
    healthy = newest_healthy(run)
    other = f"--version {int(healthy.name)} is the newest before that" if healthy else "the run has none before that"
    return f"checkpoint {int(checkpoint.name)} was written while the run diverged (learner.stop_when); {other}"


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Uploads an exported folder to the Hugging Face hub; returns its address.

    Raises:
        ConfigError: the hub is out of reach, or refuses.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        return str(hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Export of Vision-SR1"))
    except Exception as error:  # of the hub's client, of the HTTP library beneath it, of the system
        raise ConfigError(
            f"{folder} was not uploaded to {repository}: {error}; set HF_TOKEN to a token that may write there"
        ) from error


def _scale_images_as_trained(folder: Path, config: Config) -> None:
    """Whoever loads the processor need not know the run's `model.min_pixels` and `model.max_pixels`."""
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    model = config.model.model_copy(update={"path": str(folder)})
    settings["image_processor"] |= family_of_model(model.path).processor_settings(model)
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def end_replies_as_trained(folder: Path, config: Config) -> None:
    """Whoever generates with the model stops where the actors did; a base model's own settings end texts, not turns."""
    from transformers import AutoTokenizer

    file = folder / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    named = settings.get("eos_token_id")
    model = config.model.model_copy(update={"path": str(folder)})
    ends = model.chat(AutoTokenizer.from_pretrained(folder)).end_ids(named)
    if ends not in (named, [named]):
        settings["eos_token_id"] = ends
        file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _evaluation(run: Path, version: int) -> dict[str, dict[str, float]]:
    """Metrics of a version by held-out split, where it was evaluated."""
    found: dict[str, dict[str, float]] = {}
    for scalars in jsonl.read(run / SCALARS):
        if scalars.get("policy/version") != version:
            continue
        for name, value in scalars.items():
            metric, _, split = name.partition("/")
            if metric.startswith("eval_"):
                found.setdefault(split, {})[metric.removeprefix("eval_")] = value
    return found


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
