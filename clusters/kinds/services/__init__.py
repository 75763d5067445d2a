"""The status of a service that is divided over members: of all its parts together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from clusters.kinds.templates import Served
from clusters.kubernetes.conditions import conditions, find, merged, updated, with_ignored_hints
from scheduler.model.contract import CONDITION_PLACED
from scheduler.model.ids import Instant
from scheduler.model.ports import PartSeen, RawObject, Said

Told = Sequence[tuple[PartSeen, Served]]
_UP: Final = ("Available", "Ready")
"""Of the conditions that copies have, those that are told of all of them together."""
_COUNTS: Final = ("replicas", "readyReplicas", "availableReplicas", "updatedReplicas")


def status_patch(
    obj: RawObject, mirrored: Sequence[str], told: Told, said: Sequence[Said], now: Instant, *, retell: bool
) -> RawObject | None:
    """See `DivisibleKind.service_status`; `mirrored`: condition types that the status has of copies."""
    status = obj.get("status") or {}
    wanted: dict[str, Any] = {name: _total(told, name) for name in _COUNTS}
    wanted["clusters"] = _clusters(told)
    urls = [served.url for _, served in told if served.url]
    if urls or status.get("url"):
        wanted["url"] = min(urls, default=None)
    if all(served.seen for _, served in told):
        wanted["observedGeneration"] = obj["metadata"].get("generation", 0)
    patch = {name: value for name, value in wanted.items() if status.get(name) != value}
    listed = conditions(obj)
    kept = [one for one in listed if one["type"] not in mirrored or one["type"] in _UP]
    updates = [
        update
        for each in (*_up(mirrored, told), *said)
        if (update := updated(kept, _fields(obj, each), now, retell=retell)) is not None
    ]
    if updates or len(kept) < len(listed):
        patch["conditions"] = merged(kept, updates)
    return {"status": patch} if patch else None


def _fields(obj: RawObject, said: Said) -> Mapping[str, Any]:
    message = with_ignored_hints(obj, said.message) if said.type == CONDITION_PLACED else said.message
    return {"type": said.type, "status": said.status, "reason": said.reason, "message": message}


def _total(told: Told, name: str) -> int:
    return sum(_counts(part, served)[name] or 0 for part, served in told)


def _counts(part: PartSeen, served: Served) -> dict[str, int | None]:
    ready = part.ready_pods if served.ready is None else served.ready
    counts = (served.replicas, ready, served.available, served.updated)
    return dict(zip(_COUNTS, counts, strict=True))


def _clusters(told: Told) -> list[dict[str, Any]]:
    """By name; what nobody tells there is left out."""
    found: dict[str, dict[str, Any]] = {}
    for part, served in sorted(told, key=lambda each: (each[0].cluster, each[0].raw["metadata"]["name"])):
        here = found.setdefault(part.cluster, {"name": part.cluster})
        for name, count in _counts(part, served).items():
            if count is not None:
                here[name] = here.get(name, 0) + count
        if served.url:
            here.setdefault("url", served.url)
    return list(found.values())


def _up(mirrored: Sequence[str], told: Told) -> list[Said]:
    """A service is up where any of its parts is."""
    found = []
    for kind in (each for each in _UP if each in mirrored):
        up = 0
        for part, _ in told:
            condition = find(conditions(part.raw), kind)
            up += condition is not None and condition.get("status") == "True"
        reason = "SomeParts" if up else "NoPart"
        found.append(Said(kind, "True" if up else "False", reason, f"{up} of {len(told)} parts say so"))
    return found
