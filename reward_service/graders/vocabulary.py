"""The words of `vocabulary.yaml`."""

from pathlib import Path
from typing import Any

import yaml

_SECTIONS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("vocabulary.yaml").read_text(encoding="utf-8"))
CHARACTERS: dict[str, str] = _SECTIONS["characters"]


def words(section: str) -> frozenset[str]:
    """The words of a list."""
    return frozenset(_SECTIONS[section].split())


def table(section: str) -> dict[str, str]:
    """A table as it is written."""
    return dict(_SECTIONS[section])


def by_word(section: str) -> dict[str, str]:
    """What a table says of each of its words; `_` in a word is a space."""
    return {word.replace("_", " "): str(key) for key, listed in _SECTIONS[section].items() for word in listed.split()}
