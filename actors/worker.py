"""The actor's main path: take prompts from the stream, answer each `group_size` times, stream rollouts out."""

import asyncio
import contextlib
import time

import structlog

from actors import metrics
from actors.engine import BadRequestError, PolicyEngine
from actors.server import ActorService
from vision_sr1.config import Config
from vision_sr1.prompts import PromptTemplate
from vision_sr1.streams import BlobMissingError, Blobs, Entry, Output, Stream
from vision_sr1.v1 import pipeline_pb2 as pb
from vision_sr1.wire import SCHEMA_VERSION, WireError, decode

log = structlog.get_logger()


class PromptWorker:
    """Answers prompts while the service holds published weights."""

    def __init__(
        self, config: Config, engine: PolicyEngine, service: ActorService, prompts: Stream, blobs: Blobs
    ) -> None:
        self._config = config
        self._engine = engine
        self._service = service
        self._prompts = prompts
        self._blobs = blobs
        self._template = PromptTemplate(config.data.prompt_template)
        self._held: dict[bytes, Entry] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Takes prompts until `stop` is set, then finishes what it can and hands the rest back."""
        lease = asyncio.create_task(self._renew_lease())
        try:
            while not stop.is_set():
                await _first(self._service.serving.wait(), stop.wait())
                room = self._config.actors.prompts_in_flight - len(self._tasks)
                if room <= 0:
                    self._freed.clear()
                    await _first(self._freed.wait(), stop.wait())
                    continue
                if stop.is_set():
                    break
                for entry in await self._prompts.read(room, block_s=0.5):
                    self._take(entry)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._config.actors.drain_s)
        finally:
            lease.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._prompts.give_back(list(self._held.values()))
            if self._held:
                log.info("handed prompts back", prompts=len(self._held))

    def _take(self, entry: Entry) -> None:
        self._held[entry.entry_id] = entry
        task = asyncio.create_task(self._answer(entry))
        self._tasks.add(task)
        self._update_in_flight()
        task.add_done_callback(lambda done: self._done(done, entry))

    def _done(self, task: asyncio.Task[None], entry: Entry) -> None:
        self._tasks.discard(task)
        self._update_in_flight()
        self._freed.set()
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._held.pop(entry.entry_id, None)
        else:  # the entry stays pending and is delivered again when its lease ends
            self._held.pop(entry.entry_id, None)
            metrics.PROMPTS.labels("failed").inc()
            log.error("prompt failed", item=entry.item, error=repr(error), exc_info=error)

    async def _answer(self, entry: Entry) -> None:
        """One prompt: every rollout goes out when it is finished; the last takes the prompt off the stream."""
        started = time.time()
        try:
            if self._prompts.is_spent(entry):
                raise WireError(f"delivered {entry.deliveries} times without being answered")
            prompt = decode(pb.Prompt, entry.message)
            await self._hold_back(prompt)
            images = [await self._blobs.get(ref) for ref in prompt.images]
            text = self._template.answer(prompt.question)
            remaining = prompt.group_size
            samples = self._engine.sample(prompt.id, text, images, prompt.sampling, prompt.group_size, priority=0)
            async for index, sample in samples:
                rollout = self._rollout(prompt, index, sample, started)
                output = Output("rollouts", rollout.id, rollout.SerializeToString())
                remaining -= 1
                if remaining:
                    await self._prompts.append([output])
                else:
                    await self._prompts.hand_over(entry, [output])
                metrics.ROLLOUTS.inc()
                metrics.ROLLOUT_SECONDS.observe(time.time() - started)
                self._service.count_tokens("image" if images else "text", len(sample.response_token_ids))
            metrics.PROMPTS.labels("answered").inc()
        except (WireError, BadRequestError, BlobMissingError) as error:
            metrics.PROMPTS.labels("refused").inc()
            await self._prompts.set_aside(entry, str(error), [_empty_group(entry)])

    async def _hold_back(self, prompt: pb.Prompt) -> None:
        """Waits while this actor's weights are older than the prompt asks for."""
        while self._engine.policy_version < prompt.policy_version:
            await asyncio.sleep(0.05)

    def _rollout(self, prompt: pb.Prompt, index: int, sample: pb.Sample, started: float) -> pb.Rollout:
        return pb.Rollout(
            schema_version=SCHEMA_VERSION,
            id=f"{prompt.id}/{index}",
            sample_index=index,
            prompt=prompt,
            sample=sample,
            actor_id=self._service.info.id,
            actor_address=self._service.info.address,
            started_at=started,
            finished_at=time.time(),
        )

    async def _renew_lease(self) -> None:
        while True:
            await asyncio.sleep(self._config.streams.lease_s / 3)
            with contextlib.suppress(Exception):
                await self._prompts.renew(list(self._held.values()))

    def _update_in_flight(self) -> None:
        self._service.prompts_in_flight = len(self._tasks)
        metrics.IN_FLIGHT.set(len(self._tasks))


def _empty_group(entry: Entry) -> Output:
    """Tells whoever waits for the prompt's group that there will be none."""
    purpose = pb.PURPOSE_TRAIN
    with contextlib.suppress(WireError):
        purpose = decode(pb.Prompt, entry.message).purpose
    group = pb.ScoredGroup(schema_version=SCHEMA_VERSION, id=entry.item, purpose=purpose)
    stream = "evaluated" if purpose == pb.PURPOSE_EVALUATION else "scored"
    return Output(stream, entry.item, group.SerializeToString())


async def _first(*waits: "asyncio.Future[object] | object") -> None:
    """Waits for the first of several; cancels the others."""
    tasks = [asyncio.ensure_future(w) for w in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
