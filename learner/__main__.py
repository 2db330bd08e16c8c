"""`torchrun -m learner CONFIG` trains by RL; `torchrun -m learner --sft CONFIG` fine-tunes on conversations."""

import argparse
import sys
from pathlib import Path

from learner.publisher import PublishError
from learner.sft import run_sft
from learner.streams import GroupsTimeoutError
from learner.trainer import Trainer
from vision_sr1.config import ConfigError, load_config
from vision_sr1.dataset import DataError
from vision_sr1.logs import configure_logging
from vision_sr1.prompts import TemplateError
from vision_sr1.streams import StreamsUnavailableError


def main() -> int:
    """Runs one rank; the exit status is 2 for a mistake in the configuration or the data."""
    parser = argparse.ArgumentParser(prog="learner", description=__doc__)
    parser.add_argument("config", type=Path, help="the run's YAML file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--sft", action="store_true", help="supervised fine-tuning instead of RL")
    arguments = parser.parse_args()
    try:
        config = load_config(arguments.config, arguments.overrides).config
        configure_logging(config, "learner")
        if arguments.sft:
            run_sft(config)
        else:
            Trainer(config).run()
    except (ConfigError, DataError, TemplateError, StreamsUnavailableError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (PublishError, GroupsTimeoutError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
