"""Sends traces over OTLP/HTTP by the OpenTelemetry SDK, which is optional and loaded only where an endpoint is set.

Everything but the endpoint (headers, certificates, sampling, the service's name) is set by the SDK's own environment
variables, `OTEL_*`. Export is on a thread of its own with a bounded queue: a collector that is away costs spans only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from scheduler.daemon.telemetry.traces import Part, Trace
from scheduler.model.errors import InvalidObjectError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

log = structlog.get_logger(__name__)
_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PARTING_SECONDS: Final = 3.0
_NANO: Final = 1_000_000_000


class Spans:
    """Where traces go."""

    def __init__(self, exporter: SpanExporter, federation: str, *, at_once: bool = False) -> None:
        """`at_once`: each span by itself and in the caller's thread, for tests."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

        self._ids = _ids()
        named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "overspill"}
        resource = Resource.create({**named, "overspill.federation": federation})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(SimpleSpanProcessor(exporter) if at_once else BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("overspill")

    def export(self, trace: Trace) -> None:
        """Queue its spans."""
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        self._ids.trace_id, self._ids.root_id = trace.trace_id, trace.root_id
        root = self._start(trace.root, Context())
        below = set_span_in_context(root, Context())
        for part in trace.parts:
            self._start(part, below).end(_ns(part.ended))
        root.end(_ns(max(trace.root.ended, trace.root.began)))

    def _start(self, part: Part, context: Context) -> Span:
        return self._tracer.start_span(part.name, context, attributes=part.attributes, start_time=_ns(part.began))

    async def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        done = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        done.start()
        for _ in range(int(_PARTING_SECONDS / 0.05)):
            if not done.is_alive():
                return
            await asyncio.sleep(0.05)
        log.warning("traces_not_flushed", seconds=_PARTING_SECONDS)


def open_spans(endpoint: str | None, federation: str, environment: Mapping[str, str]) -> Spans | None:
    """None where no endpoint is set: `endpoint` (a base URL; traces go to /v1/traces below it) or the environment's.

    Raises: InvalidObjectError where one is set and the SDK is not installed.
    """
    if endpoint is None and not any(environment.get(name) for name in _VARIABLES):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExporter  # noqa: F401
    except ModuleNotFoundError as error:
        raise InvalidObjectError(
            f"traces: an endpoint is set, but {error.name} is not installed: install overspill[otel], or unset it"
        ) from error
    # Its own lines are no JSON; what they say is told below.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    url = None if endpoint is None else f"{endpoint.rstrip('/')}/v1/traces"
    return Spans(told(OTLPSpanExporter(endpoint=url)), federation)


def _ids() -> Any:
    """Random ones, but for the next trace and its root, which are given."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Given(RandomIdGenerator):
        trace_id = 0
        root_id = 0

        def generate_trace_id(self) -> int:
            return self.trace_id

        def generate_span_id(self) -> int:
            given, self.root_id = self.root_id, 0
            return given or super().generate_span_id()

    return Given()


def told(exporter: SpanExporter) -> SpanExporter:
    """The exporter, with a line in the log when it begins to fail and when it works again."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Told(SpanExporter):
        fails = False

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            try:
                result = exporter.export(spans)
            except Exception as error:  # noqa: BLE001  (on a thread of the SDK's, which would print a traceback)
                log.warning("traces_not_exported", error=str(error)[:200])
                return SpanExportResult.FAILURE
            failed = result is not SpanExportResult.SUCCESS
            if failed != self.fails:
                self.fails = failed
                (log.warning if failed else log.info)("traces_not_exported" if failed else "traces_exported_again")
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return exporter.force_flush(timeout_millis)

    return Told()


def _ns(seconds: float) -> int:
    return int(seconds * _NANO)
