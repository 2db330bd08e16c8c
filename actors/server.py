"""The actor's gRPC service: generation on request, and the phases of a weight update."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2

from actors import metrics
from actors.policy_engine import NO_VERSION, LostSampleError, PolicyEngine
from actors.prompt_renderer import BadRequestError
from actors.weight_updates import NoUpdateError, WeightUpdates
from vision_sr1.pipeline.wire import WireError, check_version
from vision_sr1.runtime.probes import Probes
from vision_sr1.runtime.tracing import trace_id
from vision_sr1.streams import BlobMissingError, Blobs
from vision_sr1.v1 import actor_pb2 as pb
from vision_sr1.v1 import actor_pb2_grpc
from vision_sr1.v1.pipeline_pb2 import ActorInfo

log = structlog.get_logger()

SERVICE = "vision_sr1.v1.Actor"


async def _nothing() -> None: ...


class ActorService(actor_pb2_grpc.ActorServicer):
    """Serves one PolicyEngine.

    Attributes:
        updates: also says when new prompts may be taken.
        announce: tells the fleet of `info`.
    """

    def __init__(
        self,
        engine: PolicyEngine,
        blobs: Blobs,
        info: ActorInfo,
        health_service: health.aio.HealthServicer,
        probes: Probes,
    ) -> None:
        self.info = info
        self.announce: Callable[[], Awaitable[None]] = _nothing
        self.updates = WeightUpdates(engine, self._update_ended, loads_while_receiving=info.weight_transfer == "nccl")
        self._engine = engine
        self._blobs = blobs
        self._health = health_service
        self._probes = probes
        self._generated_tokens = 0
        self._in_touch = True
        self._phases: set[asyncio.Task[None]] = set()

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Samples answers to one user turn; see the proto file for status codes."""
        await self._check_version(request, context)
        held = self._engine.policy_version
        if held == NO_VERSION:
            await self._abort(
                context, grpc.StatusCode.FAILED_PRECONDITION, f"actor {self.info.id} holds no published weights yet"
            )
        if request.HasField("required_policy_version") and request.required_policy_version != held:
            await self._abort(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                f"actor {self.info.id} holds policy version {held}, not {request.required_policy_version}",
            )
        traceparent = dict(context.invocation_metadata() or ()).get("traceparent", "")
        try:
            images = [await self._blobs.get(ref) for ref in request.images]
            async for index, sample in self._engine.sample(
                request.request_id,
                request.text,
                images,
                request.sampling,
                max(1, request.num_samples),
                request.priority,
            ):
                self.count_tokens("text" if not images else "image", len(sample.response_token_ids))
                yield pb.GenerateResponse(sample_index=index, sample=sample, actor_id=self.info.id)
            log.debug(
                "generate",
                message="Generating responses for a gRPC request",
                request=request.request_id,
                trace_id=trace_id(str(traceparent)),
            )
        except (BadRequestError, BlobMissingError) as error:
            await self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, f"request {request.request_id}: {error}")
        except LostSampleError as error:
            await self._abort(context, grpc.StatusCode.ABORTED, f"actor {self.info.id}: {error}")
        finally:
            self.updates.requeries.discard(request.request_id)
        metrics.REQUESTS.labels("OK").inc()

    async def Status(self, request: pb.StatusRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.StatusResponse:
        """What this actor is and does."""
        if request.ask_engine:
            await self._engine.responds()
        return pb.StatusResponse(
            actor=self.info,
            serving=self.updates.serving.is_set(),
            prompts_in_flight=len(self.updates.prompts),
            generated_tokens=self._generated_tokens,
        )

    async def Checksums(
        self, request: pb.ChecksumsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ChecksumsResponse:
        """One digest per parameter held."""
        digests = (await self._engine.digests()).items()
        return pb.ChecksumsResponse(digests=[pb.ParameterDigest(name=name, digest=d) for name, d in digests])

    async def Sleep(self, request: pb.SleepRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.SleepResponse:
        """Gives the device to the learner."""
        if not self._engine.shares_device:
            await self._abort(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                f"actor {self.info.id} has a device of its own (actors.placement: own)",
            )
        await self._phase(self.updates.sleep(), context)
        return pb.SleepResponse()

    async def InitWeightTransfer(
        self, request: pb.InitWeightTransferRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.InitWeightTransferResponse:
        """Joins a transfer group."""
        await self._check_version(request, context)
        gloo = self.info.weight_transfer == "gloo"
        store = "master" if gloo else "store"
        init_info: dict[str, Any] = {
            f"{store}_address": request.master_address,
            f"{store}_port": request.master_port,
            "group_number": request.group_number,
            "rank_offset": request.rank_offset,
            "world_size": request.world_size,
            "timeout_s": request.timeout_s,
        }
        if gloo:
            init_info["delta"] = request.delta
        else:
            unique_id = base64.b64encode(request.nccl_unique_id).decode()
            init_info |= {"packed": True, "packed_buffer_size_bytes": request.bucket_bytes}
            init_info |= {"nccl_unique_id_b64": unique_id}
        await self._phase(self.updates.join(init_info, request.timeout_s), context)
        log.info(
            "transfer_group_joined",
            message="Joined a weight transfer group",
            group_number=request.group_number,
            members=request.world_size,
        )
        return pb.InitWeightTransferResponse()

    async def StartWeightUpdate(
        self, request: pb.StartWeightUpdateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.StartWeightUpdateResponse:
        """Prepares for new weights. Unless they are applied in time, the actor goes on with those it had."""
        await self._phase(self.updates.start(request.mode, request.same_weights_grace_s), context)
        return pb.StartWeightUpdateResponse()

    async def UpdateWeights(
        self, request: pb.UpdateWeightsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.UpdateWeightsResponse:
        """Receives the parameters named over the transfer group, or begins to; or an adapter."""
        await self._phase(self.updates.receive(self._update_info(request)), context)
        return pb.UpdateWeightsResponse()

    async def FinishWeightUpdate(
        self, request: pb.FinishWeightUpdateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FinishWeightUpdateResponse:
        """Applies the received weights."""
        await self._phase(self.updates.finish(request.policy_version, request.run), context)
        return pb.FinishWeightUpdateResponse(checksum=await self._engine.checksum(), frozen_s=self.updates.frozen_s)

    def count_tokens(self, kind: str, tokens: int) -> None:
        """Adds to the tokens generated."""
        self._generated_tokens += tokens
        metrics.TOKENS.labels(kind).inc(tokens)

    def _update_info(self, request: pb.UpdateWeightsRequest) -> dict[str, Any] | pb.Adapter:
        if request.HasField("adapter"):
            return request.adapter
        info: dict[str, Any] = {
            "names": [p.name for p in request.parameters],
            "dtype_names": [p.dtype for p in request.parameters],
            "shapes": [list(p.shape) for p in request.parameters],
        }
        changed = [p.changed if p.HasField("changed") else None for p in request.parameters]
        if self.info.weight_transfer == "gloo" or any(count is not None for count in changed):
            info["changed"] = changed
        return info

    async def set_in_touch(self, in_touch: bool) -> None:
        """Whether Redis can be reached: without it the actor takes no prompts, and says so to who asks for health."""
        if in_touch != self._in_touch:
            self._in_touch = in_touch
            await self._show_health()

    async def _update_ended(self) -> None:
        version = self.info.policy_version = self._engine.policy_version
        metrics.POLICY_VERSION.set(version)
        await self._show_health()
        await self.announce()

    async def _show_health(self) -> None:
        status = health_pb2.HealthCheckResponse
        has_weights = self.info.policy_version != NO_VERSION
        ready = self._in_touch and has_weights
        waits = "the learner uses the device" if self._engine.is_asleep else "waits for weights"
        self._probes.not_ready = "" if ready else waits if self._in_touch else "Redis does not answer"
        for name in ("", SERVICE):
            await self._health.set(name, status.SERVING if ready else status.NOT_SERVING)

    async def _phase(self, phase: Coroutine[Any, Any, None], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Carries a phase through, also where its caller goes away: vLLM would go on with it, and be out of step."""
        task = asyncio.create_task(phase)
        self._phases.add(task)
        task.add_done_callback(self._phases.discard)
        try:
            await asyncio.shield(task)
        except NoUpdateError as error:
            await self._abort(context, grpc.StatusCode.FAILED_PRECONDITION, f"actor {self.info.id} has {error}")
        except Exception as error:
            await self._abort(context, grpc.StatusCode.ABORTED, f"actor {self.info.id}: {error}")

    async def _check_version(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            check_version(request)
        except WireError as error:
            await self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _abort(self, context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, message: str) -> None:
        metrics.REQUESTS.labels(code.name).inc()
        await context.abort(code, message)
