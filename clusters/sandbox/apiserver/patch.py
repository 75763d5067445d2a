"""The three client patches: JSON merge (RFC 7386), JSON patch (RFC 6902) and Kubernetes' strategic merge.

All are pure: the target is never changed, and what a patch does not touch is shared with the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from clusters.sandbox.apiserver.failures import StatusError, bad_request
from clusters.sandbox.apiserver.schema import ANY, LIST, MAP, STRUCT, Type

_OPERATIONS_MOST: Final = 10_000
_COPIED_BYTES_MOST: Final = 3 * 1024 * 1024
"""Copies can double a document each time."""
_ORDER: Final = "$setElementOrder/"
_DELETE_FROM: Final = "$deleteFromPrimitiveList/"
_RETAIN: Final = "$retainKeys"
_DIRECTIVE: Final = "$patch"


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386. The very same `target` when the patch changes nothing."""
    if not isinstance(patch, Mapping):
        return patch
    base: Mapping[str, Any] = target if isinstance(target, dict) else {}
    out: dict[str, Any] | None = None
    for key, value in patch.items():
        if value is None:
            if key in base:
                out = dict(base) if out is None else out
                del out[key]
            continue
        old = base.get(key)
        new = merge(old, value) if isinstance(value, Mapping) else value
        if new is not old and (new != old or type(new) is not type(old)):
            out = dict(base) if out is None else out
            out[key] = new
    if out is not None:
        return out
    return target if isinstance(target, dict) else {}


# JSON patch --------------------------------------------------------------------------------------------------------


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902. Raises: StatusError 400 for a malformed patch, 422 for one that does not apply."""
    if not isinstance(operations, list) or not all(isinstance(operation, dict) for operation in operations):
        raise bad_request("error decoding patch: json: cannot unmarshal into Go value of type jsonpatch.Patch")
    if len(operations) > _OPERATIONS_MOST:
        raise StatusError(
            413,
            "RequestEntityTooLarge",
            f"The allowed maximum operations in a JSON patch is {_OPERATIONS_MOST}, got {len(operations)}",
        )
    copied = 0
    for operation in operations:
        if operation.get("op") == "copy":
            copied += len(orjson.dumps(_lookup(target, _pointer(operation.get("from")))))
            if copied > _COPIED_BYTES_MOST:
                raise StatusError(413, "RequestEntityTooLarge", "the JSON patch copies more than 3 MiB")
        target = _operate(target, operation)
    return target


def _operate(target: Any, operation: Mapping[str, Any]) -> Any:
    path = _pointer(operation.get("path"))
    match operation.get("op"):
        case "add":
            return _set(target, path, _value(operation), insert=True)
        case "replace":
            _lookup(target, path)
            return _set(target, path, _value(operation), insert=False)
        case "remove":
            return _remove(target, path)
        case "test":
            if _lookup(target, path) != operation.get("value"):
                raise _unapplied(f"testing value {operation.get('path')} failed: test failed")
            return target
        case "copy":
            return _set(target, path, _lookup(target, _pointer(operation.get("from"))), insert=True)
        case "move":
            source = _pointer(operation.get("from"))
            moved = _lookup(target, source)
            return _set(_remove(target, source), path, moved, insert=True)
    raise bad_request(f"Unexpected kind: {operation.get('op')!r} is not a JSON patch operation")


def _unapplied(message: str) -> StatusError:
    return StatusError(422, "Invalid", f"the server rejected our request due to an error in our request: {message}")


def _value(operation: Mapping[str, Any]) -> Any:
    if "value" not in operation:
        raise bad_request(f"error decoding patch: {operation.get('op')} at {operation.get('path')!r} has no value")
    return operation["value"]


def _pointer(text: Any) -> tuple[str, ...]:
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise bad_request(f"error decoding patch: {text!r} is not a JSON pointer")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:])


def _index(items: list[Any], part: str, *, end: bool) -> int:
    if part == "-" and end:
        return len(items)
    if not part.isdecimal() or int(part) > len(items) - (0 if end else 1):
        raise _unapplied(f"index {part} is out of bounds")
    return int(part)


def _lookup(target: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        if isinstance(target, dict) and part in target:
            target = target[part]
        elif isinstance(target, list):
            target = target[_index(target, part, end=False)]
        else:
            raise _unapplied(f"path /{'/'.join(path)} does not exist")
    return target


def _set(target: Any, path: tuple[str, ...], value: Any, *, insert: bool) -> Any:
    if not path:
        return value
    part, rest = path[0], path[1:]
    if isinstance(target, dict):
        if rest and part not in target:
            raise _unapplied(f"path /{'/'.join(path)} does not exist")
        return {**target, part: _set(target.get(part), rest, value, insert=insert)}
    if isinstance(target, list):
        index = _index(target, part, end=insert and not rest)
        if rest:
            return [*target[:index], _set(target[index], rest, value, insert=insert), *target[index + 1 :]]
        return [*target[:index], value, *target[index + (0 if insert else 1) :]]
    raise _unapplied(f"path /{'/'.join(path)} does not exist")


def _remove(target: Any, path: tuple[str, ...]) -> Any:
    if not path:
        raise _unapplied("the whole document cannot be removed")
    _lookup(target, path)
    part, rest = path[0], path[1:]
    if isinstance(target, dict):
        if rest:
            return {**target, part: _remove(target[part], rest)}
        return {key: value for key, value in target.items() if key != part}
    index = int(part)
    replacement = [_remove(target[index], rest)] if rest else []
    return [*target[:index], *replacement, *target[index + 1 :]]


# Strategic merge ---------------------------------------------------------------------------------------------------


def strategic(target: Any, patch: Any, made: Type) -> Any:
    """Kubernetes' strategic merge patch: lists that have a merge key are merged by it, with `$patch` directives.

    Raises: StatusError 400 for a patch that makes no sense.
    """
    if not isinstance(patch, dict):
        raise bad_request("a strategic merge patch must be an object")
    return _strategic_map(target if isinstance(target, dict) else {}, patch, made)


def _child(made: Type, key: str) -> Type:
    if made.form == STRUCT:
        return made.props.get(key, _UNTYPED)
    return made.value if made.form == MAP and made.value is not None else _UNTYPED


_UNTYPED: Final = Type(ANY)


def _strategic_map(target: dict[str, Any], patch: dict[str, Any], made: Type) -> dict[str, Any] | None:
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != _DIRECTIVE}
    if directive == "delete":
        return None
    if directive not in (None, "merge"):
        raise bad_request(f"unknown patch type found: {directive} at field $patch")
    out = dict(target)
    if _RETAIN in patch:
        kept = patch[_RETAIN] or []
        out = {key: value for key, value in out.items() if key in kept}
    for key, value in patch.items():
        if key in (_DIRECTIVE, _RETAIN) or key.startswith(_ORDER):
            continue
        if key.startswith(_DELETE_FROM):
            name = key.removeprefix(_DELETE_FROM)
            if isinstance(out.get(name), list):
                out[name] = [item for item in out[name] if item not in value]
            continue
        child = _child(made, key)
        new = _strategic_value(out.get(key), value, child, patch.get(_ORDER + key))
        if new is None:
            out.pop(key, None)
        else:
            out[key] = new
    for key, order in patch.items():
        name = key.removeprefix(_ORDER)
        if key.startswith(_ORDER) and name not in patch and isinstance(out.get(name), list):
            out[name] = _ordered(out[name], order, _child(made, name))
    return out


def _strategic_value(old: Any, new: Any, made: Type, order: Any) -> Any:
    if isinstance(new, dict):
        return _strategic_map(old if isinstance(old, dict) else {}, new, made)
    if isinstance(new, list) and made.form == LIST and made.merge_patch:
        merged = _strategic_list(old if isinstance(old, list) else [], new, made)
        return _ordered(merged, order, made) if order is not None else merged
    return new


def _strategic_list(old: list[Any], new: list[Any], made: Type) -> list[Any]:
    if not made.merge_key:
        return [*old, *(item for item in new if item not in old)]
    if any(isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" for item in new):
        return [item for item in new if not (isinstance(item, dict) and _DIRECTIVE in item)]
    out = list(old)
    inner = made.value or _UNTYPED
    for item in new:
        if not isinstance(item, dict) or made.merge_key not in item:
            raise bad_request(f"map: {item!r} does not contain declared merge key: {made.merge_key}")
        same = [at for at, there in enumerate(out) if there.get(made.merge_key) == item[made.merge_key]]
        if item.get(_DIRECTIVE) == "delete":
            out = [there for at, there in enumerate(out) if at not in same]
        elif same:
            out[same[0]] = _strategic_map(out[same[0]], item, inner) or {}
        else:
            fresh = _strategic_map({}, item, inner)
            out.append(fresh or {})
    return out


def _ordered(items: list[Any], order: Any, made: Type) -> list[Any]:
    """`items` in the order that `$setElementOrder` asks for; those it does not name keep their place at the end."""
    if not isinstance(order, list):
        return items
    key = made.merge_key
    wanted = [item.get(key) if key and isinstance(item, dict) else item for item in order]
    places = {repr(value): place for place, value in enumerate(wanted)}

    def place(item: Any) -> int:
        return places.get(repr(item.get(key) if key and isinstance(item, dict) else item), len(wanted))

    return sorted(items, key=place)
