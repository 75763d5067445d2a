"""Posts DNS weights by cluster to a hook of the site's own. Nothing is repeated here: the next look does that.

The body is JSON: `version`, `federation`, `namespace`, `service`, `hostname`, and `weights`, a list of `cluster` and
`weight` (of 1000; clusters that are left out get nothing). It says the whole: the same body may come again.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import aiohttp
import orjson

from scheduler.daemon.config.federation import DnsHook
from scheduler.daemon.incidents.alerts import read_token
from scheduler.model.errors import (
    AuthError,
    ConflictError,
    ExternalError,
    InvalidObjectError,
    NotServedError,
    OutcomeUnknownError,
    RefusedError,
    ThrottledError,
    TransientError,
)
from scheduler.model.ids import ClusterId, WorkloadRef
from scheduler.model.serving import TrafficWeight

_CONNECT_SECONDS: Final = 3.0
_WHOLE_SECONDS: Final = 10.0
_ANSWER_BYTES: Final = 4096
"""Of an answer no more is read, for its words of why it refuses."""
_LONGEST_PAUSE: Final = 3600.0
_VERSION: Final = 1


class Hook(Protocol):
    async def post(self, ref: WorkloadRef, hostname: str, weights: Mapping[ClusterId, int]) -> None:
        """Raises: the typed errors of the model."""
        ...


def by_cluster(weights: Sequence[TrafficWeight]) -> dict[ClusterId, int]:
    """Of all revisions together, clusters with none left out."""
    found: dict[ClusterId, int] = {}
    for one in sorted(weights):
        if one.weight > 0:
            found[one.cluster] = found.get(one.cluster, 0) + one.weight
    return found


class DnsPoster:
    """See `Hook`."""

    def __init__(self, hook: DnsHook, federation: str) -> None:
        """Raises: InvalidObjectError for authorities that cannot be used."""
        self._hook = hook
        self._federation = federation
        self._tls = None if hook.ca_file is None else _tls(hook)

    async def post(self, ref: WorkloadRef, hostname: str, weights: Mapping[ClusterId, int]) -> None:
        """Have them set. Raises: AuthError, RefusedError, ConflictError, NotServedError, ThrottledError,
        TransientError, and OutcomeUnknownError when it was sent and not answered."""
        headers = {
            "Authorization": f"Bearer {read_token(self._hook.token_file)}",
            "Content-Type": "application/json",
            "User-Agent": "overspill",
        }
        limits = aiohttp.ClientTimeout(total=_WHOLE_SECONDS, sock_connect=_CONNECT_SECONDS)
        options: dict[str, Any] = {} if self._tls is None else {"ssl": self._tls}
        try:
            async with (
                aiohttp.ClientSession(timeout=limits, cookie_jar=aiohttp.DummyCookieJar()) as http,
                http.post(
                    self._hook.url,
                    data=self._body(ref, hostname, weights),
                    headers=headers,
                    allow_redirects=False,
                    **options,
                ) as answer,
            ):
                if not 200 <= answer.status < 300:
                    raise _failure(answer, await answer.content.read(_ANSWER_BYTES))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise TransientError(f"dnsWeights: cannot connect ({type(error).__name__})", code="Unreachable") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise OutcomeUnknownError(f"dnsWeights: sent, but not answered ({type(error).__name__})") from error

    def _body(self, ref: WorkloadRef, hostname: str, weights: Mapping[ClusterId, int]) -> bytes:
        return orjson.dumps(
            {
                "version": _VERSION,
                "federation": self._federation,
                "namespace": ref.namespace,
                "service": ref.name,
                "hostname": hostname,
                "weights": [{"cluster": cluster, "weight": weight} for cluster, weight in sorted(weights.items())],
            }
        )


def _failure(answer: aiohttp.ClientResponse, body: bytes) -> ExternalError:
    """With the hook's own words, on one line."""
    status = answer.status
    words = " ".join("".join(char if char.isprintable() else " " for char in body.decode(errors="replace")).split())
    text = f"dnsWeights: HTTP {status}" + (f": {words[:200]}" if words else "")
    code = str(status)
    if status in (401, 403):
        return AuthError(f"{text}; check tokenFile", code=code)
    if status == 404:
        return NotServedError(f"{text}; check the URL and its path", code=code)
    if status == 409:
        return ConflictError(text, code=code)
    if status == 429:
        return ThrottledError(text, code=code, retry_after_seconds=_retry_after(answer.headers.get("Retry-After", "")))
    if 300 <= status < 400:
        return RefusedError(f"{text}; a redirect, which is not followed: write the final URL", code=code)
    return RefusedError(text, code=code) if 400 <= status < 500 and status != 408 else TransientError(text, code=code)


def _retry_after(text: str) -> float | None:
    return min(float(text), _LONGEST_PAUSE) if text.isascii() and text.isdigit() and len(text) < 8 else None


def _tls(hook: DnsHook) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=hook.ca_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InvalidObjectError(f"dnsWeights.caFile: {hook.ca_file} cannot be used") from error
