"""Reward functions that installed packages offer."""

from importlib.metadata import entry_points

from vision_sr1.config import ConfigError

ENTRY_POINTS = "vision_sr1.rewards"


def entry_point(name: str) -> str:
    """`module:function` of the reward function that a package offers under this name.

    Raises:
        ConfigError: none does.
    """
    found = entry_points(group=ENTRY_POINTS)
    if name not in found.names:
        known = ", ".join(sorted(found.names)) or "none"
        raise ConfigError(
            f"reward.functions.{name}: no installed package has an entry point of this name in the group "
            f"{ENTRY_POINTS} (known: {known}); install it, or set reward.functions.{name}.function to module:function"
        )
    return found[name].value
