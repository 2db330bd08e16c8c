"""Structured logs: one event a line, as JSON, with the service's name and the run's."""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor

from vision_sr1.config import Config
from vision_sr1.runtime.tracing import add_span_fields


def configure_logging(config: Config, service: str) -> None:
    """Sends structlog's events and the standard library's (warnings and worse) to standard error."""
    level = logging.getLevelName(config.metrics.log_level.upper())
    structlog.configure(
        processors=[
            add_span_fields,
            _add_names(service, config.run.name),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _add_names(service: str, run: str) -> Processor:
    def add(_: object, __: str, event: EventDict) -> EventDict:
        return {"service": service, "run": run, **event}

    return add
