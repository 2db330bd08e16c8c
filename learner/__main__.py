"""`torchrun -m learner CONFIG` trains by RL; `torchrun -m learner --sft CONFIG` fine-tunes on conversations."""

import argparse
import os
import signal
import sys

from learner.checkpoints.saver import CheckpointError
from learner.groups.collector import GroupsTimeoutError
from learner.groups.leadership import SupersededError
from learner.publishing.probe import ProbeError
from learner.publishing.publisher import PublishError
from learner.rl import Trainer
from learner.sft import SftTrainer
from learner.stop_conditions import DivergedError
from vision_sr1.config import Config
from vision_sr1.models.check import check_model
from vision_sr1.runtime.parent_death import end_with_parent
from vision_sr1.runtime.service import STOPPED, run_service
from vision_sr1.runtime.trackers import check_trackers


def main() -> int:
    """Runs one rank; its exit status is 2 where starting again would not help, 1 where work got stuck."""
    parser = argparse.ArgumentParser(prog="learner", description=__doc__)
    parser.add_argument("--sft", action="store_true", help="supervised fine-tuning instead of RL")

    if "TORCHELASTIC_RUN_ID" in os.environ:  # the rank would go on beside those of the torchrun started next
        end_with_parent(signal.SIGKILL)

    def run(config: Config, arguments: argparse.Namespace) -> int:
        check_trackers(config)
        check_model(config.model)
        trainer = SftTrainer(config) if arguments.sft else Trainer(config)
        return 0 if trainer.run() else STOPPED

    try:
        return run_service(parser, run)
    except (ProbeError, SupersededError, DivergedError) as error:
        sys.stderr.write(f"{error}\n")
        return 2  # to start again would not mend it
    except (PublishError, GroupsTimeoutError, CheckpointError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
