"""After the run: its traces served from the store, read-only, with nothing else running; or written to a file."""

import asyncio
from pathlib import Path

import structlog
from transformers import AutoTokenizer

from reward_service.api import ApiContext, http_server
from reward_service.api.run_folder import RunFolder
from reward_service.api.security import check_closed
from reward_service.api.table import TraceTable
from reward_service.export import check_suffix, export_traces
from reward_service.store import TraceReader, open_store
from vision_sr1.config import Config, ConfigError
from vision_sr1.prompting.response import TokenBytes
from vision_sr1.run_folder.checkpoints import POLICY, checkpoints
from vision_sr1.run_folder.names import TRACES

log = structlog.get_logger()


def serve_traces(config: Config, recorded_as: str | None = None) -> None:
    """Serves the API until SIGTERM or SIGINT.

    Args:
        recorded_as: the run's name in the store; default: the name that it has.

    Raises:
        ConfigError: the run has no traces, or the API would be open to all.
    """
    check_closed(config)
    reader = _reader(config, recorded_as or config.run.name)
    context = ApiContext(config=config, reader=reader, tokens=_tokens(config), recorded_as=recorded_as)
    server = http_server(context)
    try:
        asyncio.run(server.serve())
    finally:
        reader.close()


def export(config: Config, path: Path, recorded_as: str | None = None, *, images: bool) -> None:
    """Writes the run's traces as a file.

    Args:
        recorded_as: as in `serve_traces`.
        images: with the encoded images.

    Raises:
        ConfigError: the suffix names no format, there is something at `path`, or the run has no traces.
    """
    check_suffix(path)
    if path.exists():
        raise ConfigError(f"{path} is there already; remove it or choose another name")
    name = recorded_as or config.run.name
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


def _tokens(config: Config) -> TokenBytes | None:
    """By the tokenizer of the policy that the run began with, or that a checkpoint of it holds; None without either."""
    policies = [str(checkpoint / POLICY) for checkpoint in reversed(checkpoints(config.run.path))]
    for place in (config.model.path, *policies):
        try:
            return TokenBytes(AutoTokenizer.from_pretrained(place, local_files_only=True))
        except (OSError, ValueError) as error:
            log.info("tokenizer_not_found", message="The folder has no tokenizer", folder=place, error=str(error))
    log.warning(
        "tokenizer_missing",
        message="The policy's tokenizer was not found; responses are shown without tokens",
        model=config.model.path,
    )
    return None
