"""Reading, comparing and replacing fields of templates and of their live copies. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scheduler.model.errors import InvalidObjectError


def inner(fields: Mapping[str, Any], *names: str, at: str = "spec.template.spec") -> Mapping[str, Any]:
    """The map that lies at this path. Raises: InvalidObjectError naming the path when there is none."""
    found: Any = fields
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
        at = f"{at}.{name}"
    if not isinstance(found, Mapping):
        raise InvalidObjectError(f"{at} is missing")
    return found


def has_containers(pod_spec: object, at: str) -> None:
    """Raises: InvalidObjectError naming the place when a pod could not be made of it."""
    if not isinstance(pod_spec, Mapping) or not pod_spec.get("containers"):
        raise InvalidObjectError(f"{at} has no containers")


def replacing(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Merge patch that turns `live` into exactly `wanted`: what is not wanted is removed, lists are replaced."""
    patch: dict[str, Any] = dict.fromkeys(live.keys() - wanted.keys())
    for name, value in wanted.items():
        before = live.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if change := replacing(before, value):
                patch[name] = change
        elif before != value:
            patch[name] = value
    return patch


def covers(live: Any, wanted: Any) -> bool:
    """Whether `live` says all that `wanted` does; an API server adds defaults, it takes nothing away."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(covers(live.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(covers, live, wanted))
    return bool(wanted is None or live == wanted)


def without(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    left = set(names)
    return {name: value for name, value in fields.items() if name not in left}


def count_of(text: object, where: str, default: int | None) -> int | None:
    """A whole number from 0 that may be written as text, as in an annotation. Raises: InvalidObjectError."""
    if text is None:
        return default
    if isinstance(text, bool) or not str(text).isdecimal() or len(str(text)) > 9:
        raise InvalidObjectError(f"{where} is {str(text)[:40]!r}, which is not a whole number from 0")
    return int(str(text))
