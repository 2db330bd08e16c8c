"""Spans go to a real OTLP endpoint, joined to the trace that travels with the prompt."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from vision_sr1.runtime.tracing import new_traceparent, trace_id

WORK = """
import sys
from vision_sr1.config import load_config
from vision_sr1.runtime.logs import configure_logging
from vision_sr1.runtime.tracing import configure_tracing, new_traceparent, span
options = [f"metrics.otlp_endpoint={sys.argv[1]}", "metrics.log_level=debug"]
config = load_config(None, options, environment={}).config
configure_logging(config, "actors")
configure_tracing(config, "actors")
traceparent = new_traceparent("issue", prompt="0/7")
with span("answer", traceparent, prompt="0/7"):
    pass
print(traceparent)
"""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", received
    server.shutdown()
    server.server_close()


def test_spans_are_exported_under_the_prompts_trace(collector):
    url, received = collector
    done = subprocess.run([sys.executable, "-c", WORK, url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    traceparent = done.stdout.strip()
    found = {
        span.name: (span, resource.resource)
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert found.keys() == {"issue", "answer"}
    issue, answer = found["issue"][0], found["answer"][0]
    assert issue.trace_id.hex() == answer.trace_id.hex() == trace_id(traceparent)
    assert answer.parent_span_id == issue.span_id
    attributes = {a.key: a.value.string_value for a in (*answer.attributes, *found["answer"][1].attributes)}
    assert attributes["vision_sr1.prompt"] == "0/7"
    assert attributes["service.name"] == "actors"
    (line,) = [json.loads(line) for line in done.stderr.splitlines() if '"answer"' in line]
    assert (line["trace_id"], line["prompt"], line["service"]) == (trace_id(traceparent), "0/7", "actors")


def test_without_a_collector_a_trace_is_an_id_and_nothing_more():
    one, other = new_traceparent("issue"), new_traceparent("issue")
    assert len(trace_id(one)) == 32
    assert trace_id(one) != trace_id(other)
    assert trace_id("nonsense") == trace_id("") == ""
