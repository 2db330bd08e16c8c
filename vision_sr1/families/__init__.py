"""Families of vision-language models: a file each, named as `config.json` names them in `model_type`."""

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

from vision_sr1.config import ConfigError

if TYPE_CHECKING:
    from vision_sr1.families.family import Family

TINY_FAMILY = "qwen2_5_vl"  # of models that are made, unless told otherwise


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
        kind = "; the weights of its experts have no mapping to vLLM's yet" if "_moe" in model_type else ""
        raise ConfigError(
            f"models of type {model_type!r} cannot be trained; known here: {', '.join(known_families())}{kind}"
        )
    family: Family = importlib.import_module(f"{__name__}.{model_type}").FAMILY
    return family


def family_of_model(path: str) -> "Family":
    """The family of a model, a folder or a hub's name, by its configuration.

    Raises:
        ConfigError: it has none that can be read, or is of a type that is not known.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"model.path {path!r} has no configuration: {' '.join(str(error).split())}") from error
    try:
        return family_of(config.model_type)
    except ConfigError as error:
        raise ConfigError(f"model.path {path!r}: {error}") from None
