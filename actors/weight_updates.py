"""From one policy version to the next, in the phases of vLLM's weight-transfer API, or back to where it was."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog

from actors import metrics
from actors.outstanding import Outstanding
from actors.policy_engine import NO_VERSION, PolicyEngine
from vision_sr1.config import RunConfig
from vision_sr1.pipeline.fleet import file_digests
from vision_sr1.v1 import actor_pb2 as pb
from vision_sr1.v1.pipeline_pb2 import PublishedWeights

log = structlog.get_logger()


class NoUpdateError(RuntimeError):
    """A phase was asked for that has no update to belong to."""


class WeightUpdates:
    """The updates of one engine, one phase at a time.

    An update that breaks off, or that nobody goes on with, leaves the engine on the weights it had. Where these are
    gone (`nccl` loads parameters as they come) it holds no version until the next update.

    Args:
        loads_while_receiving: the engine's weights change before an update is finished.
        on_change: called when an update has ended, whatever its outcome.

    Attributes:
        serving: set while a published policy version is held and new prompts may be taken.
        prompts: those being answered now.
        requeries: those of finished rollouts that have not been answered.
        frozen_s: how long the last update kept generation from going on.
    """

    def __init__(
        self,
        engine: PolicyEngine,
        on_change: Callable[[], Awaitable[None]],
        *,
        loads_while_receiving: bool,
    ) -> None:
        self.serving = asyncio.Event()
        self.prompts = Outstanding()
        self.requeries = Outstanding()
        self.frozen_s = 0.0
        self._engine = engine
        self._on_change = on_change
        self._loads_while_receiving = loads_while_receiving
        self._phase = asyncio.Lock()
        self._phase_timeout_s = 60.0  # for updates that need no group, an adapter or a checkpoint, until one was joined
        self._mode: pb.UpdateMode = pb.UPDATE_MODE_IN_FLIGHT
        self._grace_s = 0.0
        self._watchdog: asyncio.Task[None] | None = None
        self._started: float | None = None
        self._frozen: float | None = None
        self._received = False

    async def hold(self, policy_version: int) -> None:
        """Takes the weights that the engine was started with for a published version."""
        self._engine.policy_version = policy_version
        await self._on_change()
        self.serving.set()

    async def sleep(self) -> None:
        """Gives the device away until the next update is finished; one under way is given up.

        Raises:
            EngineStuckError: the engine did not free it.
        """
        async with self._phase:
            if self._engine.is_asleep:
                return
            if self._started is not None:
                await self._give_up()
            self.serving.clear()
            await self._answer_requeries()
            await self._engine.sleep()
        await self._on_change()
        log.info("actor_sleeps", message="The actor has given the device to the learner")

    async def join(self, init_info: dict[str, Any], phase_timeout_s: float) -> None:
        """Joins a transfer group, whose members wait for one another `phase_timeout_s` in each phase."""
        async with self._phase:
            self._phase_timeout_s = phase_timeout_s
            await self._engine.join_transfer_group(init_info)

    async def start(self, mode: pb.UpdateMode, same_weights_grace_s: float) -> None:
        """Prepares for new weights; gives up an earlier update that was never finished.

        Args:
            mode: what becomes of generations under way.
            same_weights_grace_s: how long the re-queries of finished rollouts are waited for, before generation stops.
        """
        async with self._phase:
            self._mode, self._grace_s = mode, same_weights_grace_s
            if self._started is not None:
                log.error(
                    "weight_update_superseded", message="A new weight update starts before the previous one finished"
                )
                await self._give_up()
            await self._start()

    async def receive(self, update_info: dict[str, Any] | pb.Adapter) -> None:
        """Receives parameters, or an adapter.

        Raises:
            NoUpdateError: none was started.
            Exception: what the engine raised; the update is over.
        """
        async with self._phase:
            self._expect(self._started is not None, "no update under way")
            async with self._breaking_off(model_touched=self._loads_while_receiving):
                if isinstance(update_info, pb.Adapter):
                    self._engine.receive_adapter(update_info.config, update_info.weights)
                else:
                    await self._engine.receive_update(update_info)
            self._received = True

    async def finish(self, policy_version: int, run: str) -> None:
        """Applies what was received as `policy_version` of a run; without its name, of the actor's own.

        Raises:
            NoUpdateError: nothing was received.
            Exception: what the engine raised; the update is over.
        """
        async with self._phase:
            self._expect(self._started is not None and self._received, "no received update to finish")
            await self._finish(policy_version, run)

    async def catch_up(self, published: PublishedWeights, run: RunConfig) -> None:
        """Takes no prompts while newer weights than those held are current, and reads them where they can be read.

        Args:
            run: the actor's own; the weights may be those of another in the same folder.

        Raises:
            OSError: they cannot be read.
            Exception: what the engine raised.
        """
        if self._engine.is_asleep:  # the learner has the device, and sends weights with it
            return
        if self._is_of_another_run(published):
            async with self._phase:
                if self._started is None and self._is_of_another_run(published):
                    self._engine.policy_version = NO_VERSION
                    await self._on_change()
        if self._engine.policy_version >= published.policy_version:
            if self._started is None and self._engine.policy_version != NO_VERSION:
                self.serving.set()
            return
        self.serving.clear()
        if not published.folder or self._engine.weight_transfer == "adapter":
            return
        folder = run.dir / (published.run or run.name) / published.folder
        if await asyncio.to_thread(file_digests, folder) != published.sha256:
            raise OSError(f"the weights in {folder} differ from their checksums")
        async with self._phase:
            if self._started is not None or self._engine.policy_version >= published.policy_version:
                return  # they came from the learner meanwhile
            await self._start()
            async with self._breaking_off(model_touched=self._loads_while_receiving):
                await self._engine.read_update(str(folder))
            await self._finish(published.policy_version, published.run)

    def _is_of_another_run(self, published: PublishedWeights) -> bool:
        held = self._engine.policy_version != NO_VERSION
        return held and bool(published.run) and published.run != self._engine.run

    async def _start(self) -> None:
        self._started = time.monotonic()
        self._received = False
        async with self._breaking_off(model_touched=False):
            if self._loads_while_receiving:
                await self._freeze()
            await self._engine.start_update()

    async def _finish(self, policy_version: int, run: str) -> None:
        async with self._breaking_off(model_touched=self._loads_while_receiving):
            await self._engine.complete_update()
            slept = self._engine.is_asleep
            await self._engine.wake()
            await self._freeze(is_idle=slept)
        async with self._breaking_off(model_touched=True):
            await self._engine.finish_update(policy_version, run)
        await self._end("finished")
        log.info("weights_updated", message="The engine holds a new policy version", policy_version=policy_version)

    def _expect(self, condition: bool, otherwise: str) -> None:
        if not condition:
            raise NoUpdateError(otherwise)

    @asynccontextmanager
    async def _breaking_off(self, *, model_touched: bool) -> AsyncIterator[None]:
        """An error within ends the update; otherwise the next phase is waited for."""
        self._stop_watchdog()
        try:
            yield
        except Exception as error:
            log.error("weight_update_failed", message="The weight update failed", error=repr(error))
            await self._discard(model_touched=model_touched)
            await self._end("broken_off")
            raise
        finally:
            if self._started is not None:
                self._watchdog = asyncio.create_task(self._give_up_later())

    async def _give_up_later(self) -> None:
        await asyncio.sleep(self._phase_timeout_s)
        async with self._phase:
            log.error(
                "weight_update_timed_out",
                message="The weight update did not finish in time and was discarded",
                timeout_s=self._phase_timeout_s,
            )
            self._watchdog = None
            await self._give_up()

    async def _give_up(self) -> None:
        """Ends an unfinished update."""
        await self._discard(model_touched=self._loads_while_receiving and self._received)
        await self._end("given_up")

    async def _discard(self, *, model_touched: bool) -> None:
        """Goes back to the weights held before, or to none where they are gone."""
        try:
            await self._engine.discard_update()
        except Exception as error:
            log.error(
                "weight_update_discard_failed",
                message="The failed weight update could not be discarded",
                error=repr(error),
            )
            model_touched = True
        if model_touched:
            self._engine.policy_version = NO_VERSION

    async def _freeze(self, *, is_idle: bool = False) -> None:
        """Stops generation as the mode has it, once the re-queries are home or their grace is over.

        Args:
            is_idle: the engine has slept: nothing is under way, and prompts that it had wait for these weights.
        """
        if self._frozen is not None:
            return
        if self._mode == pb.UPDATE_MODE_WAIT and not is_idle:
            self.serving.clear()
            await self.prompts.all_come()
        if not is_idle:
            await self._answer_requeries()
        self._frozen = time.monotonic()
        await self._engine.pause(abort=self._mode == pb.UPDATE_MODE_ABORT)

    async def _answer_requeries(self) -> None:
        """Waits for those of finished rollouts, within their grace."""
        try:
            await asyncio.wait_for(self.requeries.all_come(), self._grace_s)
        except TimeoutError:
            metrics.LATE_REQUERIES.inc(len(self.requeries))
            log.warning(
                "outstanding_requeries_abandoned",
                message="The grace period ended before all re-queries of the old weights finished",
                out=len(self.requeries),
                grace_s=self._grace_s,
            )
            self.requeries.clear()

    async def _end(self, outcome: str) -> None:
        assert self._started is not None
        self._stop_watchdog()
        holds_weights = self._engine.policy_version != NO_VERSION
        if self._frozen is not None and holds_weights:  # without, what is under way stays frozen until some come
            await self._engine.resume()
            self.frozen_s = time.monotonic() - self._frozen
            metrics.FROZEN_SECONDS.observe(self.frozen_s)
            self._frozen = None
        metrics.UPDATES.labels(outcome).inc()
        metrics.UPDATE_SECONDS.observe(time.monotonic() - self._started)
        self._started = None
        await self._on_change()  # others know of the new version before anything is answered with it
        if holds_weights:
            self.serving.set()
        else:
            self.serving.clear()

    def _stop_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = None
