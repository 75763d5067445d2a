"""Direct scrape: the pages of exporters, where a member has no Prometheus. Parsed by prometheus-client.

A rate needs two scrapes: the counters of the one before are kept, per page, and for as long as the source lives.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import aiohttp
from pydantic import Field, model_validator

from clusters.metrics._credentials import Headers, header_values, read_secret
from clusters.metrics._pages import Page, family_names, parse_page
from clusters.metrics._samples import Asked, short
from clusters.metrics._scraped import Point, counters_of, points_of, rows_of
from clusters.metrics._settings import HttpUrl, MetricsSettings, NearbyPath
from clusters.providers._blocking import BlockingCalls
from scheduler.model.errors import (
    AuthError,
    ExternalError,
    InvalidObjectError,
    NotServedError,
    RefusedError,
    ThrottledError,
    TransientError,
)
from scheduler.model.ids import ClusterId, Instant
from scheduler.model.metrics import MetricQuery, MetricsSource, Reading
from scheduler.model.ports import Clock

_ACCEPT: Final = "text/plain;version=0.0.4, application/openmetrics-text;version=1.0.0;q=0.8, text/plain;q=0.5"
_CHUNK: Final = 64 << 10
_NEAR_SECONDS: Final = 1.0
"""Two scrapes nearer to each other than this make no rate: the older one stays the base."""


class Settings(Headers, MetricsSettings):
    """The exporters of a member."""

    type: Literal["scrape"]
    url: HttpUrl | None = None
    """A page, such as http://dcgm-exporter.gpu-operator:9400/metrics."""
    urls: list[HttpUrl] = Field(default_factory=list, max_length=200)
    """Several pages, instead of url."""
    bearer_token_file: NearbyPath | None = None
    """Read anew for each scrape."""
    ca_file: NearbyPath | None = None
    """Authorities that sign the exporters' certificates. Default: the system's."""
    cert_file: NearbyPath | None = None
    """Our own certificate (mTLS), PEM."""
    key_file: NearbyPath | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if (self.url is None) == (not self.urls):
            raise ValueError("write either url or urls")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("certFile and keyFile go together; write both")
        return self

    @property
    def pages(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.urls if self.url is None else [self.url]))


def create(settings: MetricsSettings, *, cluster: ClusterId, clock: Clock) -> MetricsSource:
    """The source; nothing is sent yet. Raises: InvalidObjectError for TLS files that cannot be used."""
    if not isinstance(settings, Settings):
        raise InvalidObjectError(f"metrics of {cluster}: settings of another type: {type(settings).__name__}")
    return ScrapeSource(settings, cluster, clock)


class ScrapeSource:
    """See `MetricsSource`."""

    def __init__(self, settings: Settings, cluster: ClusterId, clock: Clock) -> None:
        self._settings = settings
        self._cluster = cluster
        self._clock = clock
        hosts = list(dict.fromkeys(urlsplit(url).netloc for url in settings.pages))
        self.source = f"scrape {hosts[0]}" + (f" and {len(hosts) - 1} more" if len(hosts) > 1 else "")
        self._tls = _tls(settings, cluster)
        self._session: aiohttp.ClientSession | None = None
        # Parsing is pure Python and slow: off the loop, one page after the other.
        self._parsing = BlockingCalls(
            f"metrics-{cluster}", limit_seconds=settings.round_limit_seconds, threads=1, waiting=len(settings.pages) + 1
        )
        self._before: dict[str, Page] = {}
        self._one_at_a_time = asyncio.Lock()
        self._closed = False

    async def read(self, queries: Sequence[MetricQuery]) -> tuple[Reading, ...]:
        async with self._one_at_a_time:
            asked = Asked(self._cluster, self.source, self._clock.now())
            started = time.monotonic()
            wanted = family_names(queries)
            pages = self._settings.pages
            results = await asyncio.gather(*(self._page(url, wanted, asked.at) for url in pages))
            try:
                return await self._parsing.run("evaluate", lambda: self._readings(asked, queries, results, started))
            except ExternalError as error:
                took = time.monotonic() - started
                return tuple(asked.failed(query, str(error), took) for query in queries)

    async def close(self) -> None:
        self._closed = True
        await self._parsing.close()
        if self._session is not None:
            await self._session.close()

    def _readings(
        self, asked: Asked, queries: Sequence[MetricQuery], results: Sequence[Page | ExternalError], started: float
    ) -> tuple[Reading, ...]:
        """In a thread: pages may hold many series."""
        pages = self._settings.pages
        failures = [
            f"{urlsplit(url).netloc}: {error}"
            for url, error in zip(pages, results, strict=True)
            if isinstance(error, ExternalError)
        ]
        points = self._points(pages, results, queries)
        took = time.monotonic() - started
        return tuple(self._reading(asked, query, points, failures, took) for query in queries)

    def _reading(
        self, asked: Asked, query: MetricQuery, points: Mapping[str, list[Point]], failures: list[str], took: float
    ) -> Reading:
        rows, waits = rows_of(query, points)
        if failures and not rows:
            # Whether it is absent nobody knows: a page that might have it did not come.
            return asked.failed(query, "; ".join(failures), took)
        notes = [f"{len(failures)} of {len(self._settings.pages)} pages failed: {failures[0]}"] if failures else []
        if not query.families:
            notes.append("is asked by PromQL only; write from in the queries file")
        if waits:
            notes.append("a rate needs a second scrape")
        return asked.reading(query, rows, took, "; ".join(notes))

    def _points(
        self, pages: Sequence[str], results: Sequence[Page | ExternalError], queries: Sequence[MetricQuery]
    ) -> Mapping[str, list[Point]]:
        points: dict[str, list[Point]] = {}
        counters = counters_of(queries)
        for url, page in zip(pages, results, strict=True):
            if isinstance(page, ExternalError):
                continue
            before = self._before.get(url)
            for name, found in points_of(page, before, urlsplit(url).netloc).items():
                points.setdefault(name, []).extend(found)
            if before is None or page.at - before.at >= _NEAR_SECONDS or page.at < before.at:
                self._before[url] = page.only(counters)
        return points

    async def _page(self, url: str, wanted: frozenset[str], at: Instant) -> Page | ExternalError:
        try:
            async with asyncio.timeout(self._settings.round_limit_seconds):
                body, content_type = await self._fetch(url)
                return await self._parsing.run("parse", lambda: parse_page(body, content_type, wanted, at))
        except TimeoutError:
            return TransientError("no whole answer in time", code="Timeout")
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError):
            return TransientError("TLS failed; check the CA and the certificate", code="TLS")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return TransientError(f"cannot be scraped ({short(_reason(error))})", code=type(error).__name__)
        except ExternalError as error:
            return error

    async def _fetch(self, url: str) -> tuple[bytes, str]:
        headers = {"Accept": _ACCEPT, "User-Agent": "overspill", **header_values(self._settings)}
        if self._settings.bearer_token_file is not None:
            headers["Authorization"] = f"Bearer {read_secret(self._settings.bearer_token_file, 'bearer token')}"
        async with self._opened().get(url, headers=headers, allow_redirects=False, **self._tls_option()) as response:
            _check_status(response)
            parts: list[bytes] = []
            size = 0
            async for chunk in response.content.iter_chunked(_CHUNK):
                size += len(chunk)
                if size > self._settings.max_answer_bytes:
                    text = f"page larger than {self._settings.max_answer_bytes} bytes; raise maxAnswerBytes"
                    raise TransientError(text, code="TooLarge")
                parts.append(chunk)
            return b"".join(parts), response.headers.get("Content-Type", "")

    def _tls_option(self) -> dict[str, Any]:
        return {} if self._tls is None else {"ssl": self._tls}

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise TransientError("the source is closed", code="Closed")
        if self._session is None:
            limits = aiohttp.ClientTimeout(
                total=None,
                sock_connect=self._settings.connect_timeout_seconds,
                sock_read=self._settings.read_timeout_seconds,
            )
            self._session = aiohttp.ClientSession(
                timeout=limits, cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(limit=16)
            )
        return self._session


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == 200:
        return
    code = str(status)
    if 300 <= status < 400:
        raise RefusedError(f"HTTP {status}: a redirect, which is not followed; write the final URL", code=code)
    if status in (401, 403):
        raise AuthError(f"HTTP {status}: not logged in or not permitted; check the credentials", code=code)
    if status == 404:
        raise NotServedError("HTTP 404: no such page; check the URL and its path", code=code)
    if status == 429:
        raise ThrottledError("HTTP 429", code=code)
    raise TransientError(f"HTTP {status}", code=code)


def _reason(error: Exception) -> str:
    """The operating system's word for it, without the address that asyncio puts there."""
    number = getattr(getattr(error, "os_error", error), "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else type(error).__name__


def _tls(settings: Settings, cluster: ClusterId) -> ssl.SSLContext | None:
    if settings.ca_file is None and settings.cert_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.cert_file is not None:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InvalidObjectError(
            f"metrics of {cluster}: caFile, certFile or keyFile cannot be used ({reason})"
        ) from error
    return context
