"""How every service starts: its configuration file and overrides, its logs, and mistakes said in one line."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import structlog
from redis.exceptions import RedisError

from vision_sr1.config import Config, load_config
from vision_sr1.errors import OutageError, UserError
from vision_sr1.runtime.logs import configure_logging
from vision_sr1.runtime.tracing import configure_tracing

log = structlog.get_logger()

STOPPED = 128 + signal.SIGTERM  # exit status of a process that was stopped before its work was done: start it again


def run_service(parser: argparse.ArgumentParser, serve: Callable[[Config, argparse.Namespace], int | None]) -> int:
    """Reads the command line and the configuration and serves.

    Args:
        parser: with the service's own options; `prog` names it in logs.
        serve: returns an exit status, or None for 0.

    Returns:
        The exit status: 2 for a mistake of the user's, 1 where Redis was out of reach for too long; the message goes
        to standard error.
    """
    parser.add_argument("config", type=Path, help="the run's YAML file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_intermixed_args()  # overrides may stand before options and after
    try:
        loaded = load_config(arguments.config, arguments.overrides)
        config = loaded.config
        configure_logging(config, parser.prog)
        for renamed in loaded.renamed:
            log.warning("setting_renamed", message="A setting was given under its former name", setting=renamed)
        configure_tracing(config, parser.prog)
        return serve(config, arguments) or 0
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (OutageError, RedisError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
