"""Rewards of the user's own: Python functions, of an installed package's entry point or named `module:function`.

Plain functions run in processes of their own, which are killed where one does not end in time; `async` ones run in the
service's event loop, as suits those that wait for another server, and are cancelled.
"""

import asyncio
import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any, Protocol

import structlog

from reward_service import metrics
from reward_service.process_pool import CallFailedError, ProcessPool
from vision_sr1.config import ConfigError, RewardFunctionConfig
from vision_sr1.rewards import MissingReward, Reward, ScoredResponse
from vision_sr1.runtime.entry_points import entry_point
from vision_sr1.streams import BlobMissingError
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

RETRY_PAUSE_S = 0.2  # doubles

Outcome = Reward | MissingReward


class ImageSource(Protocol):
    """Where images are."""

    async def get(self, ref: pb.ImageRef) -> bytes:
        """The encoded image.

        Raises:
            BlobMissingError: it is not there.
        """


class RewardFunctions:
    """The functions of `reward.functions`.

    Args:
        processes: calls of plain functions made at once.

    Raises:
        ConfigError: one cannot be found.
    """

    def __init__(self, functions: dict[str, RewardFunctionConfig], processes: int, images: ImageSource) -> None:
        self._functions = functions
        self._paths = {name: config.function or entry_point(name) for name, config in functions.items()}
        self._asynchronous = {name: _is_async(name, path) for name, path in self._paths.items()}
        plain = [path for name, path in self._paths.items() if not self._asynchronous[name]]
        self._images = images
        self._processes = ProcessPool(processes, prepare=partial(_load_all, plain))

    async def of_rollout(self, answered: ScoredResponse, images: Sequence[pb.ImageRef]) -> dict[str, Outcome]:
        """The rewards that are given per rollout, by name."""
        names = [name for name, config in self._functions.items() if config.per == "rollout"]
        given = await asyncio.gather(*(self._give(name, [answered], images) for name in names))
        return {name: self._checked(name, outcome) for name, outcome in zip(names, given, strict=True)}

    async def of_group(self, answers: list[ScoredResponse], images: Sequence[pb.ImageRef]) -> dict[str, list[Outcome]]:
        """The rewards that are given per group, by name: one for each answer."""
        names = [name for name, config in self._functions.items() if config.per == "group"]
        given = await asyncio.gather(*(self._give(name, answers, images) for name in names))
        return {name: self._of_each(name, outcome, len(answers)) for name, outcome in zip(names, given, strict=True)}

    async def close(self) -> None:
        """Ends the processes."""
        await self._processes.close()

    async def _give(self, name: str, answers: list[ScoredResponse], images: Sequence[pb.ImageRef]) -> Any:
        """What the function returned, or why it is missing."""
        config, last = self._functions[name], ""
        if config.images:
            try:
                seen = tuple([await self._images.get(image) for image in images])
            except BlobMissingError as error:
                return MissingReward(str(error))
            answers = [replace(answered, images=seen) for answered in answers]
        argument = answers if config.per == "group" else answers[0]
        with metrics.FUNCTION_SECONDS.labels(name).time():
            for attempt in range(config.attempts):
                if attempt:
                    await asyncio.sleep(RETRY_PAUSE_S * 2 ** (attempt - 1))
                try:
                    return await self._call(name, argument, config.timeout_s)
                except Exception as error:  # a user's function raises what it likes
                    last = str(error) if isinstance(error, CallFailedError) else repr(error)
                    log.warning(
                        "reward_function_failed",
                        message="The reward function failed; trying again",
                        reward=name,
                        attempt=attempt + 1,
                        error=last,
                    )
        return MissingReward(f"{self._paths[name]} failed {config.attempts} times; the last time: {last}")

    async def _call(self, name: str, argument: Any, timeout_s: float) -> Any:
        if not self._asynchronous[name]:
            return await self._processes.call(_run, self._paths[name], argument, timeout_s=timeout_s)
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await _load(self._paths[name])(argument)
        except TimeoutError as error:
            if limit.expired():
                raise CallFailedError(f"took longer than {timeout_s:g} s") from error
            raise

    def _of_each(self, name: str, given: Any, count: int) -> list[Outcome]:
        if isinstance(given, MissingReward):
            return [given] * count
        if not isinstance(given, (list, tuple)) or len(given) != count:
            said = f"{len(given)} rewards" if isinstance(given, (list, tuple)) else repr(given)
            return [MissingReward(f"{self._paths[name]} returned {said} for a group of {count}")] * count
        return [self._checked(name, value) for value in given]

    def _checked(self, name: str, given: Any) -> Outcome:
        """A finite reward within the range, or why it counts as missing."""
        if isinstance(given, MissingReward):
            return given
        if given is None:
            return MissingReward(f"{self._paths[name]} gave none")
        reward = given if isinstance(given, Reward) else None
        value = reward.value if reward is not None else given
        low, high = self._functions[name].range
        if not isinstance(value, Real) or not math.isfinite(value) or not low <= float(value) <= high:
            return MissingReward(f"{self._paths[name]} returned {value!r}, not a number from {low:g} to {high:g}")
        return Reward(float(value), reward.explanation if reward is not None else "")


def _is_async(name: str, path: str) -> bool:
    try:
        return inspect.iscoroutinefunction(_load(path))
    except Exception as error:
        raise ConfigError(f"reward.functions.{name}: {path} cannot be loaded: {error!r}") from error


def _load(path: str) -> Callable[[Any], Any]:
    module, _, attribute = path.partition(":")
    function: Any = importlib.import_module(module)
    for part in attribute.split("."):
        function = getattr(function, part)
    if not callable(function):
        raise TypeError(f"{path} is not a function")
    return function


def _load_all(paths: list[str]) -> None:
    """Before the first call, whose time it is not to take."""
    for path in paths:
        _load(path)


def _run(path: str, argument: Any) -> Any:
    """In a process of its own."""
    return _load(path)(argument)
