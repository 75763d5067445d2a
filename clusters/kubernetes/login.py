"""A way to a Kubernetes API by short-lived tokens: a `log_in` (a cloud's) gives the server, its CA and a token.

The token is renewed well before its end of life, once for all who wait, and after a 401; while the old one is good,
nobody waits for the new one, and a renewal that fails changes nothing. Times are of the wall clock: tokens live by it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import structlog
from kubernetes.aio.client.configuration import Configuration

from clusters.clock import SystemClock
from clusters.kubernetes.connection import REJECTED_PAUSE_SECONDS, Limits, Session, short
from clusters.kubernetes.credentials import Credentials
from scheduler.model.cloud import ClusterLogin
from scheduler.model.errors import AuthError, ExternalError, InvalidObjectError, TransientError

log = structlog.get_logger(__name__)
_LOGIN_SECONDS: Final = 60.0
"""Longest that `log_in` may take; longer than the SDKs' own limits."""
_MARGIN_SECONDS: Final = 300.0
"""A token is renewed this long before its end, or when two thirds of its life are over, whichever is later."""
_EXPIRED_SECONDS: Final = 5.0
"""A token this near to its end counts as expired: a request takes time, and clocks differ."""

LogIn = Callable[[], Awaitable[ClusterLogin]]


class LoginConnection:
    """See `connection.Way`. Asks nothing before the first `authorization`, so that a silent cloud holds nobody up."""

    def __init__(
        self, name: str, log_in: LogIn, limits: Limits, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._log_in = log_in
        self._limits = limits
        self._monotonic = monotonic
        self.base_url = ""
        self.session: aiohttp.ClientSession
        self.request_options: dict[str, Any] = {}
        self._rest: Session | None = None
        self._ca_pem = b""
        self._token = ""
        self._renew_at = self._expires_at = self._tried_at = float("-inf")
        self._renewal: asyncio.Task[None] | None = None
        self._failure: ExternalError | InvalidObjectError | None = None
        self._refused = self._closed = False

    async def authorization(self) -> str:
        """The value of the Authorization header.

        Raises: what `log_in` raises (typed), when there is no token that is still good; TransientError when it hangs.
        """
        if self._monotonic() >= self._renew_at:
            self._begin_renewal()
        if self._renewal is not None and (self._refused or not self._good):
            await asyncio.shield(self._renewal)
        if not self._good:
            raise self._failure or AuthError(f"cluster {self._name}: the cloud's token has expired")
        return f"Bearer {self._token}"

    def rejected(self) -> None:
        """The API said 401: log in anew before the next call (not more than once in ten seconds)."""
        self._renew_at = float("-inf")
        self._refused = True

    def credentials(self) -> Credentials:
        """See `connection.Way`."""
        left = self._expires_at - self._monotonic()
        ends_at = SystemClock().now() + left if self._token else None
        return Credentials("login by the cloud", ends_at, renewed=True)

    async def close(self) -> None:
        self._closed = True
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        if self._rest is not None:
            await self._rest.close()

    @property
    def _good(self) -> bool:
        return bool(self._token) and self._monotonic() < self._expires_at - _EXPIRED_SECONDS

    def _begin_renewal(self) -> None:
        """One at a time, apart from whoever asked for it: a caller that gives up must not end it for the others."""
        if self._renewal is None and not self._closed and self._monotonic() >= self._tried_at + REJECTED_PAUSE_SECONDS:
            self._tried_at = self._monotonic()
            self._renewal = asyncio.get_running_loop().create_task(self._renew(), name=f"log in: {self._name}")

    async def _renew(self) -> None:
        try:
            async with asyncio.timeout(_LOGIN_SECONDS):
                login = await self._log_in()
            self._accept(login)
            self._failure = None
        except TimeoutError:
            self._fail(TransientError(f"cluster {self._name}: no login within {_LOGIN_SECONDS:.0f} s", code="Timeout"))
        except (ExternalError, InvalidObjectError) as error:
            self._fail(error)
        finally:
            self._renewal = None

    def _fail(self, error: ExternalError | InvalidObjectError) -> None:
        self._failure = error
        log.warning("login_failed", cluster=self._name, error=str(error)[:300], still_good=self._good)

    def _accept(self, login: ClusterLogin) -> None:
        """Use it from now on. Raises: InvalidObjectError when it leads nowhere; then the one before stays."""
        parts = urlsplit(login.server)
        if parts.scheme != "https" or not parts.hostname:
            raise InvalidObjectError(
                f"cluster {self._name}: the cloud names server {login.server!r:.200}, no https URL"
            )
        if not login.token or login.lifetime_seconds <= 0:
            raise AuthError(f"cluster {self._name}: the cloud gave no token that lives", code="NoToken")
        try:
            self._trust(login)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            text = f"cluster {self._name}: the CA certificate that the cloud gave cannot be used ({short(error)})"
            raise InvalidObjectError(text) from error
        self.base_url = login.server.rstrip("/")
        now = self._monotonic()
        life = login.lifetime_seconds
        self._token, self._refused = login.token, False
        self._expires_at = now + life
        self._renew_at = now + max(life - _MARGIN_SECONDS, life * 2 / 3)

    def _trust(self, login: ClusterLogin) -> None:
        """Open the session at the first login; later ones may bring a new CA (clouds rotate them) beside the old."""
        authority = login.ca_pem.decode("ascii")
        if self._rest is None:
            configuration = Configuration()
            configuration.retries = None
            configuration.host = login.server
            configuration.ca_cert_data = authority or None
            self._rest = Session.prepared(configuration, self._limits)
            self.session = self._rest.open()
            self.request_options = self._rest.request_options
        elif authority and login.ca_pem != self._ca_pem:
            self._rest.ssl_context.load_verify_locations(cadata=authority)
        self._ca_pem = login.ca_pem
