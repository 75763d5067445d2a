"""One trace for each workload, from when it is queued to when it runs; and how it goes to a collector."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from scheduler.daemon.learning.runs import RunStarted
from scheduler.daemon.parts import Daemon
from scheduler.daemon.telemetry.otel import Spans, open_spans
from scheduler.daemon.telemetry.traces import Part, Trace, TraceBook, trace_id
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Uid
from tests.loop.harness import World, a_world, until
from tests.loop.test_crash_safety import only_in_the_cloud
from tests.unit import engine_world

A_TRACE = Trace(1 << 100, 7, Part("workload", 1.0, 4.0, {"overspill.queue": "q"}), (Part("queue wait", 1.0, 3.0),))


@asynccontextmanager
async def a_traced_daemon(world: World, exporter: InMemorySpanExporter) -> AsyncIterator[Daemon]:
    async with world.outside() as outside:
        spans = Spans(exporter, "test", at_once=True)
        daemon = Daemon(replace(outside, export_trace=spans.export), shadow=False)
        task = asyncio.ensure_future(daemon.run())
        try:
            yield daemon
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await spans.close()


async def test_each_workload_has_one_trace_from_submit_to_running(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    with structlog.testing.capture_logs() as lines:
        async with a_world(tmp_path) as world, a_traced_daemon(world, exporter):
            plain = (await world.submit("plain"))["metadata"]["uid"]
            burst = (await world.submit("burst", **only_in_the_cloud()))["metadata"]["uid"]
            await until(lambda: world.all_done("plain", "burst"), "complete")
    spans = exporter.get_finished_spans()
    assert {_trace(span) for span in spans} == {trace_id(Uid(plain)), trace_id(Uid(burst))}
    told = {uid: [span for span in spans if _trace(span) == trace_id(Uid(uid))] for uid in (plain, burst)}
    assert _names(told[plain]) == ["copy", "decision", "placement", "queue wait", "start", "workload"]
    assert set(_names(told[burst])) == set(_names(told[plain])) | {"provisioning"}
    for uid, mine in told.items():
        [root] = [span for span in mine if span.parent is None]
        assert root.name == "workload"
        assert _of(root)["overspill.workload.uid"] == uid
        assert all(span.parent.span_id == _id(root) for span in mine if span.parent is not None)
        assert all((span.start_time or 0) <= (span.end_time or 0) for span in mine)
        decisions = {_of(span)["overspill.decision.id"] for span in mine if span.name == "decision"}
        assert _of(root)["overspill.decision.id"] in decisions
        logged = {line["id"] for line in lines if line["event"] == "decision" and line["outcome"] != "held"}
        assert decisions <= logged, "the log names them alike"
    [bought] = [span for span in told[burst] if span.name == "provisioning"]
    assert (bought.end_time or 0) - (bought.start_time or 0) > 60e9, "a machine takes minutes"


async def test_lines_that_are_logged_while_a_decision_is_carried_out_name_it(tmp_path: Path) -> None:
    seen: list[Mapping[str, Any]] = []
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, lambda _, __, line: _keep(seen, line)])
    try:
        async with a_world(tmp_path) as world, world.daemon():
            await world.submit("one")
            await until(lambda: world.is_done("one"), "complete")
            await until(lambda: any(line["event"] == "delete_copy" for line in seen), "its copy is deleted")
    finally:
        structlog.reset_defaults()
    [placed] = [line["id"] for line in seen if line["event"] == "decision" and line["outcome"] == "placed"]
    assert {line["decision"] for line in seen if line["event"] == "delete_copy"} == {placed}


def test_a_leader_that_took_over_meanwhile_tells_what_is_still_known() -> None:
    told: list[Trace] = []
    placed = engine_world.placement("eks", "spot", decided_at=160.0)
    run = engine_world.workload("run", queued_at=100.0, created_at=100.0, placement=placed)
    copy = engine_world.copy_of(run, created_at=165.0, started_at=170.0)
    book = TraceBook(lambda uid: (copy,), told.append)
    book.started(RunStarted(run, placed, 170.0, bought_seconds=50.0))
    [trace] = told
    assert (trace.root.began, trace.root.ended) == (100.0, 170.0)
    want = [("queue wait", 100.0, 120.0), ("provisioning", 120.0, 160.0), ("start", 165.0, 170.0)]
    assert [(part.name, part.began, part.ended) for part in trace.parts] == want


async def test_spans_reach_a_collector_over_otlp_http() -> None:
    got: list[ExportTraceServiceRequest] = []
    headers: list[str] = []

    async def receive(request: web.Request) -> web.Response:
        headers.append(request.headers["Content-Type"])
        got.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(body=b"", content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    spans = open_spans(f"http://{host}:{port}", "fleet", {})
    assert spans is not None
    spans.export(A_TRACE)
    await spans.close()
    await runner.cleanup()
    assert headers == ["application/x-protobuf"]
    [resource] = got[0].resource_spans
    assert {"service.name", "overspill.federation"} <= {one.key for one in resource.resource.attributes}
    names = {span.name: span for span in resource.scope_spans[0].spans}
    assert set(names) == {"workload", "queue wait"}
    assert names["workload"].trace_id == (1 << 100).to_bytes(16)
    assert names["queue wait"].parent_span_id == names["workload"].span_id == (7).to_bytes(8)
    assert names["queue wait"].end_time_unix_nano - names["queue wait"].start_time_unix_nano == 2 * 10**9


def test_without_an_endpoint_there_are_no_traces_and_without_the_sdk_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert open_spans(None, "fleet", {}) is None
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InvalidObjectError, match=r"install overspill\[otel\]"):
        open_spans(None, "fleet", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})


def _keep(seen: list[Mapping[str, Any]], line: Mapping[str, Any]) -> Any:
    seen.append(dict(line))
    raise structlog.DropEvent


def _names(spans: list[ReadableSpan]) -> list[str]:
    return sorted(span.name for span in spans)


def _of(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def _trace(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


def _id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)
