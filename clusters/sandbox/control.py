"""The sandbox's own HTTP API: look at the emulated federation, let its time leap, read its bill, strike faults."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clusters.sandbox.emulation.billing import Charge, total
from clusters.sandbox.scenario import FaultPlan
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant

_BODY_BYTES: Final = 64 * 1024
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Controlled(Protocol):
    """What the control API acts upon."""

    def state(self) -> dict[str, Any]: ...

    def leap(self, to: Instant) -> Instant: ...

    def hold(self, at: Instant | None) -> None: ...

    def charges(self) -> tuple[Charge, ...]: ...

    def services(self) -> dict[str, Any]: ...

    def strike(self, fault: FaultPlan) -> None: ...

    def request_stop(self) -> None: ...


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Leap(_Body):
    to: float = Field(allow_inf_nan=False)


class _Hold(_Body):
    at: float | None = Field(allow_inf_nan=False)


class _Fault(_Body):
    cluster: str
    kind: str
    node: str = ""
    pool: str = ""
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    factor: float = Field(default=1.0, gt=0, le=1000)
    code: int = Field(default=79, ge=1, le=999)


@dataclass(slots=True)
class ControlApi:
    """Routes over one sandbox; every request needs the bearer token."""

    sandbox: Controlled
    token: str

    def application(self) -> web.Application:
        app = web.Application(client_max_size=_BODY_BYTES, middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/state", self._state),
                web.get("/bill", self._bill),
                web.get("/services", self._services),
                web.post("/leap", self._leap),
                web.post("/hold", self._hold),
                web.post("/faults", self._faults),
                web.post("/stop", self._stop),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
            return _answer({"error": "unauthorized: send the sandbox's control token as a bearer token"}, 401)
        try:
            return await handler(request)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "body"
            return _answer({"error": f"{place}: {first['msg']}"}, 400)
        except InvalidObjectError as error:
            return _answer({"error": str(error)}, 400)

    async def _state(self, request: web.Request) -> web.Response:
        return _answer(self.sandbox.state())

    async def _services(self, request: web.Request) -> web.Response:
        return _answer({"services": self.sandbox.services()})

    async def _leap(self, request: web.Request) -> web.Response:
        wanted = _Leap.model_validate_json(await request.read())
        return _answer({"now": self.sandbox.leap(wanted.to)})

    async def _hold(self, request: web.Request) -> web.Response:
        wanted = _Hold.model_validate_json(await request.read())
        self.sandbox.hold(wanted.at)
        return _answer({"at": wanted.at})

    async def _bill(self, request: web.Request) -> web.Response:
        charges = self.sandbox.charges()
        machines = [
            {
                "cluster": charge.cluster,
                "node": charge.node,
                "uid": charge.uid,
                "pool": charge.pool,
                "capacity_type": charge.capacity_type,
                "usd_per_hour": str(charge.usd_per_hour),
                "created_at": charge.created_at,
                "deleted_at": charge.deleted_at,
                "usd": str(charge.usd),
            }
            for charge in charges
        ]
        return _answer({"machines": machines, "total_usd": str(total(charges))})

    async def _faults(self, request: web.Request) -> web.Response:
        fault = _Fault.model_validate_json(await request.read())
        self.sandbox.strike(FaultPlan(at_seconds=0.0, **fault.model_dump()))
        return _answer({"struck": fault.kind}, 202)

    async def _stop(self, request: web.Request) -> web.Response:
        self.sandbox.request_stop()
        return _answer({"stopping": True}, 202)


def _answer(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
