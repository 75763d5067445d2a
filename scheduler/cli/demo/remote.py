"""The two HTTP APIs that the demo steers by: the sandbox's control API and the daemon's status."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, TypeVar

import aiohttp
import orjson
from pydantic import ValidationError

from scheduler.cli.api import ExplainReply, Reply, StatusReply
from scheduler.cli.demo.service_day import ServiceDay, read_day
from scheduler.cli.output import CommandError
from scheduler.model.errors import NotFoundError, TransientError
from scheduler.model.ids import Instant

_ReplyT = TypeVar("_ReplyT", bound=Reply)
_TIMEOUT: Final = aiohttp.ClientTimeout(total=15, sock_connect=2)


class StateReply(Reply):
    """The sandbox's GET /state, as far as the demo needs it."""

    next_event_at: float | None = None
    quiet_wall_seconds: float
    busy: bool = False
    """There is work in hand that belongs to the present."""


class BillReply(Reply):
    """The sandbox's GET /bill."""

    total_usd: Decimal


class Remote:
    """Both APIs over one session; `close` it."""

    def __init__(self, *, control_url: str, control_token: str, daemon_url: str) -> None:
        self._control = control_url.rstrip("/")
        self._daemon = daemon_url.rstrip("/")
        self._token = {"Authorization": f"Bearer {control_token}"}
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT)

    async def state(self) -> StateReply:
        """Raises: TransientError when the sandbox does not answer."""
        return _parse(StateReply, await self._call("GET", f"{self._control}/state", self._token), "the sandbox's state")

    async def leap(self, to: Instant) -> None:
        """Set the clock forward to `to`, or to the sandbox's next event if that is earlier."""
        await self._call("POST", f"{self._control}/leap", self._token, {"to": to})

    async def hold(self, at: Instant | None) -> None:
        """Let time run on to `at` and stand still there; None: let it run."""
        await self._call("POST", f"{self._control}/hold", self._token, {"at": at})

    async def bill_usd(self) -> Decimal:
        """What the emulated clouds charge so far."""
        return _parse(BillReply, await self._call("GET", f"{self._control}/bill", self._token), "the bill").total_usd

    async def service_day(self) -> ServiceDay | None:
        """What the clients of the service saw; None: none is under load, or the sandbox does not answer."""
        try:
            return read_day(await self._call("GET", f"{self._control}/services", self._token))
        except TransientError:
            return None
        except (KeyError, TypeError, ValueError) as error:
            raise CommandError(f"the sandbox's services are not understood: {error!r}") from error

    async def status(self) -> StatusReply | None:
        """Of the daemon; None while it does not listen yet."""
        try:
            answer = await self._call("GET", f"{self._daemon}/api/v1/status", {})
        except TransientError:
            return None
        return _parse(StatusReply, answer, "the daemon's status")

    async def explain(self, workload: str) -> ExplainReply | None:
        """Why a workload is where it is; None when the daemon cannot tell."""
        try:
            answer = await self._call("GET", f"{self._daemon}/api/v1/explain", {}, query={"workload": workload})
        except (TransientError, NotFoundError):
            return None
        return _parse(ExplainReply, answer, "the explanation")

    async def close(self) -> None:
        await self._session.close()

    async def _call(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Any = None,
        query: dict[str, str] | None = None,
    ) -> Any:
        try:
            data = None if body is None else orjson.dumps(body)
            sent = headers | ({"Content-Type": "application/json"} if data else {})
            async with self._session.request(method, url, headers=sent, data=data, params=query) as response:
                raw = await response.read()
                if response.status == 404:
                    raise NotFoundError(f"{method} {url}: not found")
                if response.status >= 400:
                    text = raw[:200].decode(errors="replace")
                    raise TransientError(f"{method} {url} answered HTTP {response.status}: {text}")
                return orjson.loads(raw)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TransientError(f"{method} {url}: {error or type(error).__name__}") from error
        except orjson.JSONDecodeError as error:
            raise CommandError(f"{method} {url} answered something else than JSON") from error


def _parse(model: type[_ReplyT], answer: Any, what: str) -> _ReplyT:
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        raise CommandError(f"{what} is not understood: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
