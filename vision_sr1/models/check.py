"""Whether the parts of a model folder belong together: found out at the start, not in the first batch."""

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vision_sr1.config import Config, ConfigError, MissingPathError, ModelConfig
from vision_sr1.families import family_of, family_of_model, read_config
from vision_sr1.runtime.hub import HubError, check_hub

if TYPE_CHECKING:
    from vision_sr1.families.family import Family

PART = re.compile(r"-of-(\d+)\.safetensors$")
WHOLE, ADAPTER_WEIGHTS = "model.safetensors", "adapter_model.safetensors"
PEFT = "base_model.model."


def check_model(model: ModelConfig) -> None:
    """Compares a model's configuration with its tokenizer, its image processor and its chat template; of weights it
    reads the headers.

    Raises:
        ConfigError: a part is missing, of a kind that cannot be trained, or does not fit the others.
    """
    path = model.path
    check_place(path)
    config = read_config(path)
    family = family_of(config.model_type)
    if Path(path).is_dir():
        _check_weights(Path(path))
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"model.path: {path} has no tokenizer or image processor that can be read: "
            f"{' '.join(str(error).split())}; copy all files of the model that are not weights"
        ) from error
    try:
        tokenizer, parts = processor.tokenizer, family.parts(config, processor)
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"model.path: {path}: {type(processor).__name__} is no processor of {family.title} ({error}); take the "
            "files that are not weights from the original model"
        ) from error
    problems = [
        f"{what}: the model has {ours}, {whose} {theirs}" for what, ours, whose, theirs in parts if ours != theirs
    ]
    if family.has_min_pixels and model.min_pixels > model.max_pixels:
        raise ConfigError(
            f"model.min_pixels is {model.min_pixels}, more than model.max_pixels, {model.max_pixels}: set both"
        )
    rows = config.get_text_config().vocab_size
    if len(tokenizer) > rows:
        problems.append(f"vocabulary: the model has {rows} embeddings, the tokenizer {len(tokenizer)} tokens")
    if problems:
        raise ConfigError(
            f"model.path: {path}: model and processor do not belong together ({'; '.join(problems)}); take both from "
            "the same model"
        )
    _check_chat(model, family, tokenizer)


def check_length(model: ModelConfig) -> None:
    """Whether sequences may be as long as `model.max_model_len`: vLLM refuses lengths beyond a model's positions.

    Raises:
        ConfigError: they may not.
    """
    text = read_config(model.path).get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    is_scaled = (getattr(text, "rope_parameters", None) or {}).get("factor") is not None  # vLLM says how far
    if positions is not None and not is_scaled and model.max_model_len > positions:
        raise ConfigError(
            f"model.max_model_len is {model.max_model_len}, and {model.path} has positions for {positions} tokens: set "
            f"model.max_model_len={positions} or less"
        )


def check_cpu_actors(config: Config) -> None:
    """Whether vLLM computes the model on CPUs.

    Raises:
        ConfigError: not in this data type, or not in a pipeline.
    """
    model = config.model
    family = family_of_model(model.path)
    if model.dtype not in family.cpu_actor_dtypes:
        raise ConfigError(
            f"model.dtype is {model.dtype}, and on CPUs vLLM computes {family.title} in "
            f"{' or '.join(family.cpu_actor_dtypes)} alone: set model.dtype={family.cpu_actor_dtypes[0]}"
        )
    stages = config.actors.engine_args.get("pipeline_parallel_size", 1)
    if stages > 1:
        raise ConfigError(
            f"actors.engine_args.pipeline_parallel_size is {stages}, and on CPUs vLLM's pipelines end at the first "
            "prompt: set actors.tensor_parallel_size"
        )


def _check_chat(model: ModelConfig, family: "Family", tokenizer: Any) -> None:
    import jinja2

    where = f"model.path: {model.path}"
    try:
        chat = model.chat(tokenizer)
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{where}: its chat_template.json cannot be read ({error}): copy it again") from error
    if not chat.has_template:
        raise ConfigError(
            f"{where} has no chat template, as base models have none: take its Instruct version, or put the template "
            "into its folder as chat_template.jinja"
        )
    try:
        prompt = chat.user_turn("?", 1)
    except jinja2.TemplateError as error:
        cure = "; leave model.system_prompt empty" if model.system_prompt else ""
        raise ConfigError(f"{where}: its chat template refuses a question with an image: {error}{cure}") from error
    except Exception as error:  # whatever the template does with a turn that is a list of texts and images
        raise ConfigError(
            f"{where}: its chat template cannot be used for a question with an image ({error}); take the template of "
            "the original model"
        ) from error
    if prompt.count(family.template_token) != 1:
        raise ConfigError(
            f"{where}: its chat template writes {prompt.count(family.template_token)} {family.template_token} for a "
            "question with one image; take the template of the original model"
        )
    if prompt.rstrip().endswith("<think>"):
        raise ConfigError(
            f"{where}: its chat template begins every reply with <think>, where this method asks for a description; "
            "set model.chat_template_kwargs={enable_thinking: false}, or take its Instruct version"
        )


def check_place(path: str) -> None:
    """Whether there is a model at a path, or a hub has one of this name; asks the hub at most once.

    Raises:
        ConfigError: neither; `MissingPathError` where it is not the name of one on a hub.
    """

    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            hint = ""
            if (folder / "adapter_config.json").is_file():
                hint = " (it is an adapter: merge it into its model, and name the folder with the result)"
            raise ConfigError(f"model.path: {path} is not a model: it has no config.json{hint}")
        return
    if folder.exists():
        raise ConfigError(f"model.path: {path} is a file: name its folder")
    if not _is_hub_name(path):
        hint = "; write $HOME instead of ~" if path.startswith("~") else ""
        raise MissingPathError(f"model.path: there is no folder {path}{hint}", path)
    try:
        check_hub(path, "model")
    except HubError as error:
        raise ConfigError(f"model.path: {error}") from error


def _is_hub_name(path: str) -> bool:
    """Whether it can be one: a path whose first folder is here is none, unless the hub's cache has the model."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    folder = Path(path)
    return folder.parent == Path() or not folder.parent.is_dir() or bool(try_to_load_from_cache(path, "config.json"))


def parameters_of(path: str) -> int | None:
    """How many parameters the weights in a model's folder have, by their headers; None where there are none to read."""
    count = 0
    try:
        for file in Path(path).glob("*.safetensors"):
            with file.open("rb") as content:
                header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
            count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
        return None  # `check_model` says what is wrong
    return count or None


def _check_weights(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    where = f"model.path: {folder}"
    files = set(folder.glob("*.safetensors"))
    try:
        for index in folder.glob("*.safetensors.index.json"):
            files |= {folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{where}: {index.name} is not an index of weights ({error!r}): copy the model again"
        ) from error
    if not files and not any(folder.glob("pytorch_model*.bin")):
        raise ConfigError(f"{where} has no weights (*.safetensors): copy the model again")
    for file in sorted(files):
        part = PART.search(file.name)
        if part and not any(folder.glob("*.safetensors.index.json")) and not (folder / WHOLE).is_file():
            raise ConfigError(
                f"{where}: {file.name} is one of {int(part[1])} parts, and their index (*.safetensors.index.json) is "
                "missing: copy the model again"
            )
        try:
            with safe_open(file, framework="numpy") as opened:
                names = opened.keys()
                if file.name != ADAPTER_WEIGHTS and any(name.startswith(PEFT) for name in names):
                    raise ConfigError(
                        f"{where}: names of weights in {file.name} begin with {PEFT}, as PEFT writes them: load the "
                        "model with PEFT, call merge_and_unload(), and save what it returns"
                    )
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{where}: {file.name} is missing or incomplete ({error}): copy it again") from error
