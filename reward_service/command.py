"""The command line of the reward service."""

import argparse
import asyncio
from pathlib import Path

from reward_service.past_run import export, serve_traces
from reward_service.service import serve
from vision_sr1.config import Config
from vision_sr1.runtime.service import run_service


def main() -> int:
    """Runs it; the exit status is 2 for a mistake in the configuration."""
    parser = argparse.ArgumentParser(prog="reward_service", description=__doc__)
    parser.add_argument("--read-only", action="store_true", help="serve the traces of a run that is over")
    parser.add_argument(
        "--recorded-as", metavar="NAME", help="name of that run in the store, where its folder has another by now"
    )
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="write the run's traces to a .parquet or .jsonl file"
    )
    parser.add_argument("--images", action="store_true", help="with --export: and the encoded images")

    def run(config: Config, arguments: argparse.Namespace) -> None:
        if arguments.export is not None:
            export(config, arguments.export, arguments.recorded_as, images=arguments.images)
        elif arguments.read_only:
            serve_traces(config, arguments.recorded_as)
        else:
            asyncio.run(serve(config))

    return run_service(parser, run)
