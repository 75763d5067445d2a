"""The HTTP session under prometheus-api-client: bounded in time and bytes, no redirects, errors typed.

The client (0.7) is given this session because of what it does by itself: it repeats requests three times with pauses,
follows redirects with our headers, reads answers of any size, sends the query in the URL even by POST, puts whole
answers into its errors, and of an answer hands on `data.result` alone: without status, warnings or the type of the
result. Here an answer is read and checked as a whole, and stands where the client looks for `data.result`.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.util.retry import Retry

from clusters.metrics._answers import Answer, error_of_body, parse_answer
from scheduler.model.errors import (
    AuthError,
    ExternalError,
    NotServedError,
    RefusedError,
    ThrottledError,
    TransientError,
)

_CHUNK: Final = 64 << 10
_ERROR_BYTES: Final = 64 << 10
"""Of the body of a refusal, no more is read."""

_SHORTEST_SECRET: Final = 6


@dataclass(frozen=True, slots=True)
class Bounds:
    connections: int
    answer_bytes: int
    total_seconds: float
    """For one whole request, a trickling answer included."""


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """What the client takes for a response."""

    answer: Answer
    status_code: int = 200

    def json(self) -> dict[str, Any]:
        return {"data": {"result": self.answer}}


class BoundedSession(requests.Session):
    """Raises the typed errors of `scheduler.model.errors` instead of any of its own."""

    def __init__(self, bounds: Bounds, fresh_headers: Callable[[], Mapping[str, str]]) -> None:
        super().__init__()
        self._bounds = bounds
        self._fresh_headers = fresh_headers
        # No netrc, no proxies or certificates looked up in the environment at each request.
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def prepared_for(self, url: str) -> None:
        """Once the client has mounted its own adapter: ours in its place, and the environment's proxy."""
        self.proxies = dict(get_environ_proxies(url, no_proxy=None))
        self.mount(url, HTTPAdapter(max_retries=Retry(0, read=False), pool_maxsize=self._bounds.connections))

    def request(self, method: str, url: str, **options: Any) -> Any:  # type: ignore[override]
        """A checked answer to one query. Redirects are not followed: they would carry our credentials elsewhere."""
        ends_at = time.monotonic() + self._bounds.total_seconds
        if method == "POST":
            options["data"] = options.pop("params", None)
        own = self._fresh_headers()
        options["headers"] = {**(options.get("headers") or {}), **own}
        try:
            with super().request(method, url, **{**options, "stream": True, "allow_redirects": False}) as response:
                secrets = _secrets(response.request.headers, own)
                try:
                    return WholeAnswer(_clean_answer(self._answer(response, ends_at), secrets))
                except ExternalError as error:
                    error.args = (_without(str(error), secrets),)
                    raise
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _failure(error) from error

    def _answer(self, response: requests.Response, ends_at: float) -> Answer:
        if response.status_code != 200:
            raise _refusal(response, self._body(response, _ERROR_BYTES, ends_at, cut=True))
        return parse_answer(self._body(response, self._bounds.answer_bytes, ends_at))

    def _body(self, response: requests.Response, most: int, ends_at: float, *, cut: bool = False) -> bytes:
        """At most `most` bytes, decompressed; more is an error unless it may be `cut`."""
        parts: list[bytes] = []
        size = 0
        # One read of the socket at a time: a larger read would go on for as long as a trickle does.
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            parts.append(chunk)
            size += len(chunk)
            if size > most:
                if cut:
                    break
                raise TransientError(f"answers with more than {most} bytes; narrow the query", code="TooLarge")
            if time.monotonic() > ends_at:
                raise TransientError(f"no whole answer within {self._bounds.total_seconds:g} s", code="Timeout")
        return b"".join(parts)[:most]


def _secrets(sent: Mapping[str, str], own: Mapping[str, str]) -> tuple[str, ...]:
    """What no answer may make us repeat, though it repeats it to us: what was sent to log in."""
    authorization = sent.get("Authorization", "")
    found = [authorization, authorization.partition(" ")[2], *own.values()]
    if authorization.startswith("Basic "):
        with contextlib.suppress(ValueError):
            found.append(base64.b64decode(found[1]).decode().partition(":")[2])
    return tuple(sorted((secret for secret in found if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True))


def _without(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _clean_answer(answer: Answer, secrets: Sequence[str]) -> Answer:
    return replace(answer, warnings=tuple(_without(warning, secrets) for warning in answer.warnings))


def _refusal(response: requests.Response, body: bytes) -> ExternalError:
    status = response.status_code
    said = error_of_body(body)
    text = f"HTTP {status}" + (f": {said}" if said else "")
    code = str(status)
    if 300 <= status < 400:
        target = urlsplit(response.headers.get("Location", "")).hostname or "the same host"
        return RefusedError(f"{text}: redirects to {target}, which is not followed; write the final URL", code=code)
    if status in (401, 403):
        return AuthError(f"{text}: not logged in or not permitted; check the credentials", code=code)
    if status in (404, 405):
        return NotServedError(f"{text}: no query API there; check the URL and its path", code=code)
    if status == 429:
        return ThrottledError(text, code=code, retry_after_seconds=_retry_after(response))
    if status in (400, 413, 414, 422):
        return RefusedError(text, code=code)
    return TransientError(text, code=code)


def _retry_after(response: requests.Response) -> float | None:
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal() and len(value) < 7:
        return float(value)
    try:
        at = parsedate_to_datetime(value)
        sent = parsedate_to_datetime(response.headers.get("Date", ""))
        return max(0.0, (at - sent).total_seconds())
    except (TypeError, ValueError):
        return None


def _failure(error: Exception) -> ExternalError:
    """In our own words: those of the libraries repeat URLs, proxies and headers."""
    if isinstance(error, requests.ConnectTimeout):
        return TransientError("no connection in time", code="Timeout")
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return TransientError("no answer in time", code="Timeout")
    if isinstance(error, requests.exceptions.SSLError | urllib3.exceptions.SSLError):
        return TransientError(f"TLS failed ({_root(error)}); check the CA and the certificate", code="TLS")
    if isinstance(error, requests.exceptions.ProxyError):
        return TransientError("the proxy failed", code="Proxy")
    if isinstance(error, requests.exceptions.ConnectionError):
        return TransientError(f"cannot connect ({_root(error)})", code="Connect")
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return TransientError(f"cannot be asked ({error.strerror or type(error).__name__})", code="OSError")
    return TransientError(f"request failed ({type(error).__name__})", code=type(error).__name__)


def _root(error: BaseException) -> str:
    """The operating system's word for it, at the bottom of the chain; else the type."""
    found = type(error).__name__
    current: BaseException | None = error
    for _ in range(20):
        if current is None:
            break
        if isinstance(current, OSError) and current.strerror:
            found = current.strerror
        inside = (*current.args, getattr(current, "reason", None))
        current = next(
            (arg for arg in inside if isinstance(arg, BaseException)), current.__cause__ or current.__context__
        )
    return found
