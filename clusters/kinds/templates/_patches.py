"""JSON Patch (RFC 6902) and strategic merge over plain JSON. Pure: nothing that is given is changed.

Strategic merge as Kubernetes does it: maps merge, null removes, lists are replaced but for those whose items have a key
(below). `$patch: delete` removes an item or map, `$patch: replace` takes the patch as the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from scheduler.model.errors import InvalidObjectError

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort",),
    "topologySpreadConstraints": ("topologyKey",),
    "volumeClaimTemplates": ("metadata", "name"),
}
"""By the list's field name, where its items' key lies. Source: the patchMergeKey of each field in the API reference of
Kubernetes; volumeClaimTemplates, which it replaces whole, are told apart by name here."""
_DIRECTIVE: Final = "$patch"
_OPERATIONS: Final = ("add", "remove", "replace", "move", "copy", "test")


def json_patch(document: Any, operations: Sequence[Any], where: str) -> Any:
    """The document with all operations applied in turn. `where` begins each error.

    Raises: InvalidObjectError naming the operation and the path.
    """
    for number, operation in enumerate(operations):
        at = f"{where}[{number}]"
        if not isinstance(operation, Mapping) or operation.get("op") not in _OPERATIONS:
            raise InvalidObjectError(f"{at}.op: write one of {', '.join(_OPERATIONS)}")
        document = _apply(document, operation, at)
    return document


def _apply(document: Any, operation: Mapping[str, Any], at: str) -> Any:
    name, path = operation["op"], _parts(operation.get("path"), f"{at}.path")
    if name in ("move", "copy"):
        source = _parts(operation.get("from"), f"{at}.from")
        value = _read(document, source, f"{at}.from")
        if name == "move":
            if path[: len(source)] == source and path != source:
                raise InvalidObjectError(f"{at}.path {_shown(path)}: lies within what is moved")
            document = _change(document, source, f"{at}.from", "remove", None)
        return _change(document, path, f"{at}.path", "add", value)
    if name == "test":
        if _read(document, path, f"{at}.path") != operation.get("value"):
            raise InvalidObjectError(f"{at}.path {_shown(path)}: the value there is another than the test wants")
        return document
    if name != "remove" and "value" not in operation:
        raise InvalidObjectError(f"{at}.value is missing")
    return _change(document, path, f"{at}.path", name, operation.get("value"))


def _parts(path: Any, at: str) -> list[str]:
    if not isinstance(path, str) or (path and not path.startswith("/")):
        raise InvalidObjectError(f"{at}: write a JSON pointer such as /spec/template/spec/nodeSelector")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _shown(path: Sequence[str]) -> str:
    return "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in path)[:200] or '""'


def _read(document: Any, path: Sequence[str], at: str) -> Any:
    for depth, part in enumerate(path):
        document = _child(document, part, f"{at} {_shown(path[: depth + 1])}")
    return document


def _child(parent: Any, part: str, at: str) -> Any:
    if isinstance(parent, Mapping) and part in parent:
        return parent[part]
    if isinstance(parent, list) and _index(part) is not None and int(part) < len(parent):
        return parent[int(part)]
    raise InvalidObjectError(f"{at}: there is nothing")


def _index(part: str) -> int | None:
    """A list index by RFC 6901: digits without a leading zero."""
    return int(part) if part.isdecimal() and part.isascii() and (part == "0" or part[0] != "0") else None


def _change(document: Any, path: Sequence[str], at: str, how: str, value: Any, depth: int = 0) -> Any:
    """A copy of what lies on the path, with the value at its end added, replaced or removed."""
    if depth == len(path):
        if how == "remove":
            raise InvalidObjectError(f"{at}: the whole template cannot be removed")
        return value
    part, here = path[depth], f"{at} {_shown(path[: depth + 1])}"
    if depth < len(path) - 1:
        child = _change(_child(document, part, here), path, at, how, value, depth + 1)
        return _with(document, part, child)
    if isinstance(document, Mapping):
        return _in_map(document, part, how, value, here)
    if isinstance(document, list):
        return _in_list(document, part, how, value, here)
    raise InvalidObjectError(f"{here}: its parent is neither a map nor a list")


def _with(parent: Any, part: str, child: Any) -> Any:
    if isinstance(parent, Mapping):
        return {**parent, part: child}
    index = int(part)
    return [*parent[:index], child, *parent[index + 1 :]]


def _in_map(parent: Mapping[str, Any], part: str, how: str, value: Any, at: str) -> dict[str, Any]:
    if how != "add" and part not in parent:
        raise InvalidObjectError(f"{at}: there is nothing to {how}")
    if how == "remove":
        return {name: each for name, each in parent.items() if name != part}
    return {**parent, part: value}


def _in_list(parent: list[Any], part: str, how: str, value: Any, at: str) -> list[Any]:
    index = len(parent) if part == "-" and how == "add" else _index(part)
    if index is None or index > len(parent) - (how != "add"):
        raise InvalidObjectError(f"{at}: the list has no such place to {how}")
    if how == "add":
        return [*parent[:index], value, *parent[index:]]
    return [*parent[:index], *([value] if how == "replace" else []), *parent[index + 1 :]]


def strategic_merge(document: Any, patch: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The document with the patch merged into it. `where` begins the path in errors.

    Raises: InvalidObjectError naming the path.
    """
    base: Mapping[str, Any] = document if isinstance(document, Mapping) else {}
    directive = patch.get(_DIRECTIVE)
    if directive not in (None, "replace", "merge"):
        raise InvalidObjectError(f"{where}.$patch is {str(directive)[:40]!r}; write replace, merge or delete")
    said = {name: value for name, value in patch.items() if name != _DIRECTIVE}
    result: dict[str, Any] = {} if directive == "replace" else dict(base)
    for name, value in said.items():
        at = f"{where}.{name}"
        if value is None or (isinstance(value, Mapping) and value.get(_DIRECTIVE) == "delete"):
            result.pop(name, None)
        elif isinstance(value, Mapping):
            result[name] = strategic_merge(result.get(name), value, at)
        elif isinstance(value, list) and name in _KEYS:
            result[name] = _merge_lists(result.get(name), value, name, at)
        else:
            result[name] = value
    return result


def _merge_lists(there: Any, patch: list[Any], name: str, at: str) -> list[Any]:
    """Items of the patch merged into those of the same key, new ones at the end."""
    items: list[Any] = list(there) if isinstance(there, list) else []
    places = {key: place for place, each in enumerate(items) if (key := _key_of(each, name)) is not None}
    gone: set[int] = set()
    for number, each in enumerate(patch):
        here = f"{at}[{number}]"
        key = _key_of(each, name)
        if key is None:
            raise InvalidObjectError(f"{here}.{'.'.join(_KEYS[name])} is missing; it tells which item is meant")
        place = places.get(key)
        if each.get(_DIRECTIVE) == "delete":
            if place is not None:
                gone.add(place)
        elif place is None or place in gone:
            places[key] = len(items)
            items.append(strategic_merge({}, each, here))
        else:
            items[place] = strategic_merge(items[place], each, here)
    return [each for place, each in enumerate(items) if place not in gone]


def _key_of(item: Any, name: str) -> str | int | None:
    for part in _KEYS[name]:
        item = item.get(part) if isinstance(item, Mapping) else None
    return item if isinstance(item, str | int) and not isinstance(item, bool) else None
