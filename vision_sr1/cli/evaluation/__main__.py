"""`python -m vision_sr1.cli.evaluation CONFIG`: asks the benchmarks' questions of actors that hold the model."""

import argparse
import asyncio
import sys

from vision_sr1.cli.evaluation.benchmark_collector import BenchmarkCollector, NoAnswersError
from vision_sr1.config import Config
from vision_sr1.runtime.cancellation import stop_event
from vision_sr1.runtime.service import STOPPED, run_service
from vision_sr1.streams import connect


async def ask(config: Config, version: int) -> bool:
    """Asks until every question has an answer; false where SIGTERM or SIGINT came before."""
    stop = stop_event()
    redis = await connect(config.streams, is_stopping=stop.is_set)
    try:
        return await BenchmarkCollector(config, version, redis).run(stop)
    finally:
        await redis.aclose()


def main() -> int:
    """Asks; the exit status is 2 for a mistake in the configuration or the data, 1 where no answers came."""
    parser = argparse.ArgumentParser(prog="evaluation", description=__doc__)
    parser.add_argument("--policy-version", type=int, required=True, help="policy version that the actors hold")

    def run(config: Config, arguments: argparse.Namespace) -> int:
        return 0 if asyncio.run(ask(config, arguments.policy_version)) else STOPPED

    try:
        return run_service(parser, run)
    except NoAnswersError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
