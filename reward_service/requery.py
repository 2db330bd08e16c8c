"""The re-query: the actor that wrote a rollout answers again from its description, without the image."""

import asyncio
import random
import time
from collections import OrderedDict

import grpc
import structlog

from reward_service import metrics
from vision_sr1.config import RequeryConfig, TlsConfig
from vision_sr1.pipeline.fleet import Fleet
from vision_sr1.pipeline.ids import question_id, requery_id
from vision_sr1.pipeline.prompt_properties import questions_of
from vision_sr1.pipeline.scored_groups import sample_version
from vision_sr1.pipeline.wire import SCHEMA_VERSION
from vision_sr1.prompting.prompt_template import PromptTemplate
from vision_sr1.runtime import rpc
from vision_sr1.runtime.tracing import span
from vision_sr1.v1 import actor_pb2, actor_pb2_grpc
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

PRIORITY = -1  # ahead of new prompts, which have 0
RETRY_PAUSE_S = 0.5
SHARED_AT_MOST = 8192  # re-queries remembered for rollouts with equal descriptions


class RequeryFailedError(RuntimeError):
    """No actor answered a re-query in the attempts allowed."""


class Requerier:
    """Asks actors over gRPC; keeps one channel per actor.

    Args:
        fleet: None where the run is over, and no actor is left to ask.
    """

    def __init__(self, config: RequeryConfig, fleet: Fleet | None, tls: TlsConfig) -> None:
        self._config = config
        self._fleet = fleet
        self._tls = tls
        self._template = PromptTemplate(config.template)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._shared: OrderedDict[tuple[str, int], asyncio.Task[list[pb.Requery]]] = OrderedDict()

    def prompt(self, description: str, question: str) -> str:
        """The user's turn of a re-query: nothing of the rollout but its description, and no image."""
        return self._template.requery(description, question)

    async def ask(self, rollout: pb.Rollout, question: int = 0) -> list[pb.Requery]:
        """`samples` answers: from the rollout's own actor while it lives, then from another; under the rollout's
        policy version while an actor holds it. Rollouts of a group with equal descriptions may share them.

        Args:
            question: 0 for the prompt's own, n for the n-th of its further ones.

        Raises:
            RequeryFailedError: no actor answered.
        """
        if self._fleet is None:
            raise RequeryFailedError("the run is over: no actor answers re-queries")
        request = self._request(rollout, question)
        if not self._config.is_shared(rollout.prompt.sampling.temperature):
            return await self._ask(rollout, request, question)
        key = (request.request_id, request.required_policy_version)
        asking = self._shared.get(key)
        if asking is None or (asking.done() and (asking.cancelled() or asking.exception())):
            asking = self._shared[key] = asyncio.create_task(self._ask(rollout, request, question))
            if len(self._shared) > SHARED_AT_MOST:
                self._shared.popitem(last=False)
            return await asyncio.shield(asking)
        metrics.REQUERIES.labels("shared").inc()
        shared = []
        for requery in await asyncio.shield(asking):
            shared.append(pb.Requery(shared=True))
            shared[-1].MergeFrom(requery)
        return shared

    async def _ask(self, rollout: pb.Rollout, request: actor_pb2.GenerateRequest, question: int) -> list[pb.Requery]:
        started = time.monotonic()
        wanted = request.required_policy_version
        asked, lost, last = pb.ActorInfo(id=rollout.actor_id, address=rollout.actor_address), set(), ""
        for attempt in range(1, self._config.attempts + 1):
            try:
                with span("requery", rollout.prompt.traceparent, actor=asked.id):
                    replies = await self._generate(asked.address, request, rollout.prompt.traceparent)
            except grpc.aio.AioRpcError as error:
                last = f"{asked.id}: {error.code().name} {error.details()}"
                log.warning(
                    "requery_attempt_failed",
                    message="The actor did not answer the re-query; trying again",
                    rollout=rollout.id,
                    attempt=attempt,
                    actor=asked.id,
                    error=last,
                )
                if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                    break
                if error.code() == grpc.StatusCode.FAILED_PRECONDITION and request.HasField("required_policy_version"):
                    self._accept_other_version(request)
                    continue
                lost.add(asked.id)
                asked = await self._another(lost, wanted) or asked
                if asked.policy_version != wanted:
                    self._accept_other_version(request)
            else:
                metrics.REQUERIES.labels("answered").inc()
                metrics.REQUERY_SECONDS.observe(time.monotonic() - started)
                return [_requery(request, reply, question) for reply in replies]
        metrics.REQUERIES.labels("failed").inc()
        raise RequeryFailedError(f"no actor answered the re-query; {last}")

    def _request(self, rollout: pb.Rollout, question: int) -> actor_pb2.GenerateRequest:
        config, prompt = self._config, rollout.prompt
        sampling = pb.SamplingParams()
        sampling.CopyFrom(prompt.sampling)
        sampling.max_tokens = config.max_tokens
        if config.temperature is not None:
            sampling.temperature = config.temperature
        if sampling.HasField("seed"):  # equal descriptions of a group are not asked with equal luck, nor questions
            place = 0 if config.is_shared(prompt.sampling.temperature) else rollout.sample_index
            sampling.seed += (question * prompt.group_size + place) * config.samples
        return actor_pb2.GenerateRequest(
            schema_version=SCHEMA_VERSION,
            request_id=question_id(rollout.requery_id or requery_id(rollout, config), question),
            text=self.prompt(rollout.parts.description, questions_of(prompt)[question].question),
            num_samples=config.samples,
            sampling=sampling,
            priority=PRIORITY,
            required_policy_version=sample_version(rollout.sample),
        )

    @staticmethod
    def _accept_other_version(request: actor_pb2.GenerateRequest) -> None:
        """Other weights may answer; the trace says which."""
        if request.HasField("required_policy_version"):
            request.ClearField("required_policy_version")
            metrics.OTHER_VERSION.inc()

    async def _another(self, lost: set[str], policy_version: int) -> pb.ActorInfo | None:
        """A living actor, one that holds the version if there is one; None where none comes within the time-out."""
        deadline = time.monotonic() + self._config.timeout_s
        while time.monotonic() < deadline:
            assert self._fleet is not None
            living = [a for a in await self._fleet.alive() if a.id not in lost and a.policy_version >= 0]
            if living:
                return random.choice([a for a in living if a.policy_version == policy_version] or living)
            await asyncio.sleep(RETRY_PAUSE_S)
        return None

    async def close(self) -> None:
        """Closes all channels."""
        for channel in self._channels.values():
            await channel.close()

    async def _generate(
        self, address: str, request: actor_pb2.GenerateRequest, traceparent: str
    ) -> list[actor_pb2.GenerateResponse]:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = rpc.aio_channel(address, self._tls)
        call = actor_pb2_grpc.ActorStub(channel).Generate(
            request, timeout=self._config.timeout_s, metadata=(("traceparent", traceparent),)
        )
        replies = [reply async for reply in call]
        if len(replies) < request.num_samples:
            raise RequeryFailedError(f"{address} answered {len(replies)} of {request.num_samples} re-queries")
        return sorted(replies, key=lambda reply: reply.sample_index)


def _requery(request: actor_pb2.GenerateRequest, reply: actor_pb2.GenerateResponse, question: int) -> pb.Requery:
    return pb.Requery(
        prompt=request.text,
        sample=reply.sample,
        actor_id=reply.actor_id,
        policy_version=sample_version(reply.sample),
        question=question,
    )
