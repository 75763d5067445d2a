"""What a cluster says of itself when it is asked: version, time, and what we may do there."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from clusters.clock import SystemClock
from clusters.kubernetes.client import HttpKubeApi
from scheduler.model.errors import NotFoundError, NotServedError, TransientError
from scheduler.model.ids import Instant
from scheduler.model.ports import Resource

_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_DATE_RESOLUTION_SECONDS: Final = 1.0
"""The Date header is in whole seconds, rounded down."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One look at `/version`."""

    version: tuple[int, int] | None
    """Such as (1, 33); None: not understood."""
    version_text: str
    round_trip_seconds: float
    clock_skew_seconds: float | None
    """How far the server's clock is ahead of ours, as near as its Date header tells (a second or so); None: it has
    none, or not a sensible one."""


async def probe(api: HttpKubeApi) -> Probe:
    """Raises: ExternalError when it does not answer, or not as a Kubernetes API does."""
    clock = SystemClock()
    asked_at, began = clock.now(), time.perf_counter()
    body, headers = await api.exchange("GET", "/version")
    took = time.perf_counter() - began
    told = _object(body, "/version", api)
    text = str(told.get("gitVersion") or f"{told.get('major')}.{told.get('minor')}")[:80]
    numbers = re.match(r"v?(\d{1,3})\.(\d{1,4})", text)
    version = (int(numbers[1]), int(numbers[2])) if numbers else None
    return Probe(version, text, took, _skew(headers.get("Date"), asked_at, took))


async def may(
    api: HttpKubeApi,
    verb: str,
    group: str,
    resource: str,
    *,
    subresource: str = "",
    namespace: str = "",
    name: str = "",
) -> bool:
    """Whether we may do it, by SelfSubjectAccessReview. Raises: ExternalError when it cannot be asked."""
    asked = {
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "namespace": namespace,
        "name": name,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
    }
    answer, _ = await api.exchange("POST", _REVIEWS, orjson.dumps(body))
    status = _object(answer, _REVIEWS, api).get("status")
    allowed = status.get("allowed") if isinstance(status, dict) else None
    if not isinstance(allowed, bool):
        raise TransientError(f"cluster {api.name}: POST {_REVIEWS}: no word on whether it is allowed", code="Malformed")
    return allowed


async def serves(api: HttpKubeApi, resource: Resource) -> bool:
    """Whether the API knows this kind, by its discovery, which every account may read. Raises: ExternalError when it
    cannot be asked."""
    path = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    try:
        answer, _ = await api.exchange("GET", path)
    except (NotFoundError, NotServedError):
        return False
    listed = _object(answer, path, api).get("resources")
    names = {one.get("name") for one in listed if isinstance(one, dict)} if isinstance(listed, list) else set()
    return resource.plural in names


def _skew(date: str | None, asked_at: Instant, took: float) -> float | None:
    """The nearest to nothing that the header allows: it was written somewhere between question and answer, and cut to
    whole seconds."""
    if not date:
        return None
    try:
        said = parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
    if said > asked_at + took:
        return said - (asked_at + took)
    return min(0.0, said + _DATE_RESOLUTION_SECONDS - asked_at)


def _object(body: bytes, path: str, api: HttpKubeApi) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise TransientError(f"cluster {api.name}: {path}: the answer is no JSON", code="Malformed") from error
    if not isinstance(parsed, dict):
        raise TransientError(f"cluster {api.name}: {path}: the answer is no object", code="Malformed")
    return parsed
