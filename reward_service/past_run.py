"""After the run: its traces served from the store, read-only, with nothing else running; or written to a file."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import structlog
from fastapi.concurrency import run_in_threadpool
from transformers import AutoTokenizer

from reward_service.api import ApiContext, http_server
from reward_service.api.past import PastRun
from reward_service.api.run_folder import RunFolder
from reward_service.api.table import TraceTable
from reward_service.export import check_suffix, export_traces
from reward_service.scoring import Scorer, open_scorer
from reward_service.store import TraceReader, open_store
from reward_service.store.several import StoredRun, TraceReaders
from vision_sr1.config import Config, ConfigError, load_config, place_of
from vision_sr1.prompting.response import TokenBytes
from vision_sr1.run_folder.checkpoints import POLICY, checkpoints
from vision_sr1.run_folder.names import SETTINGS, TRACES
from vision_sr1.runtime.ports import host_and_port
from vision_sr1.runtime.reward_api import check_closed
from vision_sr1.streams import BlobMissingError
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()


def serve_traces(config: Config, beside: Sequence[Path] = ()) -> None:
    """Serves the API until SIGTERM or SIGINT.

    Args:
        beside: folders of further runs.

    Raises:
        ConfigError: a run has no traces, or the API would be open to all.
    """
    check_closed(config)
    with contextlib.ExitStack() as stores:
        runs: dict[str, tuple[Config, StoredRun]] = {}
        for own in (config, *map(_config_of, beside)):
            name = own.run.name if own.run.name not in runs else f"{own.run.path.parent.name}/{own.run.name}"
            if name in runs:
                raise ConfigError(f"{own.run.path}: a run of the name {name} is served already; give each once")
            recorded = _recorded_name(own)
            stored = StoredRun(_reader(own, recorded), recorded)
            stores.callback(stored.reader.close)
            runs[name] = (own, stored)
        folders = ", ".join(str(own.run.path) for own, _ in runs.values())
        address = f"http://{host_and_port(config.reward.host, config.reward.port)}/"
        asyncio.run(_serve(config, runs, f"traces of {folders}: {address} (Ctrl-C ends)"))


async def _serve(config: Config, runs: dict[str, tuple[Config, StoredRun]], announcement: str) -> None:
    async with contextlib.AsyncExitStack() as scorers:
        past = {}
        for name, (own, stored) in runs.items():
            place = _tokenizer_place(own)
            scorer = await _scorer(own, place, stored.reader, scorers)
            past[name] = PastRun(own.run.path, scorer.tokens if scorer else _tokens(place), scorer)
        if len(runs) == 1:  # its store may have other runs, of which no folder was given
            (only,), ((_, stored),) = past.values(), runs.values()
            served = config.model_copy(update={"run": config.run.model_copy(update={"name": stored.name})})
            api = ApiContext(served, stored.reader, scorer=only.scorer, tokens=only.tokens, past={stored.name: only})
        else:
            readers = TraceReaders({name: stored for name, (_, stored) in runs.items()})
            api = ApiContext(config, cast(TraceReader, readers), past=past)
        await http_server(api, announcement=announcement).serve()


def export(config: Config, path: Path, *, images: bool) -> None:
    """Writes the run's traces as a file.

    Args:
        images: with the encoded images.

    Raises:
        ConfigError: the suffix names no format, there is something at `path`, or the run has no traces.
    """
    check_suffix(path)
    if path.exists():
        raise ConfigError(f"{path} is there already; remove it or choose another name")
    name = _recorded_name(config)
    reader = _reader(config, name)
    try:
        table = TraceTable.of(reader, name, RunFolder(config.run.path), config.learner)
        count = export_traces(table, path, images=images)
    finally:
        reader.close()
    log.info("traces_exported", message="Exported traces to a file", traces=count, file=str(path))


def _reader(config: Config, run: str) -> TraceReader:
    store = config.services_path / TRACES
    if config.reward.traces.url is None and not store.is_file():
        hint = f"; runs that shared services have theirs in {config.services_path}" if config.streams.name else ""
        raise ConfigError(f"{config.run.path} has no traces: there is no {store}{hint}")
    reader = TraceReader(open_store(config.reward.traces, config.traces_url, read_only=True))
    if run not in (known := reader.runs()):
        raise ConfigError(f"the trace store has no traces of run {run!r}; it has those of {', '.join(known) or 'none'}")
    return reader


def _config_of(folder: Path) -> Config:
    """A run's, at the place where it is now."""
    return load_config(folder / SETTINGS, place_of(folder)).config


def _recorded_name(config: Config) -> str:
    """A run's name in the store: its folder may have been renamed or copied since."""
    file = config.run.path / SETTINGS
    return load_config(file).config.run.name if file.is_file() else config.run.name


class StoredImages:
    """Images of a trace store, as reward functions see them."""

    def __init__(self, reader: TraceReader) -> None:
        self._reader = reader

    async def get(self, ref: pb.ImageRef) -> bytes:
        """The encoded image.

        Raises:
            BlobMissingError: it was not kept.
        """
        found = await run_in_threadpool(self._reader.image, ref.sha256)
        if found is None:
            raise BlobMissingError(f"image {ref.sha256} is not in the trace store")
        return found.data


async def _scorer(
    config: Config, place: str | None, reader: TraceReader, scorers: contextlib.AsyncExitStack
) -> Scorer | None:
    """By the run's rewards and graders; None where its tokenizer or a reward function is not here."""
    if place is None:
        return None
    found = config.model_copy(update={"model": config.model.model_copy(update={"path": place})})
    try:
        return await scorers.enter_async_context(open_scorer(found, None, StoredImages(reader)))
    except ConfigError as error:
        log.warning("rescoring_unavailable", message="Recorded answers cannot be scored again here", error=str(error))
        return None


def _tokens(place: str | None) -> TokenBytes | None:
    return None if place is None else TokenBytes(AutoTokenizer.from_pretrained(place, local_files_only=True))


def _tokenizer_place(config: Config) -> str | None:
    """Where the tokenizer is: with the policy that the run began with, or a checkpoint of it; None without either."""
    policies = [str(checkpoint / POLICY) for checkpoint in reversed(checkpoints(config.run.path))]
    for place in (config.model.path, *policies):
        try:
            AutoTokenizer.from_pretrained(place, local_files_only=True)
        except (OSError, ValueError) as error:
            log.info("tokenizer_not_found", message="The folder has no tokenizer", folder=place, error=str(error))
        else:
            return place
    log.warning(
        "tokenizer_missing",
        message="The policy's tokenizer was not found; responses are shown without tokens",
        model=config.model.path,
    )
    return None
