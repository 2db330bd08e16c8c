"""The re-query: the actor that wrote a rollout answers again from its description, without the image."""

import asyncio
import time
from typing import Any

import grpc
import structlog

from reward_service import metrics
from vision_sr1.config import RewardConfig
from vision_sr1.groups import requery_id, sample_version
from vision_sr1.prompts import PromptTemplate
from vision_sr1.v1 import actor_pb2, actor_pb2_grpc
from vision_sr1.v1 import pipeline_pb2 as pb
from vision_sr1.wire import SCHEMA_VERSION

log = structlog.get_logger()

PRIORITY = -1  # ahead of new prompts, which have 0
RETRY_PAUSE_S = 0.5


class RequeryFailedError(RuntimeError):
    """No actor answered a re-query in the attempts allowed."""


class Requerier:
    """Asks actors over gRPC; keeps one channel per actor."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._template = PromptTemplate(config.requery_template)
        self._channels: dict[str, grpc.aio.Channel] = {}

    def prompt(self, description: str, question: str) -> str:
        """The user's turn of a re-query: nothing of the rollout but its description, and no image."""
        return self._template.requery(description, question)

    async def ask(self, rollout: pb.Rollout, description: str) -> pb.Requery:
        """One answer from the rollout's own actor, under the rollout's policy version where it still holds it.

        Raises:
            RequeryFailedError: the actor did not answer.
        """
        started = time.monotonic()
        text = self.prompt(description, rollout.prompt.question)
        sampling = pb.SamplingParams()
        sampling.CopyFrom(rollout.prompt.sampling)
        sampling.max_tokens = self._config.requery_max_tokens
        if sampling.HasField("seed"):
            sampling.seed += rollout.sample_index  # equal descriptions of a group are not asked with equal luck
        request = actor_pb2.GenerateRequest(
            schema_version=SCHEMA_VERSION,
            request_id=requery_id(rollout.id),
            text=text,
            num_samples=1,
            sampling=sampling,
            priority=PRIORITY,
            required_policy_version=sample_version(rollout.sample),
        )
        reply, last = None, "version changed at every attempt"
        for attempt in range(1, self._config.requery_attempts + 1):
            try:
                reply = await self._generate(rollout.actor_address, request)
                break
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.FAILED_PRECONDITION and request.HasField("required_policy_version"):
                    request.ClearField("required_policy_version")  # answered under newer weights, and counted as such
                    metrics.OTHER_VERSION.inc()
                    continue
                log.warning("re-query failed", rollout=rollout.id, attempt=attempt, code=error.code().name)
                last = f"{error.code().name} {error.details()}"
                if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                    break
                await asyncio.sleep(RETRY_PAUSE_S * attempt)
        if reply is None:
            metrics.REQUERIES.labels("failed").inc()
            raise RequeryFailedError(f"{rollout.id}: actor {rollout.actor_id} did not answer its re-query: {last}")
        metrics.REQUERIES.labels("answered").inc()
        metrics.REQUERY_SECONDS.observe(time.monotonic() - started)
        return pb.Requery(
            prompt=text,
            sample=reply.sample,
            actor_id=reply.actor_id,
            policy_version=sample_version(reply.sample),
        )

    async def close(self) -> None:
        """Closes all channels."""
        for channel in self._channels.values():
            await channel.close()

    async def _generate(self, address: str, request: actor_pb2.GenerateRequest) -> Any:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = grpc.aio.insecure_channel(address)
        call = actor_pb2_grpc.ActorStub(channel).Generate(request, timeout=self._config.requery_timeout_s)
        async for reply in call:
            return reply
        raise RequeryFailedError(f"{address} answered a re-query with nothing")
