"""`python -m reward_service.reference_check CONFIG`: a data set's reference answers, tried on the configured graders.

For each line that it reads, a JSON object of `data_source`, `question` and `answer`, it writes one: null, or a list of
`unmatched` and why no answer can match, or of `unread` and why the grader compares texts alone.
"""

import asyncio
import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TextIO

from reward_service.graders import warm_up
from reward_service.graders.references import can_read, unmatched
from reward_service.grading import MEMORY_BYTES, shown
from reward_service.process_pool import CallFailedError, ProcessPool
from vision_sr1.config import RewardConfig, load_config


async def check_answers(config: RewardConfig, lines: Iterable[str], out: TextIO) -> None:
    """Answers line by line, each grader within its time limit."""
    processes = ProcessPool(config.processes, MEMORY_BYTES, partial(warm_up, config.grader_names))
    try:
        for line in lines:
            case = json.loads(line)
            name = config.grader_of(case["data_source"])
            asked, answer = (name, case["answer"], case["question"]), shown(case["answer"])
            said: tuple[str, str] | None = None
            try:
                if why := await processes.call(unmatched, *asked, timeout_s=config.grading_timeout_s):
                    said = ("unmatched", f"{name} on {answer}: {why}")
                elif not await processes.call(can_read, *asked, timeout_s=config.grading_timeout_s):
                    said = ("unread", f"{name} cannot read {answer}")
            except CallFailedError as error:
                said = ("unmatched", f"{name} on {answer}: {error}")
            out.write(json.dumps(said) + "\n")
            out.flush()
    finally:
        await processes.close()


if __name__ == "__main__":
    asyncio.run(check_answers(load_config(Path(sys.argv[1])).config.reward, sys.stdin, sys.stdout))
