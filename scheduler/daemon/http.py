"""Health, metrics, the read API, and Alertmanager's webhook, which alone brings anything in and needs a token.

It listens on loopback unless told otherwise."""

from __future__ import annotations

from typing import Any, Final

import orjson
from aiohttp import web

from scheduler.daemon.alert_payloads import MAX_BYTES
from scheduler.daemon.alerts import AlertBook
from scheduler.daemon.incident_views import IncidentViews
from scheduler.daemon.status import StatusReport
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.errors import AuthError, InvalidObjectError, NotFoundError, OverspillError

_BODY_LIMIT_BYTES: Final = MAX_BYTES
_WORKLOADS_AT_MOST: Final = 5000


class HttpServer:
    """aiohttp on one address and port."""

    def __init__(
        self,
        address: str,
        port: int,
        report: StatusReport,
        telemetry: Telemetry,
        alerts: AlertBook,
        incidents: IncidentViews,
    ) -> None:
        self._address = address
        self._port = port
        self._report = report
        self._telemetry = telemetry
        self._alerts = alerts
        self._incidents = incidents
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Listen; the URL. Raises: OverspillError when the port is taken."""
        app = web.Application(client_max_size=_BODY_LIMIT_BYTES, middlewares=[_one_line_errors])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/api/v1/status", self._status),
                web.get("/api/v1/workloads", self._workloads),
                web.get("/api/v1/decisions", self._decisions),
                web.get("/api/v1/explain", self._explain),
                web.get("/api/v1/clusters", self._clusters),
                web.get("/api/v1/clusters/{name}", self._cluster),
                web.get("/api/v1/prices", self._prices),
                web.get("/api/v1/metrics", self._readings),
                web.get("/api/v1/incidents", self._all_incidents),
                web.get("/api/v1/incidents/{name}", self._incident),
                web.post("/webhooks/alertmanager", self._webhook),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._address, self._port)
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            raise OverspillError(
                f"cannot listen on {self._address}:{self._port} ({error.strerror or error}); set spec.listen.port"
            ) from error
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _healthz(self, _request: web.Request) -> web.Response:
        trouble = self._report.not_healthy()
        return web.Response(text=trouble or "ok", status=503 if trouble else 200)

    async def _readyz(self, _request: web.Request) -> web.Response:
        """Ready once hub and reachable members are synced; a member that does not answer never makes it unready."""
        trouble = self._report.not_ready()
        return web.Response(text=trouble or "ok", status=503 if trouble else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        self._report.refresh_metrics()
        return web.Response(body=self._telemetry.expose(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _status(self, _request: web.Request) -> web.Response:
        return _json(self._report.status())

    async def _workloads(self, request: web.Request) -> web.Response:
        queue = request.query.get("queue", "")
        return _json({"workloads": self._report.workloads(queue, _WORKLOADS_AT_MOST)})

    async def _decisions(self, _request: web.Request) -> web.Response:
        return _json({"decisions": self._report.latest_decisions(50)})

    async def _explain(self, request: web.Request) -> web.Response:
        name = request.query.get("workload", "")
        if not name or len(name) > 600:
            return _json({"error": "say which: ?workload=kind/namespace/name, namespace/name or name"}, 400)
        found = await self._report.explain(name)
        if found is None:
            return _json({"error": f"no workload {name!r} is known; `overspill status` lists the queues"}, 404)
        return _json(found)

    async def _clusters(self, _request: web.Request) -> web.Response:
        return _json(self._report.gathered.clusters())

    async def _cluster(self, request: web.Request) -> web.Response:
        return _json(self._report.gathered.cluster(request.match_info["name"]))

    async def _prices(self, _request: web.Request) -> web.Response:
        return _json(self._report.gathered.prices())

    async def _readings(self, request: web.Request) -> web.Response:
        cluster, metric = request.query.get("cluster", ""), request.query.get("metric", "")
        return _json(self._report.gathered.metrics(cluster, metric))

    async def _all_incidents(self, request: web.Request) -> web.Response:
        """Those of now; with `days` those of the past."""
        days = request.query.get("days")
        if days is not None:
            return _json(await self._incidents.past(days))
        return _json(self._incidents.incidents())

    async def _incident(self, request: web.Request) -> web.Response:
        return _json(await self._incidents.incident(request.match_info["name"]))

    async def _webhook(self, request: web.Request) -> web.Response:
        """What Alertmanager tells. A standby has it sent to the leader: Alertmanager tries again on 503."""
        try:
            self._alerts.check(request.headers.get("Authorization", ""))
        except AuthError as error:
            return _json({"error": str(error)}, 401)
        if not self._report.is_leader() and self._report.mode != "shadow":
            return _json({"error": "this process is not the leader; try again"}, 503)
        body = await request.read()
        try:
            return _json({"alerts": self._alerts.receive(body)})
        except InvalidObjectError as error:
            return _json({"error": str(error)}, 400)


@web.middleware
async def _one_line_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        return _json({"error": f"{request.method} {request.path[:200]}: {error.reason}"}, error.status)
    except NotFoundError as error:
        return _json({"error": str(error)}, 404)
    except OverspillError as error:
        return _json({"error": str(error)}, 503)
    return response


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
