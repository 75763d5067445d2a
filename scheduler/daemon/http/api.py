"""The versioned API under /api/v1: its routes, and what answers them."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

import orjson
import structlog
from aiohttp import web
from pydantic import BaseModel, ValidationError

from scheduler.daemon.gathering.shared import SharedRoutes
from scheduler.daemon.http import answers
from scheduler.daemon.http.access import Access, Caller, DeniedError
from scheduler.daemon.http.openapi import READ, SSE, WRITE, Handler, Parameter, Route, description
from scheduler.daemon.http.status import StatusReport
from scheduler.daemon.http.stream import LISTENERS_AT_MOST, DecisionStream
from scheduler.daemon.incidents.alerts import AlertBook
from scheduler.daemon.incidents.control import BURSTING_PAUSED, PAUSED, Control, approval
from scheduler.daemon.incidents.incident_views import IncidentViews
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.errors import AuthError, ExternalError, InvalidObjectError

log = structlog.get_logger(__name__)
WORKLOADS_AT_MOST: Final = 5000
_SENT_BYTES: Final = 4096
_STREAM_SECONDS: Final = 1800.0
"""Then the listener comes again, and is looked at again."""
_QUIET_SECONDS: Final = 15.0
_TOGETHER_SECONDS: Final = 0.25
_GONE_SECONDS: Final = 1.0
"""How soon it is noticed that a listener has gone."""
_WRITE_SECONDS: Final = 10.0
_PROXY_HEADERS: Final = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
_SentT = TypeVar("_SentT", bound=BaseModel)
_caller: ContextVar[str] = ContextVar("caller")
"""Who sends the request in hand."""
_TEXT: Final[dict[str, Any]] = {"type": "string", "maxLength": 600}


@dataclass(frozen=True, slots=True)
class Served:
    """What the HTTP server tells of, and who may ask it."""

    report: StatusReport
    telemetry: Telemetry
    alerts: AlertBook
    incidents: IncidentViews
    control: Control
    stream: DecisionStream
    access: Access
    shared: SharedRoutes | None = None
    """What is gathered here for the other replicas; None: nothing."""


class Api:
    """Handlers over the daemon's parts."""

    def __init__(self, served: Served, more: tuple[Route, ...]) -> None:
        """`more`: what is served beside it, to be described with it."""
        self._served = served
        self._report = served.report
        self._incidents = served.incidents
        self.routes = (*more, *self._reads(), *self._writes())

    def _reads(self) -> tuple[Route, ...]:
        cluster = Parameter("cluster", _TEXT, "Of this member only.")
        metric = Parameter("metric", _TEXT, "This metric only.")
        queue = Parameter("queue", _TEXT, "Of this queue only.")
        limit = Parameter("limit", {"type": "integer", "minimum": 1, "maximum": WORKLOADS_AT_MOST}, "How many at most.")
        which = Parameter("workload", _TEXT, "kind/namespace/name, namespace/name or name.", required=True)
        days = Parameter("days", {"type": "number"}, "Those of so many past days instead of those of now.")
        name = Parameter("name", _TEXT, "Its name.", "path")
        seen = Parameter("Last-Event-ID", _TEXT, "The last event that was seen: go on after it.", "header")
        return (
            _get("status", "status", "Clusters, queues, budgets and spend as they are now", self._status,
                 answers.Status),
            _get("workloads", "workloads", "Workloads, unfinished first, oldest first", self._workloads,
                 answers.Workloads, queue, limit, errors=(400,)),
            _get("decisions", "decisions", "The newest decisions, one a workload", self._decisions, answers.Decisions),
            _get("explain", "explain", "Why a workload is where it is, what it costs and what else there was",
                 self._explain, answers.Explanation, which, errors=(400, 404)),
            _get("clusters", "clusters", "Members in short", self._clusters, answers.Clusters),
            _get("clusters/{name}", "cluster", "One member, its pools and its cloud", self._cluster,
                 answers.ClusterDetail, name, errors=(404,)),
            _get("prices", "prices", "What nodes and traffic cost, and who says so", self._prices, answers.Prices),
            _get("metrics", "readings", "What metrics say now", self._readings, answers.Readings, cluster, metric,
                 errors=(404,)),
            _get("incidents", "incidents", "Incidents, what is done about them, and the switches", self._all_incidents,
                 answers.Incidents, days, errors=(404,)),
            _get("incidents/{name}", "incident", "One incident and what was done about it", self._incident,
                 answers.IncidentDetail, name, errors=(404,)),
            Route("GET", "/api/v1/events", "events", "Decisions as they are taken: events `decision` (data: "
                  "StreamedDecision) and `missed` (how many a slow listener was not told of)", self._events,
                  answers.StreamedDecision, (seen,), errors=(503,), media=SSE),
            _get("openapi.json", "openapi", "This description", self._openapi, None),
        )  # fmt: skip

    def _writes(self) -> tuple[Route, ...]:
        name = Parameter("name", _TEXT, "Its id.", "path")
        return (
            Route("POST", "/api/v1/switches", "switch", "Pause or resume remediation or the buying of capacity",
                  self._switch, answers.Switched, body=answers.SwitchesSent, errors=(409,), access=WRITE),
            Route("POST", "/api/v1/incidents/{name}/approve", "approve", "Let an action be taken for an incident",
                  self._approve, answers.Switched, (name,), answers.ApprovalSent, errors=(404, 409), access=WRITE),
        )  # fmt: skip

    # -- reading ---------------------------------------------------------------------------------------------------

    async def _status(self, _request: web.Request) -> web.Response:
        return to_answer(self._report.status())

    async def _workloads(self, request: web.Request) -> web.Response:
        said = request.query.get("limit", str(WORKLOADS_AT_MOST))
        limit = int(said) if said.isascii() and said.isdigit() and len(said) < 6 else 0
        if not 1 <= limit <= WORKLOADS_AT_MOST:
            return to_answer({"error": f"limit={said[:40]!r} is no number from 1 to {WORKLOADS_AT_MOST}"}, 400)
        found, total = self._report.workloads(request.query.get("queue", ""), limit)
        return to_answer({"workloads": found, "total": total})

    async def _decisions(self, _request: web.Request) -> web.Response:
        return to_answer({"decisions": self._report.latest_decisions(50)})

    async def _explain(self, request: web.Request) -> web.Response:
        name = request.query.get("workload", "")
        if not name or len(name) > 600:
            return to_answer({"error": "say which: ?workload=kind/namespace/name, namespace/name or name"}, 400)
        found = await self._report.explain(name)
        if found is None:
            return to_answer({"error": f"no workload {name!r} is known; `overspill status` lists the queues"}, 404)
        return to_answer(found)

    async def _clusters(self, _request: web.Request) -> web.Response:
        return to_answer(self._report.gathered.clusters())

    async def _cluster(self, request: web.Request) -> web.Response:
        return to_answer(self._report.gathered.cluster(request.match_info["name"]))

    async def _prices(self, _request: web.Request) -> web.Response:
        return to_answer(self._report.gathered.prices())

    async def _readings(self, request: web.Request) -> web.Response:
        cluster, metric = request.query.get("cluster", ""), request.query.get("metric", "")
        return to_answer(self._report.gathered.metrics(cluster, metric))

    async def _all_incidents(self, request: web.Request) -> web.Response:
        """Those of now; with `days` those of the past."""
        days = request.query.get("days")
        if days is not None:
            return to_answer(await self._incidents.past(days))
        return to_answer(self._incidents.incidents())

    async def _incident(self, request: web.Request) -> web.Response:
        return to_answer(await self._incidents.incident(request.match_info["name"]))

    @cached_property
    def described(self) -> dict[str, Any]:
        """The OpenAPI description."""
        return description(self.routes)

    async def _openapi(self, _request: web.Request) -> web.Response:
        return to_answer(self.described)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        stream = self._served.stream
        if stream.closed or stream.listeners >= LISTENERS_AT_MOST:
            headers = {"Retry-After": "30"}
            return to_answer({"error": f"{LISTENERS_AT_MOST} listen already; try again later"}, 503, headers)
        stream.listeners += 1
        try:
            return await self._tell(request, stream)
        finally:
            stream.listeners -= 1

    async def _tell(self, request: web.Request, stream: DecisionStream) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": SSE, "Cache-Control": "no-store"})
        await response.prepare(request)
        place = stream.place(request.headers.get("Last-Event-ID", "")[:64])
        clock = asyncio.get_running_loop().time
        ends_at = clock() + _STREAM_SECONDS
        await response.write(b"retry: 3000\n\n")
        while not stream.closed and clock() < ends_at:
            news = stream.news
            told, newest, missed = stream.since(place)
            lines = [f"event: missed\ndata: {missed}\n\n"] if missed else []
            lines += [
                f"id: {stream.event_id(newest - len(told) + 1 + number)}\nevent: decision\n"
                f"data: {orjson.dumps(each).decode()}\n\n"
                for number, each in enumerate(told)
            ]
            place = newest
            try:
                async with asyncio.timeout(_WRITE_SECONDS):
                    await response.write("".join(lines).encode() or b": quiet\n\n")
            except (TimeoutError, ConnectionError):
                return response
            if await _waited(news, request, min(_QUIET_SECONDS, ends_at - clock())):
                # What comes at once is told at once, and nobody is told more than four times a second.
                await asyncio.sleep(_TOGETHER_SECONDS)
            elif _is_gone(request):
                return response
        return response

    # -- writing ---------------------------------------------------------------------------------------------------

    async def _switch(self, request: web.Request) -> web.Response:
        sent = await _sent(request, answers.SwitchesSent)
        wanted = {PAUSED: sent.paused, BURSTING_PAUSED: sent.bursting_paused}
        data = {key: "true" if value else "false" for key, value in wanted.items() if value is not None}
        if not data:
            raise InvalidObjectError("nothing to switch; send paused or bursting_paused, true or false")
        return await self._throw(data)

    async def _approve(self, request: web.Request) -> web.Response:
        sent = await _sent(request, answers.ApprovalSent)
        incident = request.match_info["name"]
        data = approval(incident, sent.action)
        await self._incidents.incident(incident)
        return await self._throw(data)

    async def _throw(self, data: dict[str, str]) -> web.Response:
        if self._report.mode == "shadow":
            return to_answer({"error": "shadow mode writes nothing; run with --mode active"}, 409)
        who = _caller.get()
        try:
            now = await self._served.control.throw(data)
        except AuthError as error:
            log.warning("switches_not_written", error=str(error)[:300])
            return to_answer({"error": "the hub does not let Overspill write the switches; see docs/page.md"}, 503)
        except (ExternalError, TimeoutError) as error:
            said = str(error)[:200] or "no answer"
            return to_answer({"error": f"the switches could not be written ({said}); look, and try again"}, 503)
        log.info("switches_thrown", by=who, **{key.replace("-", "_").replace(".", "_"): data[key] for key in data})
        told = {"paused": now.paused, "bursting_paused": now.bursting_paused, "error": now.error, "by": who}
        return to_answer(told)


async def _waited(news: asyncio.Event, request: web.Request, seconds: float) -> bool:
    """Whether news came within so many seconds; gives up as soon as the listener is gone."""
    clock = asyncio.get_running_loop().time
    due = clock() + seconds
    while clock() < due and not _is_gone(request):
        try:
            async with asyncio.timeout(min(_GONE_SECONDS, due - clock())):
                await news.wait()
        except TimeoutError:
            continue
        return True
    return False


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def guarded(route: Route, access: Access) -> Handler:
    """The route's handler, for those who may."""
    asks = {READ: access.reader, WRITE: access.writer}.get(route.access)
    if asks is None:
        return route.handler

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            _caller.set(await asks(caller_of(request)))
        except DeniedError as error:
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
            return to_answer({"error": str(error)}, error.status, headers)
        return await route.handler(request)

    return handle


def caller_of(request: web.Request) -> Caller:
    return Caller(
        request.remote or "",
        request.headers.get("Host", ""),
        request.headers.get("Authorization", ""),
        any(header in request.headers for header in _PROXY_HEADERS),
    )


def to_answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json", headers=headers)


def _get(
    path: str,
    name: str,
    summary: str,
    handler: Handler,
    answer: type[BaseModel] | None,
    *parameters: Parameter,
    errors: tuple[int, ...] = (),
) -> Route:
    return Route("GET", f"/api/v1/{path}", name, summary, handler, answer, parameters, errors=errors)


async def _sent(request: web.Request, model: type[_SentT]) -> _SentT:
    """The request's body. Raises: InvalidObjectError, one line."""
    if request.content_type != "application/json":
        raise InvalidObjectError("send Content-Type: application/json")
    if (request.content_length or 0) > _SENT_BYTES:
        raise InvalidObjectError(f"the body is larger than {_SENT_BYTES} bytes")
    body = await request.content.read(_SENT_BYTES + 1)
    while len(body) <= _SENT_BYTES and not request.content.at_eof():
        body += await request.content.read(_SENT_BYTES + 1 - len(body))
    if len(body) > _SENT_BYTES:
        raise InvalidObjectError(f"the body is larger than {_SENT_BYTES} bytes")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:60] or "the body"
        raise InvalidObjectError(f"{place}: {first['msg'][:200]}") from error
