"""Families of vision-language models: a file each, named as `config.json` names them in `model_type`."""

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any

from vision_sr1.config import ConfigError

if TYPE_CHECKING:
    from vision_sr1.families.family import Family

TINY_FAMILY = "qwen2_5_vl"  # of models that are made, unless told otherwise
OTHER_FORMS = {"internvl_chat": "take its version in Hugging Face's own format, whose name ends in -hf"}
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")  # in configurations of language models
WITHOUT_MAPPING = "the weights of its experts have no mapping to vLLM's yet"


@cache
def known_families() -> list[str]:
    """Model types that can be trained."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if name != "family" and not name.startswith("_"))


@cache
def family_of(model_type: str) -> "Family":
    """The family of models of this type.

    Raises:
        ConfigError: none is known.
    """
    if model_type not in known_families():
        hint = WITHOUT_MAPPING if "_moe" in model_type else OTHER_FORMS.get(model_type)
        raise ConfigError(
            f"models of type {model_type!r} cannot be trained; known here: {', '.join(known_families())}"
            f"{f'; {hint}' if hint else ''}"
        )
    family: Family = importlib.import_module(f"{__name__}.{model_type}").FAMILY
    return family


def read_config(path: str) -> Any:
    """The configuration of a model that can be trained, from a folder or a hub's name; none of the model's code runs.

    Raises:
        ConfigError: there is none that can be read, or models like this cannot be trained.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    where = f"model.path: {path}"
    try:
        written, _ = PreTrainedConfig.get_config_dict(path)
        reason = _refusal(written)
        if reason is None:
            return CONFIG_MAPPING[written["model_type"]].from_dict(written)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ConfigError(
            f"{where} has no configuration that can be read: {' '.join(str(error).split())}; it is to be a folder in "
            "Hugging Face format with weights, tokenizer and image processor, or a hub's name of one"
        ) from error
    raise ConfigError(f"{where}: {reason}")


def family_of_model(path: str) -> "Family":
    """The family of a model, a folder or a hub's name, by its configuration.

    Raises:
        ConfigError: see `read_config`.
    """
    return family_of(read_config(path).model_type)


def _refusal(written: dict[str, Any]) -> str | None:
    """Why a model of this configuration cannot be trained, as far as its file tells."""
    model_type = written.get("model_type")
    if not isinstance(model_type, str):
        return "its config.json names no model_type"
    try:
        family_of(model_type)
    except ConfigError as error:
        return str(error)
    text = written.get("text_config")
    for part in [written, text] if isinstance(text, dict) else [written]:
        if "_moe" in str(part.get("model_type")) or any(part.get(name) not in (None, 0, 1) for name in EXPERTS):
            return f"its language model ({part.get('model_type')}) is a mixture of experts; {WITHOUT_MAPPING}"
        if quantization := part.get("quantization_config"):
            method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else quantization
            return f"its weights are quantized ({method}) and cannot be learned; take the model that it was made of"
        if part.get("final_logit_softcapping"):
            return "its output head has a soft cap (final_logit_softcapping), which the learner does not compute"
    return None
