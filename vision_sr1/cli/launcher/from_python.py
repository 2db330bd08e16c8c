"""`vision_sr1.train`: what the command `vision-sr1 train` does, for notebooks and scripts."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vision_sr1.cli.launcher.launch import run_training
from vision_sr1.config import Config, ConfigError, load_config
from vision_sr1.run_folder.finished_run import FinishedRun


def train(
    config: Config | str | os.PathLike[str], overrides: Sequence[str] = (), *, resume: bool = False, fresh: bool = False
) -> FinishedRun:
    """See `vision_sr1.train`."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("vision_sr1.train handles signals: call it in the main thread")
    if isinstance(config, Config):
        if overrides:
            raise ConfigError("overrides belong to a run file: change the Config instead, or give the file's path")
        effective = config.model_copy(deep=True)
    else:
        effective = load_config(Path(config), overrides).config
    effective.learner.resume |= resume
    run_training(effective, Console(force_jupyter=False, soft_wrap=True), effective.run.name, fresh=fresh)
    return FinishedRun(effective.run.path)
