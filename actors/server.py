"""The actor's gRPC service: generation on request, and the four phases of a weight update."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2

from actors import metrics
from actors.engine import NO_VERSION, BadRequestError, PolicyEngine
from vision_sr1.streams import BlobMissingError, Blobs
from vision_sr1.v1 import actor_pb2 as pb
from vision_sr1.v1 import actor_pb2_grpc
from vision_sr1.v1.pipeline_pb2 import ActorInfo
from vision_sr1.wire import WireError, check_version

log = structlog.get_logger()

SERVICE = "vision_sr1.v1.Actor"


async def _nothing() -> None: ...


class ActorService(actor_pb2_grpc.ActorServicer):
    """Serves one PolicyEngine.

    `serving` is set while a published policy version is held and no update is under way; the prompt worker waits
    for it.
    """

    def __init__(
        self, engine: PolicyEngine, blobs: Blobs, info: ActorInfo, health_service: health.aio.HealthServicer
    ) -> None:
        self.info = info
        self.serving = asyncio.Event()
        self.announce: Callable[[], Awaitable[None]] = _nothing
        self.prompts_in_flight: Callable[[], int] = lambda: 0
        self._engine = engine
        self._blobs = blobs
        self._health = health_service
        self._phase = asyncio.Lock()  # one phase of an update at a time, and none while one is given up
        self._update_started: float | None = None
        self._received = False
        self._update_timeout_s = 60.0
        self._watchdog: asyncio.Task[None] | None = None
        self._generated_tokens = 0

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
        except (BadRequestError, BlobMissingError) as error:
            await self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, f"request {request.request_id}: {error}")
        metrics.REQUESTS.labels("OK").inc()

    async def Status(self, request: pb.StatusRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.StatusResponse:
        """What this actor is and does."""
        return pb.StatusResponse(
            actor=self.info,
            serving=self.serving.is_set(),
            prompts_in_flight=self.prompts_in_flight(),
            generated_tokens=self._generated_tokens,
        )

    async def InitWeightTransfer(
        self, request: pb.InitWeightTransferRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.InitWeightTransferResponse:
        """Joins the transfer group of an epoch."""
        await self._check_version(request, context)
        self._update_timeout_s = request.timeout_s
        init_info: dict[str, Any] = {
            "master_address": request.master_address,
            "master_port": request.master_port,
            "rank_offset": request.rank_offset,
            "world_size": request.world_size,
        }
        if self.info.weight_transfer == "gloo":
            init_info |= {
                "epoch": request.epoch,
                "bucket_bytes": request.bucket_bytes,
                "timeout_s": request.timeout_s,
            }
        else:
            init_info |= {"packed": True, "packed_buffer_size_bytes": request.bucket_bytes}
        await self._engine.join_transfer_group(init_info)
        log.info("joined transfer group", epoch=request.epoch, members=request.world_size)
        return pb.InitWeightTransferResponse()

    async def StartWeightUpdate(
        self, request: pb.StartWeightUpdateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.StartWeightUpdateResponse:
        """Freezes generation. Unless the update is finished in time, the actor goes on with the weights it had."""
        async with self._phase:
            if self._update_started is not None:
                log.error("weight update was never finished; another one begins")
                await self._give_up()
            self._update_started = time.monotonic()
            self._received = False
            self._watchdog = asyncio.create_task(self._give_up_later())
            await self._engine.pause()
            await self._engine.start_update()
        return pb.StartWeightUpdateResponse()

    async def UpdateWeights(
        self, request: pb.UpdateWeightsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.UpdateWeightsResponse:
        """Receives the parameters named over the transfer group."""
        async with self._phase:
            if self._update_started is None:
                await self._abort(
                    context, grpc.StatusCode.FAILED_PRECONDITION, f"actor {self.info.id} has no update under way"
                )
            try:
                await self._receive(request)
            except Exception as error:
                await self._break_off(error, context, model_touched=self._loads_while_receiving)
            self._received = True
        return pb.UpdateWeightsResponse()

    async def FinishWeightUpdate(
        self, request: pb.FinishWeightUpdateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.FinishWeightUpdateResponse:
        """Puts the received weights in force and resumes generation."""
        async with self._phase:
            if self._update_started is None or not self._received:
                await self._abort(
                    context,
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"actor {self.info.id} has no received update to finish",
                )
            try:
                await self._engine.finish_update(request.policy_version)
            except Exception as error:
                await self._break_off(error, context, model_touched=True)
            await self._end_update("finished")
        self.info.policy_version = request.policy_version
        metrics.POLICY_VERSION.set(request.policy_version)
        await self.announce()  # before the learner looks whether somebody still lacks this version
        self.serving.set()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        log.info("weights updated", policy_version=request.policy_version)
        return pb.FinishWeightUpdateResponse(checksum=await self._engine.checksum())

    async def _receive(self, request: pb.UpdateWeightsRequest) -> None:
        if request.HasField("adapter"):
            self._engine.receive_adapter(request.adapter.config, request.adapter.weights)
            return
        await self._engine.receive_update(
            {
                "names": [p.name for p in request.parameters],
                "dtype_names": [p.dtype for p in request.parameters],
                "shapes": [list(p.shape) for p in request.parameters],
            }
        )

    def count_tokens(self, kind: str, tokens: int) -> None:
        """Adds to the tokens generated."""
        self._generated_tokens += tokens
        metrics.TOKENS.labels(kind).inc(tokens)

    async def _stop_serving(self) -> None:
        self.serving.clear()
        self._engine.policy_version = self.info.policy_version = NO_VERSION
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def _set_health(self, status: "health_pb2.HealthCheckResponse.ServingStatus.ValueType") -> None:
        for name in ("", SERVICE):
            await self._health.set(name, status)

    async def _give_up_later(self) -> None:
        await asyncio.sleep(self._update_timeout_s)
        async with self._phase:
            log.error("weight update not finished in time", timeout_s=self._update_timeout_s)
            await self._give_up()

    @property
    def _loads_while_receiving(self) -> bool:
        """Whether an update that was not finished may have changed the model; others receive it whole first."""
        return self.info.weight_transfer == "nccl"

    async def _give_up(self) -> None:
        """Ends an unfinished update with the weights held before it, or stops serving where they are gone."""
        model_touched = self._loads_while_receiving
        try:
            await self._engine.discard_update()
        except Exception as error:
            log.error("weight update cannot be discarded", error=repr(error))
            model_touched = True
        if model_touched:
            await self._stop_serving()
        await self._end_update("given_up")

    async def _break_off(
        self, error: Exception, context: grpc.aio.ServicerContext[Any, Any], *, model_touched: bool
    ) -> None:
        log.error("weight update broke off", error=repr(error), serving=not model_touched)
        if model_touched:
            await self._stop_serving()
        await self._end_update("broken_off")
        await self._abort(context, grpc.StatusCode.ABORTED, f"actor {self.info.id}: {error}")

    async def _end_update(self, outcome: str) -> None:
        assert self._update_started is not None
        await self._engine.resume()
        if self._watchdog is not None and self._watchdog is not asyncio.current_task():
            self._watchdog.cancel()
        metrics.UPDATES.labels(outcome).inc()
        metrics.UPDATE_SECONDS.observe(time.monotonic() - self._update_started)
        self._update_started = None

    async def _check_version(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            check_version(request)
        except WireError as error:
            await self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _abort(self, context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, message: str) -> None:
        metrics.REQUESTS.labels(code.name).inc()
        await context.abort(code, message)
