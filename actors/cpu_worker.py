"""vLLM's worker for CPUs, whose generators survive prompts that are computed in parts.

vLLM draws a token also where only part of a prompt has been computed yet, throws it away and turns the request's
generator back. Generators on CPUs cannot be turned back, and the attempt ends the engine. Here such draws come from the
engine's common generator, so that a request's own is used for tokens that count, and only for those.
"""

from typing import Any

import numpy as np
from vllm.v1.worker.cpu_worker import CPUWorker


class MendedCPUWorker(CPUWorker):
    """Given to vLLM by name, as `worker_cls`."""

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Samples the next tokens; generators of requests whose token is thrown away are put aside meanwhile."""
        runner = self.model_runner
        own = runner.input_batch.generators
        thrown_away = np.nonzero(runner.discard_request_mask.np[: runner.input_batch.num_reqs])[0].tolist()
        aside = {index: own.pop(index) for index in thrown_away if index in own}
        try:
            return super().sample_tokens(grammar_output)
        finally:
            own.update(aside)
