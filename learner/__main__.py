"""`torchrun -m learner CONFIG` trains by RL; `torchrun -m learner --sft CONFIG` fine-tunes on conversations."""

import argparse
import ctypes
import os
import signal
import sys

from learner.checkpoint import CheckpointError
from learner.publisher import PublishError
from learner.sft import SftTrainer
from learner.streams import GroupsTimeoutError, SupersededError
from learner.trainer import Trainer
from learner.verification import WeightsDivergedError
from vision_sr1.config import Config
from vision_sr1.model_check import check_model
from vision_sr1.service import run_service

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Runs one rank; the exit status is 2 where starting again would not help, 1 where work got stuck."""
    parser = argparse.ArgumentParser(prog="learner", description=__doc__)
    parser.add_argument("--sft", action="store_true", help="supervised fine-tuning instead of RL")

    _end_with_torchrun()

    def run(config: Config, arguments: argparse.Namespace) -> None:
        check_model(config.model.path)
        if arguments.sft:
            SftTrainer(config).run()
        else:
            Trainer(config).run()

    try:
        return run_service(parser, run)
    except (WeightsDivergedError, SupersededError) as error:
        sys.stderr.write(f"{error}\n")
        return 2  # to start again would not mend it
    except (PublishError, GroupsTimeoutError, CheckpointError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _end_with_torchrun() -> None:
    """Has the kernel kill this rank when torchrun dies: it would go on beside the ranks of the one started next."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
