"""vLLM's workers, changed where training needs something else. Given to vLLM by name, as `worker_cls`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_worker import Worker

from actors.vllm.image_features import clear_image_features
from vision_sr1.runtime.device_lease import STARTED, DeviceLease, device_name

SHARING = "device_sharing"  # in vLLM's additional_config: how to take turns with a learner


class NucleusSampler(torch.nn.Module):
    """Draws from the nucleus (top-p, top-k), and reports log-probabilities over the whole vocabulary.

    vLLM reports them over the nucleus, renormalized. The trainer's are over the vocabulary: on-policy ratios would be
    the nucleus's mass instead of 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self._draw = TopKTopPSampler("raw_logprobs")

    def forward(
        self,
        logits: Float[Tensor, "requests vocabulary"],
        generators: dict[int, torch.Generator],
        k: Int[Tensor, " requests"] | None,
        p: Float[Tensor, " requests"] | None,
    ) -> tuple[Int[Tensor, " requests"], Float[Tensor, "requests vocabulary"]]:
        """Tokens, and log-probabilities at the requests' temperatures. May change `logits`."""
        logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
        tokens, _ = self._draw(logits, generators, k, p)
        return tokens, logprobs


def report_whole_vocabulary(runner: Any) -> None:
    """Has either of vLLM's model runners report log-probabilities over the whole vocabulary; see `NucleusSampler`."""
    if hasattr(runner.sampler, "topk_topp_sampler"):
        runner.sampler.topk_topp_sampler = NucleusSampler()
    elif runner.sampler is not None:  # it stands on the last rank of a pipeline only
        draw = runner.sampler._sample_random

        def sample_random(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
            whole = logits.clone()  # masks are written into the logits
            return draw(logits, *others)[0], whole

        runner.sampler._sample_random = sample_random


class TrainingWorker(Worker):
    """On GPUs. Where the learner shares the device, the worker is on it only while it has the lease."""

    device_type = "cuda"
    _lease: DeviceLease | None = None
    _started: DeviceLease | None = None
    _wake_timeout_s = 0.0

    def init_device(self) -> None:
        """Waits for the device, as long as a learner may use it."""
        if sharing := self.vllm_config.additional_config.get(SHARING):
            name = device_name(torch.device(self.device_type, self.local_rank))
            self._lease = DeviceLease(Path(sharing["folder"]), name)
            self._started = DeviceLease(Path(sharing["folder"]), name + STARTED)
            self._lease.acquire(sharing["start_timeout_s"], alone=False)
            self._wake_timeout_s = sharing["wake_timeout_s"]
        super().init_device()

    def sleep(self, level: int = 1) -> None:
        """Frees the device, and then gives it to others."""
        self.free(level)
        if self._lease is not None and self._started is not None:
            self._started.try_acquire(alone=False)  # from now on it has to sleep when it is told to
            self._lease.release()

    def wake_up(self, tags: list[str] | None = None) -> None:
        """Waits for the device, and then takes its memory."""
        if self._lease is not None:
            self._lease.acquire(self._wake_timeout_s, alone=False)
        self.take(tags)

    def free(self, level: int) -> None:
        """Frees weights and cache."""
        super().sleep(level)

    def take(self, tags: list[str] | None) -> None:
        """Takes their memory again."""
        super().wake_up(tags)
        clear_image_features(self.get_model())

    def load_model(self, **arguments: Any) -> None:
        """Loads the model and mends the sampler that comes with it."""
        super().load_model(**arguments)
        report_whole_vocabulary(self.model_runner)


class CPUTrainingWorker(TrainingWorker, CPUWorker):
    """On CPUs, where generators survive prompts that are computed in parts.

    vLLM draws a token also where only part of a prompt has been computed yet, throws it away and turns the request's
    generator back. Generators on CPUs cannot be turned back, and the attempt ends the engine. Here such draws come from
    the engine's common generator, so that a request's own is used for tokens that count, and only for those.
    """

    device_type = "cpu"

    def free(self, level: int) -> None:
        """Nothing: an actor that sleeps keeps the host's memory."""

    def take(self, tags: list[str] | None) -> None:
        """Nothing either."""

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
