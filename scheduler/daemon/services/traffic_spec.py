"""`spec.traffic` of a FederatedWorkload: through which standard objects its requests are steered. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId
from scheduler.model.ports import RawObject

STEERED: Final = "traffic"
"""Under `spec`."""
HUB: Final = "hub"
"""Stands for the hub's own API as the place of a route."""
CURRENT: Final = "current"
PREVIOUS: Final = "previous"
_MOST_ROUTES: Final = 8
_MOST_BACKENDS: Final = 64


@dataclass(frozen=True, slots=True)
class Backend:
    """A backendRef of a route's rule, and what it leads to."""

    name: str
    cluster: ClusterId
    revision: str = ""
    """current: the one that the template asks for; previous: any other; "": all."""


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTPRoute whose weights are ours, in the workload's namespace."""

    name: str
    backends: tuple[Backend, ...]
    cluster: str = HUB
    """HUB, or the member that has it."""
    rule: int = 0


@dataclass(frozen=True, slots=True)
class RateLimit:
    """An Envoy Gateway BackendTrafficPolicy of which the number of requests is ours."""

    name: str
    cluster: str = HUB
    rule: int = 0
    headroom: float = 1.0
    """Requests let through by what ready replicas carry within the SLO."""


@dataclass(frozen=True, slots=True)
class TrafficSpec:
    routes: tuple[Route, ...] = ()
    hostname: str = ""
    """For the federation's DNS hook; "": none."""
    knative_route: str = ""
    """Name of a Knative Route that splits requests among revisions on a member; "": none."""
    rate_limits: tuple[RateLimit, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """What gateways may call the service."""
        return frozenset(
            {route.name for route in self.routes} | {one.name for route in self.routes for one in route.backends}
        )


NO_TRAFFIC: Final = TrafficSpec()


def traffic_of(raw: RawObject) -> TrafficSpec:
    """Raises: InvalidObjectError, one line with the field; the CRD's schema lets most of these through nowhere."""
    spec = raw.get("spec")
    said = spec.get(STEERED) if isinstance(spec, Mapping) else None
    if said is None:
        return NO_TRAFFIC
    traffic = _mapping(said, "spec.traffic")
    dns = _mapping(traffic.get("dns") or {}, "spec.traffic.dns")
    routes = _list(traffic.get("routes"), "spec.traffic.routes", _MOST_ROUTES)
    limits = _list(traffic.get("rateLimits"), "spec.traffic.rateLimits", _MOST_ROUTES)
    return TrafficSpec(
        routes=tuple(_route(one, f"spec.traffic.routes[{number}]") for number, one in enumerate(routes)),
        hostname=_text(dns, "hostname", "spec.traffic.dns") if dns else "",
        knative_route=_text(traffic, "knativeRoute", "spec.traffic") if traffic.get("knativeRoute") is not None else "",
        rate_limits=tuple(_limit(one, f"spec.traffic.rateLimits[{number}]") for number, one in enumerate(limits)),
    )


def _route(said: Any, at: str) -> Route:
    one = _mapping(said, at)
    backends = _list(one.get("backends"), f"{at}.backends", _MOST_BACKENDS)
    if not backends:
        raise InvalidObjectError(f"{at}.backends is empty; say which backendRef leads to which cluster")
    found = tuple(_backend(each, f"{at}.backends[{number}]") for number, each in enumerate(backends))
    if len({each.name for each in found}) < len(found):
        raise InvalidObjectError(f"{at}.backends names a backendRef twice; name each once")
    return Route(_text(one, "name", at), found, _cluster(one, at), _index(one, at))


def _backend(said: Any, at: str) -> Backend:
    one = _mapping(said, at)
    revision = one.get("revision") or ""
    if revision not in ("", CURRENT, PREVIOUS):
        raise InvalidObjectError(f"{at}.revision is {str(revision)[:40]!r}; write {CURRENT}, {PREVIOUS}, or leave it")
    return Backend(_text(one, "name", at), ClusterId(_text(one, "cluster", at)), revision)


def _limit(said: Any, at: str) -> RateLimit:
    one = _mapping(said, at)
    headroom = one.get("headroomPercent", 100)
    if isinstance(headroom, bool) or not isinstance(headroom, int) or not 10 <= headroom <= 1000:
        raise InvalidObjectError(f"{at}.headroomPercent is no whole number from 10 to 1000")
    return RateLimit(_text(one, "name", at), _cluster(one, at), _index(one, at), headroom / 100.0)


def _cluster(one: Mapping[str, Any], at: str) -> str:
    return _text(one, "cluster", at) if one.get("cluster") is not None else HUB


def _index(one: Mapping[str, Any], at: str) -> int:
    rule = one.get("rule", 0)
    if isinstance(rule, bool) or not isinstance(rule, int) or not 0 <= rule < 64:
        raise InvalidObjectError(f"{at}.rule is no number from 0 to 63; count the rules from 0")
    return rule


def _text(one: Mapping[str, Any], key: str, at: str) -> str:
    value = one.get(key)
    if not isinstance(value, str) or not value or len(value) > 253:
        raise InvalidObjectError(f"{at}.{key} is missing or no name")
    return value


def _mapping(value: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidObjectError(f"{at} is no mapping")
    return value


def _list(value: Any, at: str, most: int) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > most:
        raise InvalidObjectError(f"{at} is no list of at most {most}")
    return value
