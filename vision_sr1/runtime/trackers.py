"""Experiment trackers, before they are opened: whether their packages and credentials are there."""

import importlib.util
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from vision_sr1.config import Config, ConfigError

_WANDB_SERVER = "https://api.wandb.ai"
_WITHOUT_KEY = ("offline", "disabled", "dryrun")  # of WANDB_MODE
_CREDENTIALS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


def check_trackers(config: Config, environment: Mapping[str, str] = os.environ) -> None:
    """Looks for what trackers need; asks no server.

    Raises:
        ConfigError: a tracker's package is not installed, or there is no key of Weights & Biases.
    """
    for name in config.metrics.trackers:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"metrics.trackers: {name} is not installed: pip install '.[tracking]' in a checkout, or leave it out"
            )
    if config.metrics.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("metrics.tensorboard: tensorboard is not installed: install it, or set it to false")
    if "wandb" in config.metrics.trackers and not _has_wandb_key(environment):
        raise ConfigError(
            "metrics.trackers: wandb has no API key here: run `wandb login`, set WANDB_API_KEY, or keep the run on "
            "this machine with WANDB_MODE=offline"
        )


def _has_wandb_key(environment: Mapping[str, str]) -> bool:
    """Whether it needs none, or finds one where it looks: in the environment, or in the file of `wandb login`."""
    if environment.get("WANDB_MODE") in _WITHOUT_KEY or any(map(environment.get, _CREDENTIALS)):
        return True
    files = [environment["NETRC"]] if "NETRC" in environment else ["~/.netrc", "~/_netrc"]
    server = environment.get("WANDB_BASE_URL") or _WANDB_SERVER
    try:
        host = urlsplit(server).netloc
    except ValueError as error:
        raise ConfigError(f"metrics.trackers: WANDB_BASE_URL={server} is not a URL ({error}): correct it") from error
    for file in map(Path.expanduser, map(Path, files)):
        try:
            return netrc.netrc(file).authenticators(host) is not None
        except FileNotFoundError:
            continue
        except (netrc.NetrcParseError, OSError):
            return True  # Weights & Biases says what is wrong with it
    return False
