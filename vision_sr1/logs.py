"""Structured logs: one event a line, as JSON, with the service's name and the run's."""

import logging
import sys

import structlog

from vision_sr1.config import Config


def configure_logging(config: Config, service: str) -> None:
    """Sends structlog's events and the standard library's (warnings and worse) to standard error."""
    level = logging.getLevelName(config.metrics.log_level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service, run=config.run.name)
