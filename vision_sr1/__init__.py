"""What all services of Vision-SR1 agree on: configuration, prompts, streams, weight transfer, metrics."""

import os
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from vision_sr1.config import Config
    from vision_sr1.run_folder.finished_run import FinishedRun

__version__ = "0.1.0"


def train(
    config: "Config | str | os.PathLike[str]",
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    fresh: bool = False,
) -> "FinishedRun":
    """Trains by RL, as `vision-sr1 train` does, with all services on this machine; returns when the run has ended.

        run = vision_sr1.train("examples/shapes/rl.yaml", ["learner.batches=4", "run.name=short"])
        run.checkpoint, run.scalars[-1]["reward/accuracy"]

    Call it in the main thread, such as in a cell of a notebook; interrupting it stops all services.

    Args:
        config: the path of the run's YAML file, or a configuration that is loaded already.
        overrides: `section.key=value`, of a file.
        resume: continue from the last checkpoint.
        fresh: move an earlier run to NAME.before-TIME and start anew.

    Raises:
        UserError: the configuration, the data or the model cannot be used, or the run's folder holds a run.
        StageFailedError: a service failed more often than it may be restarted; the message has the end of its log.
        InterruptedRunError: it was interrupted; `resume` continues.
    """
    # By name: services import this package, and nothing of the command.
    from_python = import_module("vision_sr1.cli.launcher.from_python")
    return cast("FinishedRun", from_python.train(config, overrides, resume=resume, fresh=fresh))
