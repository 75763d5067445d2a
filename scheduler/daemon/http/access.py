"""Who may look and who may throw switches over HTTP.

Looking is free for who comes over loopback, from this machine and by its name; everybody else brings a bearer token,
and so does everybody who wants to change anything. A token is the one of `listen.tokenFile`, or one that the hub knows
(TokenReview) of a user who may do the like there (SubjectAccessReview): to look, list Jobs in all namespaces; to throw
switches, patch the ConfigMap that they are kept in.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from clusters.kubernetes.reviews import Exchange, Wanted, may_do, who_is
from scheduler.daemon.incidents.alerts import read_token
from scheduler.model.errors import AuthError, ExternalError, OverspillError

log = structlog.get_logger(__name__)
_LARGEST_TOKEN: Final = 16_384
_ASKED_AT_ONCE: Final = 4
_ASKED_AT_MOST: Final = 64
_ASK_SECONDS: Final = 10.0
_KNOWN_AT_MOST: Final = 256
_GOOD_SECONDS: Final = 60.0
_BAD_SECONDS: Final = 5.0
_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
LOOK: Final = Wanted("list", "batch", "jobs")


class DeniedError(OverspillError):
    """`status`: 401 who are you, 403 you may not, 503 it cannot be said now."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Caller:
    """What a request says of who sends it."""

    address: str
    """Of the other end of the connection."""
    host: str
    """The Host header: by which name it came, with or without a port."""
    authorization: str
    forwarded: bool
    """A proxy stands between: who is at the other end of the connection says nothing."""

    @property
    def is_local(self) -> bool:
        """From this machine, by its loopback name: a page of elsewhere whose name was turned to 127.0.0.1 comes with
        its own (DNS rebinding)."""
        return not self.forwarded and _is_loopback(self.address) and _name_of(self.host) in _LOOPBACK_NAMES


class Access:
    """Belongs to the event loop."""

    def __init__(self, hub: Exchange, token_file: Path | None, throw: Wanted, clock: Callable[[], float]) -> None:
        """`throw`: what one who throws switches must be allowed to do on the hub. `clock`: monotonic seconds."""
        self._hub = hub
        self._token_file = token_file
        self._throw = throw
        self._clock = clock
        self._turns = asyncio.Semaphore(_ASKED_AT_ONCE)
        self._asking = 0
        self._known: dict[bytes, tuple[float, str | DeniedError]] = {}

    async def reader(self, caller: Caller) -> str:
        """Who looks. Raises: DeniedError."""
        if caller.is_local and not caller.authorization:
            return "local"
        token = _token_of(caller)
        key = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        until, known = self._known.get(key, (0.0, ""))
        if self._clock() >= until:
            known = await self._answer(token)
            self._known.pop(key, None)
            while len(self._known) >= _KNOWN_AT_MOST:
                del self._known[next(iter(self._known))]
            lasts = _GOOD_SECONDS if isinstance(known, str) else _BAD_SECONDS
            self._known[key] = self._clock() + lasts, known
        if isinstance(known, DeniedError):
            raise DeniedError(known.status, str(known))
        return known

    async def writer(self, caller: Caller) -> str:
        """Who wants to throw a switch; asked anew each time. Raises: DeniedError."""
        return await self._who_may(_token_of(caller), self._throw)

    async def _answer(self, token: str) -> str | DeniedError:
        try:
            return await self._who_may(token, LOOK)
        except DeniedError as error:
            if error.status == 503:
                raise
            return error

    async def _who_may(self, token: str, wanted: Wanted) -> str:
        if self._is_ours(token):
            return "token"
        if self._asking >= _ASKED_AT_MOST:
            raise DeniedError(503, "too many callers are being looked up; try again")
        self._asking += 1
        try:
            async with self._turns, asyncio.timeout(_ASK_SECONDS):
                user = await who_is(self._hub, token)
                allowed = user is not None and await may_do(self._hub, user, wanted)
        except AuthError as error:
            log.warning("callers_cannot_be_looked_up", error=str(error)[:300])
            raise DeniedError(503, "the hub does not let Overspill ask who callers are; see docs/page.md") from error
        except (ExternalError, TimeoutError) as error:
            raise DeniedError(503, "the hub cannot be asked who you are; try again") from error
        finally:
            self._asking -= 1
        if user is None:
            raise DeniedError(401, "the hub does not know that token; `kubectl create token ACCOUNT` makes one")
        if not allowed:
            raise DeniedError(403, f"{user.name[:200]} may not {wanted} on the hub")
        return user.name

    def _is_ours(self, token: str) -> bool:
        if self._token_file is None:
            return False
        try:
            ours = read_token(self._token_file)
        except AuthError as error:
            log.warning("token_file", error=str(error))
            return False
        return hmac.compare_digest(token.encode("utf-8", "surrogateescape"), ours.encode())


def _token_of(caller: Caller) -> str:
    scheme, _, token = caller.authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise DeniedError(401, "send a bearer token; see docs/page.md for where to get one")
    if len(token) > _LARGEST_TOKEN:
        raise DeniedError(401, "that is no bearer token")
    return token


def _name_of(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
