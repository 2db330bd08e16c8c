"""The base of all sections, and the types of fields that several of them have.

Every field has its default, its unit and its effect. Names carry their unit (`_s` seconds, `_gib`, `_mib`,
`prompts_per_…`). An unknown key is an error.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


def in_home(path: Path) -> Path:
    """With `~` as the home folder; as it is where no user of that name has one."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _url(text: str) -> str:
    try:
        urlsplit(text)
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from None
    return text


def _http_url(text: str) -> str:
    parts = urlsplit(_url(text))
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from None
    return text


def without_password(variable: str) -> Callable[[str], str]:
    """A check of URLs: configurations are saved and shown, so that a password is in an environment variable."""

    def check(text: str) -> str:
        if urlsplit(text).password is not None:
            raise ValueError(f"contains a password: leave it out, and set it in the environment as {variable}")
        return text

    return check


HomePath = Annotated[Path, AfterValidator(in_home)]
Url = Annotated[str, AfterValidator(_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]


class SettingError(ValueError):
    """A value that does not fit others; raised by validators of whole sections.

    Args:
        setting: the key within that section, such as `schedule.warmup_steps`.
        said: what does not fit, with the values and the way out.
    """

    def __init__(self, setting: str, said: str) -> None:
        super().__init__(f"{setting}: {said}")


class Section(BaseModel):
    """A part of the tree; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)
