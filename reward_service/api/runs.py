"""The runs whose traces are in the store: which one is meant, and what its folder says."""

from pathlib import Path

import structlog
from fastapi import HTTPException
from fastapi.concurrency import run_in_threadpool

from reward_service.api.run_folder import RunFolder
from reward_service.store import TraceReader
from vision_sr1.config import Config, ConfigError, LearnerConfig, load_config
from vision_sr1.run_folder.names import SETTINGS

log = structlog.get_logger()


class Runs:
    """The served run, and others whose traces are beside it and whose folders are in the same one.

    Args:
        own: the served run's name in the store.
    """

    def __init__(self, config: Config, reader: TraceReader, own: str) -> None:
        self._config = config
        self._reader = reader
        self._folders: dict[str, RunFolder] = {}
        self._learners: dict[str, LearnerConfig] = {own: config.learner}
        self._own = own

    async def named(self, asked: str | None) -> str:
        """The run asked for; the one that is served where none is.

        Raises:
            HTTPException: 404, no run of that name is known here.
        """
        served = await self.served()
        if asked is None or asked == served:
            return served
        if asked not in (known := await run_in_threadpool(self._reader.runs)):
            raise HTTPException(404, f"no run {asked!r} in this store; it has {', '.join(known) or 'none'}")
        return asked

    async def served(self) -> str:
        """The service's own run; of those that share its streams, the one with the newest trace."""
        if self._own != self._config.streams.name:
            return self._own
        return await run_in_threadpool(self._reader.newest_run) or self._own

    def folder(self, run: str) -> RunFolder:
        """What the run's learner has written."""
        if run not in self._folders:
            self._folders[run] = RunFolder(self._path(run))
        return self._folders[run]

    def learner(self, run: str) -> LearnerConfig:
        """The run's objective; this service's own where the run's settings cannot be read here."""
        if run not in self._learners:
            file = self._path(run) / SETTINGS
            try:
                self._learners[run] = load_config(file).config.learner
            except (ConfigError, OSError) as error:
                log.warning(
                    "settings_of_run_missing",
                    message="The run's settings could not be read; advantages are those of this service's objective",
                    run=run,
                    file=str(file),
                    error=str(error),
                )
                return self._config.learner
        return self._learners[run]

    def _path(self, run: str) -> Path:
        return self._config.run.path if run == self._own else self._config.run.dir / run
