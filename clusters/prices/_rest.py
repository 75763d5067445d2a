"""Reads JSON from an HTTP API, within bounds: one attempt, no redirects, time limits, a largest answer, typed errors.

Numbers with a point become Decimal, so that money stays exact; NaN and Infinity are refused.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import ssl
import urllib.request
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NoReturn

import aiohttp
from yarl import URL

from scheduler.model.errors import (
    AuthError,
    ExternalError,
    InvalidObjectError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    TransientError,
)
from scheduler.model.ports import Clock

_REFUSED: Final = frozenset({400, 405, 406, 410, 414, 422})
_MESSAGE_LENGTH: Final = 300
_ERROR_BYTES: Final = 65_536
_CHUNK_BYTES: Final = 65_536
_LONGEST_WAIT_SECONDS: Final = 86_400.0


class JsonApi:
    """One HTTP API. Nothing secret belongs into its URLs: they are named in errors; headers are not."""

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        connect_seconds: float,
        read_seconds: float,
        most_bytes: int,
        ca_file: Path | None = None,
        auth_words: Iterable[str] = (),
    ) -> None:
        """`auth_words`: words in an error's body that mean wrong credentials, whatever the status.

        Raises: InvalidObjectError for an unusable `ca_file`.
        """
        self._name = name
        self._clock = clock
        self._most_bytes = most_bytes
        self._auth_words = tuple(auth_words)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds, sock_read=read_seconds)
        self._limit_seconds = 2 * (connect_seconds + read_seconds) + 1.0
        self._tls = tls_context(name, ca_file)
        self._session: aiohttp.ClientSession | None = None

    async def get(self, action: str, url: URL, headers: Mapping[str, str] | None = None) -> bytes:
        """The body of the answer to a GET. `action` names the call in errors.

        Raises: ThrottledError, AuthError, NotFoundError, RefusedError, TransientError.
        """
        place = f"{self._name}: {action}"
        try:
            async with asyncio.timeout(self._limit_seconds):
                return await self._get(place, url, headers)
        except TimeoutError as error:
            raise TransientError(f"{place}: no answer within the time limits", code="Timeout") from error
        except (aiohttp.ClientError, ssl.SSLError, OSError) as error:
            text = f"{place}: {type(error).__name__}: {_one_line(str(error))}"
            raise TransientError(text, code=type(error).__name__) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _get(self, place: str, url: URL, headers: Mapping[str, str] | None) -> bytes:
        if self._session is None:  # needs the running loop, which a constructor does not have
            connector = aiohttp.TCPConnector(ssl=self._tls, limit=4)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                headers={"User-Agent": "overspill"},
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,  # it would send what ~/.netrc holds, too
            )
        proxy = _proxy(url)
        async with self._session.get(url, headers=headers, allow_redirects=False, proxy=proxy) as response:
            most = self._most_bytes if response.status == 200 else _ERROR_BYTES
            body = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                body += chunk
                if len(body) > most:
                    break
            if response.status != 200:
                raise self._error(place, response, bytes(body[:most]))
            if len(body) > most:
                raise TransientError(f"{place}: the answer is longer than {most} bytes", code="TooLarge")
            return bytes(body)

    def _error(self, place: str, response: aiohttp.ClientResponse, body: bytes) -> ExternalError:
        status = response.status
        text = f"{place}: HTTP {status}: {_message(body)}"
        code = str(status)
        if status == 429:
            wait = _retry_after(response.headers.get("Retry-After"), self._clock)
            return ThrottledError(text, code=code, retry_after_seconds=wait)
        if status in (401, 403) or any(word.encode() in body for word in self._auth_words):
            return AuthError(text, code=code)
        if status in (404,):
            return NotFoundError(text, code=code)
        if 300 <= status < 400:
            return RefusedError(f"{place}: HTTP {status}: redirected elsewhere; look at its URL setting", code=code)
        return RefusedError(text, code=code) if status in _REFUSED else TransientError(text, code=code)


def tls_context(name: str, ca_file: Path | None) -> ssl.SSLContext:
    """Trusts `ca_file`, else the system's authorities. Raises: InvalidObjectError naming the file."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidObjectError(f"{name}: caFile {ca_file}: {error}; give a file of PEM certificates") from error


def parse_object(body: bytes | str, place: str) -> dict[str, Any]:
    """The JSON object in `body`. Raises: TransientError naming `place` for anything else."""
    try:
        parsed = json.loads(body, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, ArithmeticError, RecursionError) as error:
        reason = _one_line(str(error))
        raise TransientError(f"{place}: the answer is not JSON ({reason})", code="Malformed") from error
    if not isinstance(parsed, dict):
        raise TransientError(f"{place}: the answer is no JSON object", code="Malformed")
    return parsed


def objects(value: object, place: str) -> list[dict[str, Any]]:
    """`value` when it is a list of JSON objects. Raises: TransientError naming `place`."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise TransientError(f"{place}: the answer has no list where one belongs", code="Malformed")
    return value


def base_url(name: str, text: str) -> URL:
    """An http or https URL without a trailing slash, query or credentials. Raises: InvalidObjectError."""
    try:
        url = URL(text)
        usable = url.scheme in ("http", "https") and url.host and not url.user and not url.password
    except ValueError:
        usable = False
    if not usable or url.query_string or url.fragment:
        raise InvalidObjectError(f"{name}: its URL is none such as https://host[:port][/path], without credentials")
    return URL(text.rstrip("/"))


def read_secret(name: str, path: Path) -> str:
    """The one line in a file of a key or token. Raises: AuthError naming the file, never its content."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AuthError(f"{name}: {path}: {type(error).__name__}; cannot be read", code="NoCredentials") from error
    if not text or not text.isascii() or not text.isprintable():
        raise AuthError(f"{name}: {path}: should hold one line, the key or token alone", code="NoCredentials")
    return text


def _proxy(url: URL) -> str | None:
    """The proxy that the environment (HTTPS_PROXY, NO_PROXY and the like) names for `url`."""
    if not url.host or urllib.request.proxy_bypass(url.host):
        return None
    return urllib.request.getproxies().get(url.scheme)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _message(body: bytes) -> str:
    """What an error answer says: the `message` of its `error` (in any case) where it has one, else its beginning."""
    text = body.decode("utf-8", "replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return _one_line(text)
    detail = {key.lower(): value for key, value in parsed.items()} if isinstance(parsed, dict) else {}
    inner = detail.get("error", detail)
    if isinstance(inner, dict):
        inner = {key.lower(): value for key, value in inner.items()}.get("message", "")
    return _one_line(str(inner))


def _one_line(text: str) -> str:
    return " ".join("".join(one if one.isprintable() else " " for one in text[:_MESSAGE_LENGTH]).split())


def _retry_after(text: str | None, clock: Clock) -> float | None:
    """Seconds, from a number of them or an HTTP date (RFC 9110, 10.2.3); None: not said."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), _LONGEST_WAIT_SECONDS)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    until = (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()
    return min(max(0.0, until - clock.now()), _LONGEST_WAIT_SECONDS)
