"""`vision-sr1 streams`: the streams of a run that goes on, inspected and changed from outside."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.text_format import MessageToString
from rich.console import Console
from rich.table import Table

from vision_sr1.config import Config
from vision_sr1.pipeline.dead_letters import DeadLetter, DeadLetters
from vision_sr1.streams.connection import connect_to_run
from vision_sr1.streams.keys import Keys
from vision_sr1.streams.retrying import RetryingRedis
from vision_sr1.streams.status import stream_statuses
from vision_sr1.v1 import pipeline_pb2 as pb

T = TypeVar("T")

_KINDS: dict[str, Any] = {
    "prompts": pb.Prompt,
    "rollouts": pb.Rollout,
    "assembled": pb.ScoredGroup,
    "scored": pb.ScoredGroup,
    "evaluated": pb.ScoredGroup,
}


def show_status(config: Config, console: Console) -> None:
    """Prints every stream's depth, age, consumers, pending and dead entries."""

    async def look(redis: RetryingRedis) -> None:
        table = Table("stream", "entries", "oldest", "held", "dead", "consumers", box=None, pad_edge=False)
        for stream in await stream_statuses(redis, Keys(config.streams_name)):
            consumers = ", ".join(f"{c.name} ({c.pending}, idle {c.idle_s:.0f} s)" for c in stream.consumers)
            counts = [str(stream.depth), f"{stream.age_s:.0f} s", str(stream.pending), str(stream.dead)]
            table.add_row(stream.name, *counts, consumers or "none")
        console.print(table)

    _on_streams(config, look)


def list_dead(config: Config, console: Console) -> None:
    """Prints all dead letters, a line each."""

    async def look(redis: RetryingRedis) -> None:
        letters = await DeadLetters(redis, Keys(config.streams_name)).all()
        table = Table("letter", "moved", "deliveries", "error", box=None, pad_edge=False)
        for letter in letters:
            table.add_row(letter.name, f"{letter.age_s:.0f} s ago", str(letter.deliveries), letter.error)
        console.print(table if letters else "no dead letters")

    _on_streams(config, look)


def show_dead(config: Config, name: str, console: Console) -> None:
    """Prints a dead letter with its message."""

    async def look(redis: RetryingRedis) -> None:
        for letter in await _named(DeadLetters(redis, Keys(config.streams_name)), name):
            console.print(f"{letter.name}: {letter.error}", style="bold", highlight=False, markup=False)
            console.print(f"delivered {letter.deliveries} times, last to {letter.consumer}", highlight=False)
            console.print(_message(letter), highlight=False, markup=False, soft_wrap=True)

    _on_streams(config, look)


def retry_dead(config: Config, name: str, console: Console) -> None:
    """Puts dead letters back into their streams."""
    _with_each(config, name, DeadLetters.retry, lambda letter: console.print(f"{letter} is on its stream again"))


def drop_dead(config: Config, name: str, console: Console) -> None:
    """Forgets dead letters."""
    _with_each(config, name, DeadLetters.drop, lambda letter: console.print(f"dropped {letter}"))


def _with_each(
    config: Config, name: str, do: Callable[[DeadLetters, DeadLetter], Awaitable[None]], say: Callable[[str], None]
) -> None:
    async def work(redis: RetryingRedis) -> None:
        dead = DeadLetters(redis, Keys(config.streams_name))
        for letter in await _named(dead, name):
            await do(dead, letter)
            say(letter.name)

    _on_streams(config, work)


async def _named(dead: DeadLetters, name: str) -> list[DeadLetter]:
    return await dead.all() if name == "all" else [await dead.get(name)]


def _message(letter: DeadLetter) -> str:
    kind = _KINDS[letter.stream]
    try:
        return MessageToString(kind.FromString(letter.message), as_utf8=True)
    except (DecodeError, UnicodeDecodeError):
        return f"{len(letter.message)} bytes that are no {kind.__name__}: {letter.message[:200]!r}"


def _on_streams(config: Config, work: Callable[[RetryingRedis], Awaitable[T]]) -> T:
    async def run() -> T:
        async with connect_to_run(config) as redis:
            return await work(redis)

    return asyncio.run(run())
