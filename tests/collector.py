"""An OTLP collector on loopback: takes traces over HTTP, as protobuf, and keeps their spans."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Seen:
    """A span as it arrived; times are epoch seconds."""

    process: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    began: float
    ended: float
    attributes: dict[str, str]
    linked: tuple[str, ...] = ()  # traces


@dataclass
class Collector:
    """What has come so far."""

    url: str
    spans: list[Seen] = field(default_factory=list)

    def trace_of(self, job_id: str) -> list[Seen]:
        """All spans of the trace in which a job was done; none before its span has come."""
        spans = list(self.spans)
        ids = {one.trace_id for one in spans if one.name == "job" and one.attributes["seemly.job.id"] == job_id}
        return [one for one in spans if one.trace_id in ids]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            collector.spans.extend(_seen_in(sent))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _seen_in(sent: ExportTraceServiceRequest) -> Iterator[Seen]:
    for resource in sent.resource_spans:
        named = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            yield Seen(
                process=named["service.name"],
                name=span.name,
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                began=span.start_time_unix_nano / 1e9,
                ended=span.end_time_unix_nano / 1e9,
                linked=tuple(link.trace_id.hex() for link in span.links),
                attributes={pair.key: str(pair.value.string_value or pair.value.int_value) for pair in span.attributes},
            )
