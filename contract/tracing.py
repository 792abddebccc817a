"""Traces of jobs over OTLP, from the request to every stage of every picture. Off unless an address is set.

    POST /generate                   the gateway's answer
      └ accept                       into Redis; the job carries this span's `traceparent` (W3C Trace Context)
          └ job                      on the worker, from its start to its commit
              ├ queue                from its acceptance to its start
              ├ picture              room, text, denoise, turn, decode, judge
              ├ store
              └ commit

Spans carry ids, modes and outcomes; no prompt, no tenant, no user.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Tracer
    from opentelemetry.trace import Span as OpenSpan

Kind = Literal["internal", "server", "producer", "consumer"]
Attributes = Mapping[str, str | int | float | bool]
NOTHING: Attributes = {}


class TracingUnavailable(RuntimeError):
    """Traces are asked for where the extra `tracing` is not installed."""


@dataclass(frozen=True)
class Span:
    """A stretch of time; times are epoch seconds, now where none is given. Without tracing it is nothing at all."""

    _tracer: "Tracer | None" = None
    _span: "OpenSpan | None" = None

    @property
    def traceparent(self) -> str | None:
        """How another process names this span as its own's parent."""
        if self._span is None:
            return None
        at = self._span.get_span_context()
        return f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}"

    def child(
        self, name: str, began: float | None = None, kind: Kind = "internal", attributes: Attributes = NOTHING
    ) -> "Span":
        """Begin a span within this one."""
        if self._tracer is None or self._span is None:
            return self
        from opentelemetry.trace import set_span_in_context

        return Span(self._tracer, _begun(self._tracer, name, set_span_in_context(self._span), began, kind, attributes))

    def end(self, ended: float | None = None, name: str | None = None, attributes: Attributes = NOTHING) -> None:
        """The span is over; what came out of it."""
        if self._span is not None:
            if name is not None:
                self._span.update_name(name)
            self._span.set_attributes(dict(attributes))
            self._span.end(_ns(ended))


OFF = Span()


@dataclass(frozen=True)
class Tracing:
    """One process's end of the traces."""

    _tracer: "Tracer | None" = None
    close: Callable[[], None] = lambda: None  # sends what is left, a few seconds at most

    @classmethod
    def open(cls, url: str | None, process: str, share: float = 1.0) -> Self:
        """Send to `url`/v1/traces; without one, nothing. `share` of the traces that begin here are kept.

        Raises:
            TracingUnavailable: the extra `tracing` is not installed.
        """
        if url is None:
            return cls()
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
        except ModuleNotFoundError as error:
            raise TracingUnavailable("traces need the extra: pip install 'seemly[tracing]'") from error
        provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(share),
            resource=Resource.create({"service.name": f"seemly-{process}"}),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces", timeout=5)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider.get_tracer("seemly"), provider.shutdown)

    def begin(
        self,
        name: str,
        parent: str | None,
        began: float | None = None,
        kind: Kind = "internal",
        attributes: Attributes = NOTHING,
        *,
        is_trusted: bool = True,
    ) -> Span:
        """Begin a span within the one that `parent` names; one that cannot be read, or none, begins a trace.

        A stranger's `parent` is linked and not followed: it would decide by its flag, or by its id, what is kept.
        """
        if self._tracer is None:
            return OFF
        from opentelemetry.context import Context
        from opentelemetry.trace import Link, get_current_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": parent} if parent else {}, Context())
        if is_trusted:
            return Span(self._tracer, _begun(self._tracer, name, context, began, kind, attributes))
        at = get_current_span(context).get_span_context()
        links = [Link(at)] if at.is_valid else []
        return Span(self._tracer, _begun(self._tracer, name, Context(), began, kind, attributes, links))


def _begun(
    tracer: "Tracer",
    name: str,
    context: object,
    began: float | None,
    kind: Kind,
    attributes: Attributes,
    links: Sequence["Link"] = (),
) -> "OpenSpan":
    from opentelemetry.trace import SpanKind

    return tracer.start_span(
        name,
        context,  # type: ignore[arg-type]  # a Context, which this file does not import where tracing is off
        kind=SpanKind[kind.upper()],
        attributes=dict(attributes),
        links=links,
        start_time=_ns(began),
    )


def _ns(moment: float | None) -> int:
    return round((time.time() if moment is None else moment) * 1e9)
