"""What differs from member to member: `spec.overrides` of a FederatedWorkload, applied to its template. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from clusters.kinds.templates._patches import json_patch, strategic_merge
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId

_MOST: Final = 64
_FIELDS: Final = frozenset({"clusters", "selector", "patch", "merge"})
_FIXED: Final = (("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace"), ("spec", "selector"))
"""What is the same on every member."""


def check(overrides: Any) -> None:
    """Refuse what cannot be meant, naming the field. Raises: InvalidObjectError."""
    for _ in _read(overrides):
        pass


def applied(
    template: Mapping[str, Any], overrides: Any, cluster: ClusterId, labels: tuple[tuple[str, str], ...]
) -> Mapping[str, Any]:
    """The template for one member: every override that names it, or whose selector its labels satisfy, in order; the
    template itself where there is none. Raises: InvalidObjectError naming the override and the path."""
    result: Mapping[str, Any] = template
    for at, override in _read(overrides):
        if not _is_meant(override, cluster, labels):
            continue
        if "patch" in override:
            result = json_patch(result, override["patch"], f"{at}.patch")
            if not isinstance(result, Mapping):
                raise InvalidObjectError(f"{at}.patch: what it leaves is no object")
        else:
            result = strategic_merge(result, override["merge"], f"{at}.merge")
        for path in _FIXED:
            if _at(result, path) != _at(template, path):
                raise InvalidObjectError(f"{at}: {'.'.join(path)} cannot be overridden")
    return result


def _read(overrides: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if overrides is None:
        return
    if not isinstance(overrides, list) or len(overrides) > _MOST:
        raise InvalidObjectError(f"spec.overrides is no list of at most {_MOST}")
    for number, override in enumerate(overrides):
        at = f"spec.overrides[{number}]"
        if not isinstance(override, Mapping):
            raise InvalidObjectError(f"{at} is no map")
        if unknown := sorted(str(name) for name in override.keys() - _FIELDS):
            raise InvalidObjectError(f"{at}.{unknown[0][:40]} is not known; known: {', '.join(sorted(_FIELDS))}")
        _check_one(override, at)
        yield at, override


def _check_one(override: Mapping[str, Any], at: str) -> None:
    if ("clusters" in override) == ("selector" in override):
        raise InvalidObjectError(f"{at}: write either clusters or selector")
    if ("patch" in override) == ("merge" in override):
        raise InvalidObjectError(f"{at}: write either patch or merge")
    named, selector = override.get("clusters", []), override.get("selector", {})
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise InvalidObjectError(f"{at}.clusters is no list of names")
    if not isinstance(selector, Mapping) or not all(isinstance(value, str) for value in selector.values()):
        raise InvalidObjectError(f"{at}.selector is no map of labels")
    if not isinstance(override.get("patch", []), list):
        raise InvalidObjectError(f"{at}.patch is no list of JSON Patch operations")
    if not isinstance(override.get("merge", {}), Mapping):
        raise InvalidObjectError(f"{at}.merge is no map")


def _is_meant(override: Mapping[str, Any], cluster: ClusterId, labels: tuple[tuple[str, str], ...]) -> bool:
    if "clusters" in override:
        return cluster in override["clusters"]
    return set(override["selector"].items()) <= set(labels)


def _at(fields: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        fields = fields.get(part) if isinstance(fields, Mapping) else None
    return fields
