"""Weights on the objects that steer requests: what they are to be, and the patches that make them so. Pure.

Lists of rules are atomic in the Gateway API's schema (x-kubernetes-list-type), so no field manager can own one weight
among them: a patch has the whole list with nothing but our numbers changed, and the version that it was read with as
its precondition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from scheduler.daemon.services.traffic_spec import CURRENT, PREVIOUS, Backend, RateLimit, Route
from scheduler.model.contract import KNATIVE_ROUTES, LABEL_ORIGIN_UID
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Uid
from scheduler.model.ports import RawObject
from scheduler.model.serving import TrafficWeight, apportion

_UNIT_SECONDS: Final = {"Second": 1, "Minute": 60, "Hour": 3600, "Day": 86400}
"""Envoy Gateway's RateLimitUnit, as far as seconds tell them."""
_LIMIT_STEP: Final = 0.05
"""A limit that is this near to what it should be is left."""
_MOST_REQUESTS: Final = 2**31 - 1
_PERCENT: Final = 100


def wanted_weights(route: Route, weights: Sequence[TrafficWeight], current: str) -> tuple[int, ...]:
    """For each backend of the route; all 0: nothing that it leads to is ready, and what is set had better stay."""
    return tuple(sum(one.weight for one in weights if _is_for(backend, one, current)) for backend in route.backends)


def _is_for(backend: Backend, one: TrafficWeight, current: str) -> bool:
    if one.cluster != backend.cluster:
        return False
    return backend.revision == "" or (one.revision == current) == (backend.revision == CURRENT)


def selected_revision(backend: Backend, weights: Sequence[TrafficWeight], current: str) -> str | None:
    """Which revision the Service of that name is to select; None: it stays as it is."""
    if backend.revision == CURRENT:
        return current or None
    others = [one for one in weights if one.cluster == backend.cluster and one.revision != current]
    if backend.revision != PREVIOUS or not others:
        return None
    return max(others, key=lambda one: (one.weight, one.revision)).revision


def route_patch(raw: RawObject, route: Route, wanted: Sequence[int]) -> RawObject | None:
    """Merge patch of the HTTPRoute; None: it says that already. Raises: InvalidObjectError, one line."""
    place = f"HTTPRoute {route.name} in {route.cluster}"
    rules = _rules(raw, ("spec", "rules"), route.rule, place)
    refs = rules[route.rule].get("backendRefs") or []
    named = {str(ref.get("name")): index for index, ref in enumerate(refs)}
    missing = [one.name for one in route.backends if one.name not in named]
    if missing:
        raise InvalidObjectError(f"{place}: rule {route.rule} has no backendRef {missing[0]}; add it, weight 0 will do")
    fresh = list(refs)
    for backend, weight in zip(route.backends, wanted, strict=True):
        index = named[backend.name]
        fresh[index] = {**refs[index], "weight": weight}
    if all((old.get("weight", 1)) == new.get("weight", 1) for old, new in zip(refs, fresh, strict=True)):
        return None
    return _patch(raw, ("spec", "rules"), _replaced(rules, route.rule, {"backendRefs": fresh}))


def limit_patch(raw: RawObject, limit: RateLimit, ready_per_second: float) -> RawObject | None:
    """Merge patch of the BackendTrafficPolicy that lets through what is ready; None: it is near enough.

    Raises: InvalidObjectError, one line.
    """
    place = f"BackendTrafficPolicy {limit.name} in {limit.cluster}"
    said = (raw.get("spec") or {}).get("rateLimit") or {}
    kind = "global" if said.get("global") else "local"
    path = ("spec", "rateLimit", kind, "rules")
    rules = _rules(raw, path, limit.rule, place)
    old = rules[limit.rule].get("limit") or {}
    seconds = _UNIT_SECONDS.get(str(old.get("unit")))
    if seconds is None:
        raise InvalidObjectError(f"{place}: rule {limit.rule} has no limit by {', '.join(_UNIT_SECONDS)}; write one")
    most = min(_MOST_REQUESTS, math.ceil(ready_per_second * limit.headroom * seconds))
    has = old.get("requests")
    if most < 1 or (isinstance(has, int) and abs(most - has) <= _LIMIT_STEP * most):
        return None
    return _patch(raw, path, _replaced(rules, limit.rule, {"limit": {**old, "requests": most}}))


def knative_route(
    name: str, namespace: str, uid: Uid, parts: Sequence[TrafficWeight], owners: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A Knative Route over several Services' configurations, in percent. `parts`: by the name of the Service, as
    `revision`. `owners`: it goes with the last of them. (Knative Serving API, `Route`: a target names a configuration,
    whose latest ready revision it then is.)"""
    shares = [one for one in apportion(parts, _PERCENT) if one.weight > 0]
    return {
        "apiVersion": KNATIVE_ROUTES.api_version,
        "kind": KNATIVE_ROUTES.kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {LABEL_ORIGIN_UID: uid},
            "ownerReferences": [dict(one) for one in owners],
        },
        "spec": {"traffic": [{"configurationName": one.revision, "percent": one.weight} for one in shares]},
    }


def knative_patch(raw: RawObject, wanted: Mapping[str, Any]) -> RawObject | None:
    """Merge patch of a Route that is there; None: it says that already."""
    has = (raw.get("spec") or {}).get("traffic") or []
    plain = [{"configurationName": one.get("configurationName"), "percent": one.get("percent")} for one in has]
    owners = {one.get("uid") for one in raw["metadata"].get("ownerReferences") or ()}
    meta = wanted["metadata"]
    if plain == wanted["spec"]["traffic"] and owners == {one["uid"] for one in meta["ownerReferences"]}:
        return None
    version = {"resourceVersion": raw["metadata"]["resourceVersion"]}
    return {"metadata": {**version, "ownerReferences": meta["ownerReferences"]}, "spec": wanted["spec"]}


def _rules(raw: RawObject, path: Sequence[str], index: int, place: str) -> list[Mapping[str, Any]]:
    found: Any = raw
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    rules = [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []
    if index >= len(rules):
        raise InvalidObjectError(f"{place} has no rule {index}, but {len(rules)} of them; count from 0")
    return rules


def _replaced(rules: list[Mapping[str, Any]], index: int, changes: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [{**rule, **changes} if number == index else rule for number, rule in enumerate(rules)]


def _patch(raw: RawObject, path: Sequence[str], rules: list[Mapping[str, Any]]) -> RawObject:
    body: Any = rules
    for key in reversed(path):
        body = {key: body}
    return {"metadata": {"resourceVersion": raw["metadata"]["resourceVersion"]}, **body}
