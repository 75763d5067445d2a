"""Sets of fields in the FieldsV1 form of managedFields, and the typed walks that make, compare and remove them.

A set is a tree of dicts: `{}` is a member; `{".": {}, ...}` a member with members inside; anything else only leads to
members. Keys are `f:<field>`, `k:<JSON of a list item's keys>`, `v:<JSON of a set's value>`.
Source: the FieldsV1 description in the Kubernetes API reference, and sigs.k8s.io/structured-merge-diff.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

from clusters.sandbox.apiserver.failures import Json, bad_request
from clusters.sandbox.apiserver.schema import ANY, ANYTHING, LIST, MAP, STRUCT, Type

Fields = dict[str, Any]
SELF: Final = "."
_KEY_DEFAULTS: Final = {"protocol": "TCP"}


def item_key(item: Any, made: Type) -> str:
    """The set key of an item of an associative list. Raises: StatusError 400 when its keys are missing."""
    if made.list_type == "set":
        return "v:" + orjson.dumps(item).decode()
    if not isinstance(item, dict):
        raise bad_request(f"associative list with keys has an element that is not an object: {str(item)[:60]}")
    keys = {}
    for key in sorted(made.keys):
        value = item.get(key, _KEY_DEFAULTS.get(key))
        if value is not None:
            keys[key] = value
    if not keys:
        raise bad_request(f"associative list with keys has an element that omits key field {made.keys[0]!r}")
    return "k:" + orjson.dumps(keys).decode()


def keyed(items: list[Any], made: Type) -> dict[str, Any]:
    """Items of an associative list by their set key, in order; the last of equal ones wins."""
    return {item_key(item, made): item for item in items}


def is_granular(made: Type, value: Any) -> bool:
    """Whether the fields inside `value` are owned one by one, rather than the value as a whole."""
    if isinstance(value, dict):
        return made.form in (STRUCT, MAP, ANY) and not made.atomic
    return isinstance(value, list) and made.form == LIST and made.list_type != "atomic"


def child_type(made: Type, key: str) -> Type:
    if made.form == STRUCT:
        return made.props.get(key, ANYTHING)
    if made.form == MAP and made.value is not None:
        return made.value
    return ANYTHING


def fields_of(made: Type, value: Any) -> Fields:
    """The set of all fields that `value` has; {} (a member itself) for a leaf, an empty or an atomic value."""
    if not value or not is_granular(made, value):
        return {}
    if isinstance(value, dict):
        return {f"f:{key}": fields_of(child_type(made, key), item) for key, item in value.items()}
    inner = made.value or ANYTHING
    out: Fields = {}
    for key, item in keyed(value, made).items():
        fields = fields_of(inner, item)
        # An item that is owned as a whole has none.
        out[key] = {SELF: {}, **fields} if fields else {}
    return out


def changed_fields(made: Type, old: Any, new: Any) -> tuple[Fields, Fields]:
    """(fields of `new` that are new or differ, fields of `old` that are gone), as sets; {} where there are none.

    Both values are granular containers of the same kind; subtrees that are the same object cost nothing.
    """
    changed: Fields = {}
    gone: Fields = {}
    for key, child, before, after in _pairs(made, old, new):
        if before is after or (before == after and before is not None):
            continue
        if after is None:
            gone[key] = _whole(child, before, key)
        elif before is None:
            changed[key] = _whole(child, after, key, container=True)
        elif type(before) is type(after) and is_granular(child, after) and before and after:
            inside, lost = changed_fields(child, before, after)
            if inside:
                changed[key] = inside
            if lost:
                gone[key] = lost
        else:
            changed[key] = _whole(child, after, key, container=True)
            if before and is_granular(child, before):
                gone[key] = _whole(child, before, key)
    return changed, gone


def _whole(made: Type, value: Any, key: str, *, container: bool = False) -> Fields:
    inside = fields_of(made, value)
    if inside and (container or key[0] == "k"):
        return {SELF: {}, **inside}
    return inside


def _pairs(made: Type, old: Any, new: Any) -> Iterator[tuple[str, Type, Any, Any]]:
    if isinstance(new, dict):
        for key, after in new.items():
            before = old.get(key)
            if before is not after:
                yield f"f:{key}", child_type(made, key), before, after
        for key, before in old.items():
            if key not in new:
                yield f"f:{key}", child_type(made, key), before, None
        return
    inner = made.value or ANYTHING
    was, now = keyed(old, made), keyed(new, made)
    for key, after in now.items():
        yield key, inner, was.get(key), after
    for key, before in was.items():
        if key not in now:
            yield key, inner, before, None


# Set algebra -------------------------------------------------------------------------------------------------------


def is_member(node: Fields) -> bool:
    return not node or SELF in node


def union(one: Fields, other: Fields) -> Fields:
    out = dict(one)
    for key, node in other.items():
        mine = out.get(key)
        if mine is None:
            out[key] = node
        elif key != SELF:
            out[key] = _join(mine, node)
    return out


def _join(one: Fields, other: Fields) -> Fields:
    if not one and not other:
        return {}
    joined = union(one, other)
    if (is_member(one) or is_member(other)) and joined:
        joined[SELF] = {}
    return joined


def difference(one: Fields, other: Fields) -> Fields:
    """Members of `one` that are not members of `other`."""
    out: Fields = {}
    for key, node in one.items():
        theirs = other.get(key)
        if theirs is None:
            out[key] = node
            continue
        if key == SELF:
            continue
        inside = difference({k: v for k, v in node.items() if k != SELF}, theirs)
        if is_member(node) and not is_member(theirs):
            out[key] = {SELF: {}, **inside} if inside else {}
        elif inside:
            out[key] = inside
    return out


def intersection(one: Fields, other: Fields) -> Fields:
    """Members that both have."""
    out: Fields = {}
    for key, node in one.items():
        theirs = other.get(key)
        if theirs is None:
            continue
        inside = intersection({k: v for k, v in node.items() if k != SELF}, theirs)
        both = is_member(node) and is_member(theirs)
        if both:
            out[key] = {SELF: {}, **inside} if inside else {}
        elif inside:
            out[key] = inside
    return out


def members(fields: Fields, prefix: str = "") -> Iterator[str]:
    """Each member as the path that messages show: .spec.replicas, .spec.containers[name="main"].image"""
    for key, node in fields.items():
        if key == SELF:
            continue
        path = prefix + _shown(key)
        if is_member(node):
            yield path
        yield from members(node, path)


def _shown(key: str) -> str:
    if key.startswith("f:"):
        return f".{key[2:]}"
    if key.startswith("k:"):
        keys = orjson.loads(key[2:])
        return "[" + ",".join(f"{name}={orjson.dumps(value).decode()}" for name, value in keys.items()) + "]"
    return f"[={key[2:]}]"


def without(made: Type, value: Any, fields: Fields, kept: Fields) -> Any:
    """`value` less the members of `fields`, except what is in `kept`; None when nothing of it is left."""
    if isinstance(value, dict):
        out: Json = {}
        for key, item in value.items():
            left = _without_child(child_type(made, key), item, f"f:{key}", fields, kept)
            if left is not None:
                out[key] = left
        return out if out or not value else None
    inner = made.value or ANYTHING
    items = []
    for item in value:
        left = _without_child(inner, item, item_key(item, made), fields, kept)
        if left is not None:
            items.append(left)
    return items or None


def _without_child(made: Type, item: Any, key: str, fields: Fields, kept: Fields) -> Any:
    node = fields.get(key)
    if node is None:
        return item
    keep = kept.get(key)
    granular = is_granular(made, item)
    if keep is None:
        if is_member(node) or not granular:
            return None
        return without(made, item, node, {})
    if granular and item:
        left = without(made, item, node, keep)
        return type(item)() if left is None and is_member(keep) else left
    return item
