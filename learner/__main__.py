"""`torchrun -m learner CONFIG` trains by RL; `torchrun -m learner --sft CONFIG` fine-tunes on conversations."""

import argparse
import sys

from learner.publisher import PublishError
from learner.sft import SftTrainer
from learner.streams import GroupsTimeoutError
from learner.trainer import Trainer
from learner.verification import WeightsDivergedError
from vision_sr1.config import Config
from vision_sr1.service import run_service


def main() -> int:
    """Runs one rank; the exit status is 2 where starting again would not help, 1 where work got stuck."""
    parser = argparse.ArgumentParser(prog="learner", description=__doc__)
    parser.add_argument("--sft", action="store_true", help="supervised fine-tuning instead of RL")

    def run(config: Config, arguments: argparse.Namespace) -> None:
        if arguments.sft:
            SftTrainer(config).run()
        else:
            Trainer(config).run()

    try:
        return run_service(parser, run)
    except WeightsDivergedError as error:
        sys.stderr.write(f"{error}\n")
        return 2  # to start again would not mend it
    except (PublishError, GroupsTimeoutError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
