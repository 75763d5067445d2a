"""A Prometheus API: Prometheus itself, Thanos, Mimir, VictoriaMetrics, Google's and Amazon's managed services.

Queries go through prometheus-api-client, whose blocking calls run in threads of this source alone: an endpoint that
hangs holds its own threads and nobody else's. Nothing is repeated; the next round is the only retry.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from prometheus_api_client import PrometheusConnect
from pydantic import AfterValidator, Field, model_validator
from requests.auth import AuthBase

from clusters.metrics._answers import Answer
from clusters.metrics._credentials import (
    AwsSignature,
    BasicAuth,
    BearerToken,
    Headers,
    PasswordFile,
    SigV4,
    header_values,
)
from clusters.metrics._promql import PART, TIME, filled
from clusters.metrics._samples import MAX_SAMPLES, Asked, Row
from clusters.metrics._selectors import LABEL_NAME
from clusters.metrics._session import BoundedSession, Bounds
from clusters.metrics._settings import HttpUrl, MetricsSettings, NearbyPath
from clusters.providers._blocking import BlockingCalls
from scheduler.model.errors import ExternalError, InvalidObjectError, TransientError
from scheduler.model.ids import ClusterId
from scheduler.model.metrics import MetricQuery, MetricsSource, Reading
from scheduler.model.ports import Clock

_WAITING: Final = 1000
"""Queries of one round that may wait for a thread."""
_HEADERS: Final = {"Accept": "application/json", "User-Agent": "overspill"}

_Threads = Annotated[int, Field(ge=1, le=32)]


def _checked_matchers(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if not LABEL_NAME.fullmatch(name):
            raise ValueError(f"{name[:40]!r} is no name of a label; write one such as cluster")
    return value


class Settings(Headers, MetricsSettings):
    """A member's Prometheus API and how it is asked."""

    type: Literal["prometheus"]
    url: HttpUrl
    """With the path before /api/v1, such as https://mimir.example/prometheus."""
    bearer_token_file: NearbyPath | None = None
    """Read anew for each request."""
    basic_auth: BasicAuth | None = None
    sigv4: SigV4 | None = None
    """For Amazon Managed Service for Prometheus."""
    ca_file: NearbyPath | None = None
    """Authorities that sign the server's certificate. Default: the system's."""
    cert_file: NearbyPath | None = None
    """Our own certificate (mTLS), PEM."""
    key_file: NearbyPath | None = None
    selector: Annotated[dict[str, str], Field(max_length=10), AfterValidator(_checked_matchers)] = Field(
        default_factory=dict
    )
    """Labels that all series of this member carry where several clusters share one API, such as cluster: eks-1."""
    method: Literal["GET", "POST"] = "POST"
    """GET for gateways that let nothing else through."""
    rate_window_seconds: int = Field(default=300, ge=10, le=86400)
    """Over which rates and quantiles are taken; at least four scrape intervals."""
    threads: _Threads = 8
    """Queries that are under way at once."""

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if urlsplit(self.url).query:
            raise ValueError("url holds a query (?...), but ours goes there; write it as headers or selector")
        given = [n for n in ("bearer_token_file", "basic_auth", "sigv4") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError("write one of bearerTokenFile, basicAuth and sigv4")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("certFile and keyFile go together; write both")
        return self


def create(settings: MetricsSettings, *, cluster: ClusterId, clock: Clock) -> MetricsSource:
    """The source; nothing is sent yet. Raises: InvalidObjectError for TLS files that cannot be used."""
    if not isinstance(settings, Settings):
        raise InvalidObjectError(f"metrics of {cluster}: settings of another type: {type(settings).__name__}")
    _check_tls(settings, cluster)
    return PrometheusSource(settings, cluster, clock)


class PrometheusSource:
    """See `MetricsSource`."""

    def __init__(self, settings: Settings, cluster: ClusterId, clock: Clock) -> None:
        self._settings = settings
        self._cluster = cluster
        self._clock = clock
        self.source = f"prometheus {urlsplit(settings.url).netloc}"
        self._session = BoundedSession(
            Bounds(settings.threads, settings.max_answer_bytes, settings.call_limit_seconds),
            lambda: header_values(settings),
        )
        # requests knows only the authorities that it ships; the machine's are what people add theirs to.
        system = ssl.get_default_verify_paths().cafile
        self._session.verify = str(settings.ca_file) if settings.ca_file else system or True
        if settings.cert_file and settings.key_file:
            self._session.cert = (str(settings.cert_file), str(settings.key_file))
        self._client = PrometheusConnect(
            settings.url,
            headers=_HEADERS,
            auth=_auth(settings),
            session=self._session,
            timeout=(settings.connect_timeout_seconds, settings.read_timeout_seconds),
            method=settings.method,
        )
        self._session.prepared_for(settings.url)
        self._calls = BlockingCalls(
            f"metrics-{cluster}", limit_seconds=settings.round_limit_seconds, threads=settings.threads, waiting=_WAITING
        )

    async def read(self, queries: Sequence[MetricQuery]) -> tuple[Reading, ...]:
        asked = Asked(self._cluster, self.source, self._clock.now())
        return tuple(await asyncio.gather(*(self._one(asked, query) for query in queries)))

    async def close(self) -> None:
        await self._calls.close()
        self._session.close()

    async def _one(self, asked: Asked, query: MetricQuery) -> Reading:
        started = time.monotonic()
        if not query.promql:
            return asked.reading(query, (), 0.0, "is not asked by PromQL; write from or promql in the queries file")
        promql = filled(query.promql, self._settings.selector, self._settings.rate_window_seconds)
        try:
            return await self._calls.run(query.name, lambda: self._ask(asked, query, promql, started))
        except ExternalError as error:
            return asked.failed(query, str(error), time.monotonic() - started)

    def _ask(self, asked: Asked, query: MetricQuery, promql: str, started: float) -> Reading:
        """In a thread, with the making of the reading: there may be many series. Raises: ExternalError."""
        answer = self._client.custom_query(promql)
        if not isinstance(answer, Answer):
            raise TransientError("prometheus-api-client gave something else than the session did", code="Client")
        took = time.monotonic() - started
        if len(answer.series) > 2 * MAX_SAMPLES:
            return asked.failed(query, f"more than {MAX_SAMPLES} series; narrow the query", took)
        notes = [*answer.warnings]
        if answer.histograms:
            notes.append(f"{answer.histograms} native histograms left out")
        return asked.reading(query, _rows(answer, asked), took, "; ".join(notes))


def _rows(answer: Answer, asked: Asked) -> list[Row]:
    """Values with the times of their samples. The server's clock need not be ours: what counts is how long before its
    own evaluation a sample was taken. Without a time (a query of the user's own) it is that of the evaluation."""
    taken: dict[frozenset[tuple[str, str]], float] = {}
    for series in answer.series:
        if series.labels.get(PART) == TIME:
            taken[_key(series.labels)] = series.value
    rows = []
    for series in answer.series:
        if series.labels.get(PART) != TIME:
            age = series.at - taken.get(_key(series.labels), series.at)
            rows.append(Row(series.labels, series.value, asked.at - age))
    return rows


def _key(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in labels.items() if name not in (PART, "__name__"))


def _auth(settings: Settings) -> AuthBase | None:
    if settings.bearer_token_file is not None:
        return BearerToken(settings.bearer_token_file)
    if settings.basic_auth is not None:
        return PasswordFile(settings.basic_auth)
    return AwsSignature(settings.sigv4) if settings.sigv4 is not None else None


def _check_tls(settings: Settings, cluster: ClusterId) -> None:
    """Say at the start what every request would fail at."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if settings.ca_file is not None:
            context.load_verify_locations(cafile=settings.ca_file)
        if settings.cert_file is not None:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or type(error).__name__
        files = ", ".join(str(path) for path in (settings.ca_file, settings.cert_file, settings.key_file) if path)
        raise InvalidObjectError(f"metrics of {cluster}: TLS files cannot be used ({reason}): {files}") from error
