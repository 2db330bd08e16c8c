"""One trace for a prompt's way through all services, in the form of W3C's trace context (`traceparent`).

It travels with the prompt. Whatever a service logs while it works on a prompt has the trace's id; at log level debug it
logs each operation too. With `metrics.otlp_endpoint` the operations are also exported as OpenTelemetry spans.
"""

import contextlib
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import structlog
from structlog.typing import EventDict

from vision_sr1.config import Config

log = structlog.get_logger()

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_exporting: Any = None  # the process' tracer, once configured
# One variable, for every rollout sets it: structlog's own has one per field.
_fields: ContextVar[Mapping[str, str]] = ContextVar("vision_sr1_span", default=MappingProxyType({}))


def configure_tracing(config: Config, service: str) -> None:
    """Exports spans from now on, if the configuration names where to."""
    global _exporting
    if config.metrics.otlp_endpoint is None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource({"service.name": service, "vision_sr1.run": config.run.name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(config.metrics.otlp_endpoint)))
    _exporting = provider.get_tracer("vision_sr1")


def new_traceparent(name: str, **fields: str) -> str:
    """The context of a new trace, which begins with a span of this name."""
    if _exporting is None:
        return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    with _exporting.start_as_current_span(name, attributes=_attributes(fields)) as begun:
        context = begun.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


@contextlib.contextmanager
def span(name: str, traceparent: str, **fields: str) -> Iterator[None]:
    """An operation of a trace: what is logged within has its id and these fields."""
    started = time.monotonic()
    outer = _fields.set({**_fields.get(), "trace_id": trace_id(traceparent), **fields})
    try:
        with contextlib.nullcontext() if _exporting is None else _exported(name, traceparent, fields):
            yield
        log.debug(name, seconds=round(time.monotonic() - started, 4))
    finally:
        _fields.reset(outer)


def add_span_fields(_: object, __: str, event: EventDict) -> EventDict:
    """Processor of structlog: an event within spans has their fields."""
    for name, value in _fields.get().items():
        event.setdefault(name, value)
    return event


def trace_id(traceparent: str) -> str:
    """The trace's id, 32 hexadecimal digits; empty where there is no trace."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1] if match else ""


def _exported(name: str, traceparent: str, fields: dict[str, str]) -> contextlib.AbstractContextManager[Any]:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
    exported: contextlib.AbstractContextManager[Any] = _exporting.start_as_current_span(
        name, context=context, attributes=_attributes(fields)
    )
    return exported


def _attributes(fields: dict[str, str]) -> dict[str, str]:
    return {f"vision_sr1.{name}": value for name, value in fields.items()}
