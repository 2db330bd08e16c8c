"""Puts the examples into a wheel. An editable installation has those of the checkout."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ExamplesHook(BuildHookInterface):
    """Called by hatchling, see `pyproject.toml`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the folder; `vision_sr1/config/examples.py` finds it."""
        if version == "standard":
            build_data["force_include"]["examples"] = "vision_sr1/examples"
