"""One vLLM engine as the policy: from a user's turn and images to samples with log-probabilities and versions."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from vllm import SamplingParams
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from actors import metrics
from actors.prompt_renderer import BadRequestError, PromptRenderer
from actors.vllm.adapter import Adapter
from actors.vllm.engine_arguments import USAGE, engine_config, weight_transfer
from vision_sr1.config import Config
from vision_sr1.families import family_of_model
from vision_sr1.v1 import pipeline_pb2 as pb
from vision_sr1.weights.gloo_receiver import BUCKETLESS, COMPLETE, FORGET

NO_VERSION = -1
FINISHED = ("stop", "length")
SAMPLE_ATTEMPTS = 10
FORBIDDEN_BIAS = -100.0
PUBLISHED_TOO_OFTEN = (
    ": weights are published faster than answers are finished; learner.weights.update_mode: in_flight keeps them"
)


class EngineStuckError(RuntimeError):
    """The engine did not give the device back, or did not get it again: only its end frees the device."""


class LostSampleError(RuntimeError):
    """The engine ended every attempt at a sample before it was finished."""


class PolicyEngine:
    """The policy as held by this actor. Weights can be replaced while samples are under way.

    Attributes:
        shares_device: the learner uses the same device, while the engine sleeps.
        is_asleep: nothing is on the device.
        run: whose policy version is held.
    """

    def __init__(self, config: Config, device: str) -> None:
        self._config = config
        self.shares_device = config.actors.placement == "shared"
        self.is_asleep = False
        self._stuck: EngineStuckError | None = None
        self._engine = AsyncLLM.from_vllm_config(
            engine_config(config, device), usage_context=USAGE, disable_log_stats=True
        )
        self.tokenizer = self._engine.get_tokenizer()
        self._prompts = PromptRenderer(config, self._engine.renderer)
        reserved = family_of_model(config.model.path).reserved_token_ids(self.tokenizer)
        self._forbidden = dict.fromkeys(reserved, FORBIDDEN_BIAS)
        self.weight_transfer = weight_transfer(config, device)
        self.policy_version = NO_VERSION
        self.run = config.run.name
        self._version_changed = asyncio.Condition()
        self._update_open = False
        self._running = asyncio.Event()
        self._running.set()
        self._adapter = Adapter() if self.weight_transfer == "adapter" else None

    async def sample(
        self,
        request_id: str,
        text: str,
        images: list[bytes],
        sampling: pb.SamplingParams,
        num_samples: int,
        priority: int,
    ) -> AsyncIterator[tuple[int, pb.Sample]]:
        """Answers one user turn `num_samples` times and yields each answer with its index as it is finished.

        Raises:
            BadRequestError: a broken image, markers that do not match the images, too long a prompt, or sampling
                parameters out of range.
            LostSampleError: `SAMPLE_ATTEMPTS` attempts at a sample were not finished.
        """
        parameters = [self._parameters(sampling, index) for index in range(num_samples)]
        prompt = await asyncio.to_thread(self._prompts.prompt, text, images)
        rendered = await self._prompts.render(prompt)
        repeated = self._prompts.repeated(rendered)
        tokens = len(rendered["prompt_token_ids"])
        room = self._prompts.room(tokens)

        async def one(index: int) -> tuple[int, pb.Sample]:
            parameters[index].max_tokens = min(sampling.max_tokens, room)
            engine_input = rendered if index == 0 else repeated  # tasks begin in this order, and send before they wait
            await self._running.wait()  # where weights are gone, only new ones end that
            for _ in range(SAMPLE_ATTEMPTS):
                request = self._engine.generate(
                    engine_input,
                    parameters[index],
                    f"{request_id}/{index}",
                    priority=priority,
                    lora_request=self._adapter.request if self._adapter else None,
                )
                async for output in request:
                    final = output
                reason = final.outputs[0].finish_reason
                if reason in FINISHED:
                    cached_tokens = final.num_cached_tokens or 0
                    metrics.PROMPT_TOKENS.labels("cached").inc(cached_tokens)
                    metrics.PROMPT_TOKENS.labels("computed").inc(tokens - cached_tokens)
                    return index, self._sample(final)
                # "abort": by a weight update. "error": vLLM's process was sent the hash of an image that has left its
                # cache since the prompt was rendered.
                metrics.SAMPLE_RETRIES.labels(reason).inc()
                await self._running.wait()
                engine_input = await self._prompts.render(prompt)
            raise LostSampleError(
                f"sample {request_id}/{index}: the engine finished none of {SAMPLE_ATTEMPTS} attempts; the last ended "
                f"with {reason!r}" + (PUBLISHED_TOO_OFTEN if reason == "abort" else "")
            )

        tasks = [asyncio.ensure_future(one(index)) for index in range(num_samples)]
        try:
            for finished in asyncio.as_completed(tasks):
                yield await finished
        finally:
            for task in tasks:
                task.cancel()

    async def wait_for_version(self, policy_version: int, run: str) -> None:
        """Returns once weights of this version or a later one of the run are held: they are on their way.

        Raises:
            TimeoutError: they did not come while a publication may last.
        """
        async with asyncio.timeout(self._config.learner.weights.sync_timeout_s), self._version_changed:
            await self._version_changed.wait_for(lambda: self.run == run and self.policy_version >= policy_version)

    async def pause(self, *, abort: bool = False) -> None:
        """Freezes generation where it is, or has it begin again later, and drops caches of the current weights."""
        self._running.clear()
        await self._engine.pause_generation(mode="abort" if abort else "keep", clear_cache=True)

    async def resume(self) -> None:
        """Lets frozen generations continue."""
        await self._engine.resume_generation()
        self._running.set()

    async def sleep(self) -> None:
        """Frees the device: the weights are gone, and what is under way begins again later.

        Raises:
            EngineStuckError: it was not freed in time.
        """
        self._running.clear()
        self.policy_version = NO_VERSION
        # Adapters are beside weights that nobody sends: those wait in the host's memory.
        await self._turn("give the device back", self._engine.sleep(level=1 if self._adapter else 2))
        self.is_asleep = True

    async def wake(self) -> None:
        """Takes the device's memory again, for weights that are to come; does nothing where the engine is awake.

        Raises:
            EngineStuckError: the learner still uses the device, or something else is in it.
        """
        if self.is_asleep:
            await self._turn("take the device", self._wake())
            self.is_asleep = False

    async def _wake(self) -> None:
        """vLLM goes on with what it was sent before it knew that it was to sleep, as soon as it is awake, and without
        weights: that begins again later."""
        await self._engine.pause_generation(mode="abort", clear_cache=False)
        await self._engine.wake_up()

    async def _turn(self, what: str, change: Coroutine[Any, Any, Any]) -> None:
        timeout_s = self._config.learner.weights.sync_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await change
        except Exception as error:
            why = f"in {timeout_s:.0f} s" if isinstance(error, TimeoutError) else f"({error})"
            self._stuck = EngineStuckError(f"vLLM did not {what} {why}; the actor ends, and its memory with it")
            raise self._stuck from error

    async def responds(self) -> None:
        """Returns when the engine's process has answered."""
        await self._engine.is_paused()

    async def join_transfer_group(self, init_info: dict[str, Any]) -> None:
        """Joins a transfer group; returns when all its members are there.

        Raises:
            RuntimeError: it failed in a worker; so do the calls of an update.
        """
        await self._engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info))
        await self._raise_failure()

    async def start_update(self) -> None:
        """Prepares the workers for new weights."""
        if self._adapter is None:
            await self._engine.start_weight_update()
            self._update_open = True
            await self._raise_failure()
        else:
            self._adapter.discard()

    async def receive_update(self, update_info: dict[str, Any]) -> None:
        """Receives parameters over the transfer group."""
        await self._engine.update_weights(WeightTransferUpdateRequest(update_info))
        await self._raise_failure()

    def receive_adapter(self, config: str, weights: bytes) -> None:
        """Keeps an adapter in PEFT's format until the update is finished.

        Raises:
            ValueError: actors of this run take full weights.
        """
        if self._adapter is None:
            raise ValueError("this actor takes full weights: its learner.lora.publish is not 'adapter'")
        self._adapter.stage(config, weights)

    async def read_update(self, folder: str) -> None:
        """Takes the weights of a checkpoint in place of a transfer."""
        await self.receive_update(BUCKETLESS | {"folder": folder})

    async def complete_update(self) -> None:
        """Returns when all of an update has come, which may go on behind `receive_update`."""
        if self.weight_transfer == "gloo":
            await self.receive_update(COMPLETE)

    async def finish_update(self, policy_version: int, run: str) -> None:
        """Applies the received weights as `policy_version` of a run; without its name, of the actor's own."""
        if self._adapter is None:
            await self._engine.finish_weight_update(str(policy_version))
            self._update_open = False
            await self._raise_failure()
        else:
            await self._adapter.apply(self._engine)
            await self._engine.update_weight_version(str(policy_version))
        await self._engine.reset_prefix_cache()
        await self._engine.reset_mm_cache()
        await self._engine.reset_encoder_cache()
        async with self._version_changed:
            self.policy_version, self.run = policy_version, run or self._config.run.name
            self._version_changed.notify_all()

    async def discard_update(self) -> None:
        """Ends an update without its weights: the workers forget what they have received."""
        if self._adapter is not None:
            self._adapter.discard()
            return
        if self._update_open:
            await self._engine.update_weights(
                WeightTransferUpdateRequest(FORGET if self.weight_transfer == "gloo" else BUCKETLESS)
            )
            await self._engine.finish_weight_update()
            self._update_open = False
            await self._raise_failure()

    async def checksum(self) -> str:
        """One digest over all of `digests`; equal for equal weights."""
        lines = [f"{name}={value}" for name, value in (await self.digests()).items()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    async def digests(self) -> dict[str, str]:
        """By parameter, in the model's order and that of the workers; the adapter's last."""
        workers = await self._engine.collective_rpc("weight_digests")
        by_name = {name: value for worker in workers for name, value in worker.items()}
        if self._adapter is not None:
            by_name["adapter"] = self._adapter.digest()
        return by_name

    async def check_health(self) -> None:
        """Raises where the engine has died, or is stuck."""
        if self._stuck is not None:
            raise self._stuck
        await self._engine.check_health()

    def shutdown(self) -> None:
        """Stops the engine's processes."""
        self._engine.shutdown()
        if self._adapter is not None:
            self._adapter.close()

    async def _raise_failure(self) -> None:
        if failures := [failure for failure in await self._engine.collective_rpc("weight_transfer_failure") if failure]:
            raise RuntimeError(failures[0])

    def _parameters(self, sampling: pb.SamplingParams, index: int) -> SamplingParams:
        """vLLM's parameters for one sample; vision tokens are never drawn."""
        try:
            return SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=sampling.seed + index if sampling.HasField("seed") else None,
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
                stop_token_ids=self._prompts.stop_token_ids,
                logit_bias=self._forbidden,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
        except (ValueError, VLLMClientError) as error:
            raise BadRequestError(f"sampling parameters: {error}") from error

    def _sample(self, output: Any) -> pb.Sample:
        (completion,) = output.outputs
        versions = [
            pb.VersionSpan(
                policy_version=self.policy_version if span.version == "default" else int(span.version),
                start=span.start,
                end=span.end,
            )
            for span in completion.weight_versions or []
        ]
        return pb.Sample(
            prompt_token_ids=output.prompt_token_ids,
            response_token_ids=completion.token_ids,
            logprobs=completion.logprobs.logprobs,
            versions=versions or [pb.VersionSpan(policy_version=self.policy_version, end=len(completion.token_ids))],
            finish_reason=completion.finish_reason or "",
        )
