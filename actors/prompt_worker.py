"""The actor's main path: take prompts from the stream, answer each `group_size` times, stream rollouts out."""

import time

from actors import metrics
from actors.policy_engine import PolicyEngine
from actors.prompt_renderer import BadRequestError
from actors.server import ActorService
from vision_sr1.config import Config
from vision_sr1.pipeline.ids import question_id, requery_id
from vision_sr1.pipeline.response_parts import parse_parts
from vision_sr1.pipeline.scored_groups import is_empty, without_group
from vision_sr1.pipeline.wire import SCHEMA_VERSION, WireError, decode
from vision_sr1.prompting.prompt_template import PromptTemplate
from vision_sr1.prompting.response import TokenBytes
from vision_sr1.runtime.tracing import span
from vision_sr1.streams import BlobMissingError, Blobs, Consumer, Entry, Output, Stream
from vision_sr1.v1 import pipeline_pb2 as pb


class PromptWorker:
    """Answers prompts while the service holds published weights."""

    def __init__(
        self, config: Config, engine: PolicyEngine, service: ActorService, prompts: Stream, blobs: Blobs
    ) -> None:
        self._engine = engine
        self._service = service
        self._updates = service.updates
        self._prompts = prompts
        self._blobs = blobs
        self._tokens = TokenBytes(engine.tokenizer)
        self._template = PromptTemplate(config.data.prompt_template)
        self._config = config
        self.consumer = Consumer(
            prompts,
            config.streams,
            self._answer,
            permanent=(WireError, BadRequestError, BlobMissingError),
            without=self._go_on_without,
            capacity=config.actors.prompts_in_flight,
            drain_s=config.actors.drain_s,
            ready=self._updates.serving,
        )

    async def _answer(self, entry: Entry) -> None:
        """One prompt: every rollout goes out when it is finished; the last takes the prompt off the stream."""
        started = time.time()
        prompt = decode(pb.Prompt, entry.message)
        with span("answer", prompt.traceparent, prompt=prompt.id):
            await self._answer_prompt(entry, prompt, started)

    async def _answer_prompt(self, entry: Entry, prompt: pb.Prompt, started: float) -> None:
        await self._engine.wait_for_version(prompt.policy_version, prompt.run)
        await self._updates.serving.wait()
        self._updates.prompts.add(prompt.id)
        try:
            images = [await self._blobs.get(ref) for ref in prompt.images]
            text = self._template.answer(prompt.question, len(images))
            remaining = prompt.group_size
            asked: set[str] = set()  # re-queries that this prompt's rollouts are asked
            samples = self._engine.sample(prompt.id, text, images, prompt.sampling, prompt.group_size, priority=0)
            async for index, sample in samples:
                rollout = self._rollout(prompt, index, sample, started)
                if rollout.requery_id and rollout.requery_id not in asked:
                    asked.add(rollout.requery_id)
                    for question in range(1 + len(prompt.further_questions)):
                        self._updates.requeries.add(question_id(rollout.requery_id, question))
                output = Output("rollouts", rollout.id, rollout.SerializeToString())
                remaining -= 1
                if remaining:
                    await self._prompts.append([output])
                else:
                    await self._prompts.commit(entry, [output])
                metrics.ROLLOUTS.inc()
                metrics.EMPTY_ROLLOUTS.inc(is_empty(sample))
                metrics.ROLLOUT_SECONDS.observe(time.time() - started)
                self._service.count_tokens("image" if images else "text", len(sample.response_token_ids))
        finally:
            self._updates.prompts.discard(prompt.id)

    async def _go_on_without(self, entry: Entry) -> None:
        """Gives up the group of a prompt that went to the dead letters."""
        await self._prompts.commit(entry, [without_group(entry.item)])

    def _rollout(self, prompt: pb.Prompt, index: int, sample: pb.Sample, started: float) -> pb.Rollout:
        rollout = pb.Rollout(
            schema_version=SCHEMA_VERSION,
            id=f"{prompt.id}/{index}",
            sample_index=index,
            prompt=prompt,
            sample=sample,
            actor_id=self._service.info.id,
            actor_address=self._service.info.address,
            started_at=started,
            finished_at=time.time(),
            parts=parse_parts(self._tokens.of(list(sample.response_token_ids))),
        )
        if self._config.has_requery(evaluation=prompt.purpose == pb.PURPOSE_EVALUATION):
            rollout.requery_id = requery_id(rollout, self._config.reward.requery)
        return rollout
