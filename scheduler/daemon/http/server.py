"""The HTTP server: health, metrics, the page, the API behind it, and Alertmanager's webhook.

It listens on loopback unless told otherwise. Nothing changes anything without a token (see `access`)."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from scheduler.daemon.http import answers
from scheduler.daemon.http.api import Api, Served, guarded, to_answer
from scheduler.daemon.http.openapi import OPEN, TEXT, WEBHOOK, Route
from scheduler.daemon.http.page import HEADERS, page_routes
from scheduler.daemon.incidents.alert_payloads import MAX_BYTES
from scheduler.model.errors import AuthError, InvalidObjectError, NotFoundError, OverspillError

_BODY_LIMIT_BYTES: Final = MAX_BYTES


class HttpServer:
    """aiohttp on one address and port."""

    def __init__(self, address: str, port: int, served: Served) -> None:
        self._address = address
        self._port = port
        self._served = served
        self._report = served.report
        self._api = Api(served, self._routes())
        self._runner: web.AppRunner | None = None

    def _routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/healthz", "healthz", "Whether loops stay up and cycles come to their end", self._healthz,
                  errors=(503,), access=OPEN, media=TEXT),
            Route("GET", "/readyz", "readyz", "Whether hub and members have been listed", self._readyz,
                  errors=(503,), access=OPEN, media=TEXT),
            Route("GET", "/metrics", "metrics", "For Prometheus", self._metrics, access=OPEN, media=TEXT),
            Route("POST", "/webhooks/alertmanager", "alertmanager", "What Alertmanager tells", self._webhook,
                  answers.Webhook, access=WEBHOOK),
        )  # fmt: skip

    async def start(self) -> str:
        """Listen; the URL. Raises: OverspillError when the port is taken."""
        app = web.Application(client_max_size=_BODY_LIMIT_BYTES, middlewares=[_one_line_errors])
        app.on_response_prepare.append(_lay_headers)
        app.on_shutdown.append(self._shut)
        app.add_routes(page_routes())
        if self._served.shared is not None:
            app.add_routes(self._served.shared.routes())
        for route in self._api.routes:
            app.router.add_route(route.method, route.path, guarded(route, self._served.access))
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
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _shut(self, _app: web.Application) -> None:
        self._served.stream.close()

    async def _healthz(self, _request: web.Request) -> web.Response:
        trouble = self._report.not_healthy()
        return web.Response(text=trouble or "ok", status=503 if trouble else 200)

    async def _readyz(self, _request: web.Request) -> web.Response:
        """Ready once hub and reachable members are synced; a member that does not answer never makes it unready."""
        trouble = self._report.not_ready()
        return web.Response(text=trouble or "ok", status=503 if trouble else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        self._report.refresh_metrics()
        body = self._served.telemetry.expose()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _webhook(self, request: web.Request) -> web.Response:
        """What Alertmanager tells. A standby has it sent to the leader: Alertmanager tries again on 503."""
        try:
            self._served.alerts.check(request.headers.get("Authorization", ""))
        except AuthError as error:
            return to_answer({"error": str(error)}, 401)
        if not self._report.is_leader() and self._report.mode != "shadow":
            return to_answer({"error": "this process is not the leader; try again"}, 503)
        return to_answer({"alerts": self._served.alerts.receive(await request.read())})


async def _lay_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")


@web.middleware
async def _one_line_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        return to_answer({"error": f"{request.method} {request.path[:200]}: {error.reason}"}, error.status)
    except NotFoundError as error:
        return to_answer({"error": str(error)}, 404)
    except InvalidObjectError as error:
        return to_answer({"error": str(error)}, 400)
    except OverspillError as error:
        return to_answer({"error": str(error)}, 503)
    return response
