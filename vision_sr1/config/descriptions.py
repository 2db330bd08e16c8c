"""What a setting does, and its default, by its dotted key."""

import re
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vision_sr1.config.loading import shown
from vision_sr1.config.tree import Config


def describe(key: str) -> tuple[str, str | None]:
    """The description and the default of a setting; the default is None where a preset or a file gives the value.

    Args:
        key: as in `LoadedConfig.rows`, such as `learner.batches` or `learner.components[0].weight`.
    """
    section: type[BaseModel] | None = Config
    field: FieldInfo | None = None
    for name in re.sub(r"\[\d+\]", "", key).split("."):
        if section is None:  # the keys of a mapping: they are described together
            break
        if name not in section.model_fields:  # the name of one of several sections
            continue
        field = section.model_fields[name]
        section = _section_of(field)
    if field is None:
        return "", None
    default = field.get_default(call_default_factory=True)
    is_whole = default is not PydanticUndefined and not isinstance(default, BaseModel)
    return field.description or "", shown(default) if is_whole else None


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    found: list[Any] = [field.annotation, *get_args(field.annotation)]
    return next((one for one in found if isinstance(one, type) and issubclass(one, BaseModel)), None)
