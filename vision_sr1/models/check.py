"""Whether the parts of a model folder belong together: found out at the start, not in the first batch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vision_sr1.config import Config, ConfigError, ModelConfig
from vision_sr1.families import family_of_model

if TYPE_CHECKING:
    from vision_sr1.families.family import Family

HUB_TIMEOUT_S = 10.0  # for its one answer


def check_model(model: ModelConfig) -> None:
    """Compares a model's configuration with its tokenizer, its image processor and its chat template; of weights it
    reads the headers.

    Raises:
        ConfigError: a part is missing, of a kind that cannot be trained, or does not fit the others.
    """
    path = model.path
    check_place(path)
    if Path(path).is_dir():
        _check_weights(Path(path))
    else:
        _ask_hub(path)
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        processor = AutoImageProcessor.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"model.path {path!r} cannot be read: {' '.join(str(error).split())}; it is to be a folder in Hugging Face "
            "format with weights, tokenizer and image processor, or a hub's name of one"
        ) from error
    family = family_of_model(path)
    problems = [
        f"{what}: the model has {ours}, {whose} {theirs}"
        for what, ours, whose, theirs in family.parts(config, tokenizer, processor)
        if ours != theirs
    ]
    rows = config.get_text_config().vocab_size
    if len(tokenizer) > rows:
        problems.append(f"vocabulary: the model has {rows} embeddings, the tokenizer {len(tokenizer)} tokens")
    if problems:
        raise ConfigError(
            f"model.path {path!r}: model and processor do not belong together ({'; '.join(problems)}); take both from "
            "the same model"
        )
    _check_chat(model, family, tokenizer)


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

    where = f"model.path {model.path!r}"
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{where} has no chat template, as base models have none: take its Instruct version, or put the template "
            "into its folder as chat_template.jinja"
        )
    try:
        prompt = model.chat(tokenizer).user_turn("?", 1)
    except jinja2.TemplateError as error:
        cure = "; leave model.system_prompt empty" if model.system_prompt else ""
        raise ConfigError(f"{where}: its chat template refuses a question with an image: {error}{cure}") from error
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
    """Tells a folder that is not there, or holds no model, from a hub's name, without asking a hub.

    Raises:
        ConfigError: it is neither a model's folder nor can it be a hub's name.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model.path {path!r} is not a model: it has no config.json")
        return
    if folder.exists():
        raise ConfigError(f"model.path {path!r} is a file: name its folder")
    try:
        validate_repo_id(path)
        is_path = folder.parent != Path() and folder.parent.is_dir() and not try_to_load_from_cache(path, "config.json")
    except HFValidationError:
        is_path = True
    if is_path:
        hint = "; write $HOME instead of ~" if path.startswith("~") else ""
        raise ConfigError(f"model.path: there is no folder {path!r}{hint}")


def _ask_hub(name: str) -> None:
    """Asks once, where the model is not in the hub's cache: `transformers` would ask for each file, several times."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if try_to_load_from_cache(name, "config.json"):
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=HUB_TIMEOUT_S)
    except Exception as error:  # of the hub's client, of the HTTP library beneath it, of the system
        raise ConfigError(
            f"model.path: there is no folder {name!r}, no such model in the hub's cache, and the hub does not give it "
            f"({' '.join(str(error).split()) or repr(error)})"
        ) from error


def _check_weights(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    where = f"model.path {str(folder)!r}"
    files = set(folder.glob("*.safetensors"))
    try:
        for index in folder.glob("*.safetensors.index.json"):
            files |= {folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{where}: {index.name} is not an index of weights ({error!r}): copy the model again"
        ) from error
    if not files and not any(folder.glob("*.bin")):
        raise ConfigError(f"{where} has no weights (*.safetensors): copy the model again")
    for file in sorted(files):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{where}: {file.name} is missing or incomplete ({error}): copy it again") from error
