"""Types of builtin kinds, compiled once per process from Kubernetes' published JSON schemas.

A `Type` tree says what a field may hold, how lists and maps merge (x-kubernetes-*), and reads a document the way the
real server's decoder does: wrong JSON types are refused, unknown fields are dropped and named, nulls are dropped,
quantities brought into canonical form. CRDs compile to the same tree (see `crds`).
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from clusters.sandbox.apiserver.failures import Json
from clusters.sandbox.apiserver.names import QUANTITY_TEXT, canonical_quantity
from scheduler.model.errors import InvalidObjectError

VERSION: Final = "1.37"
_FOLDER: Final = f"kubernetes-json-schema/v{VERSION}.0-local"
_PREFIX: Final = "#/$defs/"
_QUANTITY: Final = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_INT_OR_STRING: Final = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_OBJECT_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_ANYTHING: Final = frozenset(
    {
        "io.k8s.apimachinery.pkg.runtime.RawExtension",
        "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
    }
)

STRUCT: Final = "struct"
MAP: Final = "map"
LIST: Final = "list"
ANY: Final = "any"
QUANTITY: Final = "quantity"
INT_OR_STRING: Final = "int-or-string"
STRING: Final = "string"
INTEGER: Final = "integer"
NUMBER: Final = "number"
BOOLEAN: Final = "boolean"
CONTAINERS: Final = frozenset({STRUCT, MAP, LIST})


@dataclass(eq=False, slots=True)
class Type:
    """What one field may hold. Shared and recursive: filled once, never changed after."""

    form: str
    name: str = ""
    """Go-like name, for messages."""
    props: dict[str, Type] = field(default_factory=dict)
    value: Type | None = None
    """Of a map's values or a list's items."""
    required: tuple[str, ...] = ()
    enum: frozenset[str] | None = None
    list_type: str = "atomic"
    """atomic, set or map."""
    keys: tuple[str, ...] = ()
    atomic: bool = False
    """A map or struct that is replaced as a whole."""
    merge_key: str = ""
    """Strategic merge: items of the list are merged by this field ("": see `merge_patch`)."""
    merge_patch: bool = False
    """Strategic merge: the list is merged rather than replaced."""
    retain_keys: bool = False
    preserve: bool = False
    """Unknown fields are kept."""
    nullable: bool = False
    checks: Json = field(default_factory=dict)
    """CRDs only: the schema's value checks (see `crds`)."""
    has_default: bool = False
    default: Any = None
    defaults_inside: bool = False
    """CRDs only: some field at or below this one has a default."""
    embedded: bool = False
    rules: tuple[Json, ...] = ()
    """CRDs only: CEL rules on this field (see `rules`)."""
    rules_inside: bool = False


ANYTHING: Final = Type(ANY)
_SCALAR: Final = {STRING: str, BOOLEAN: bool}
_GO: Final = {STRING: "string", INTEGER: "int32", NUMBER: "float64", BOOLEAN: "bool"}


@functools.cache
def definitions() -> dict[str, Json]:
    """The published definitions by their full name (read-only)."""
    spec = importlib.util.find_spec("kubernetes_validate")
    if spec is None or spec.origin is None:
        raise InvalidObjectError("the package kubernetes-validate is not installed; run `make` to set up the project")
    path = Path(spec.origin).parent / _FOLDER / "_definitions.json"
    found: dict[str, Json] = orjson.loads(path.read_bytes())["$defs"]
    return found


@functools.cache
def definition_names() -> dict[tuple[str, str, str], str]:
    """(group, version, kind) to the name of its definition."""
    names: dict[tuple[str, str, str], str] = {}
    for name, schema in definitions().items():
        marks = schema.get("x-kubernetes-group-version-kind") or []
        if len(marks) == 1:
            names[(marks[0]["group"], marks[0]["version"], marks[0]["kind"])] = name
    return names


_types: dict[str, Type] = {}


def type_of(group: str, version: str, kind: str) -> Type:
    """The compiled type of a builtin kind."""
    return _named(definition_names()[(group, version, kind)])


def object_meta() -> Type:
    return _named(_OBJECT_META)


def _named(name: str) -> Type:
    found = _types.get(name)
    if found is not None:
        return found
    if name in _ANYTHING:
        return ANYTHING
    found = _types[name] = Type(ANY, name.rpartition(".")[2])  # filled below: definitions may refer to themselves
    if name == _QUANTITY:
        found.form = QUANTITY
    elif name == _INT_OR_STRING:
        found.form = INT_OR_STRING
    else:
        _fill(found, definitions()[name])
    return found


def _fill(made: Type, schema: Json) -> None:
    kinds = schema.get("type")
    kind = kinds if isinstance(kinds, str) else next((k for k in kinds or () if k != "null"), None)
    made.atomic = schema.get("x-kubernetes-map-type") == "atomic"
    if kind == "object":
        if "properties" in schema:
            made.form = STRUCT
            made.required = tuple(schema.get("required", ()))
            for key, prop in schema["properties"].items():
                made.props[key] = _property(prop, f"{made.name}.{key}")
        elif isinstance(schema.get("additionalProperties"), dict):
            made.form = MAP
            made.value = _property(schema["additionalProperties"], made.name)
    elif kind == "array":
        made.form = LIST
        made.value = _property(schema["items"], made.name)
        _fill_list(made, schema)
    elif kind in (STRING, INTEGER, NUMBER, BOOLEAN):
        made.form = kind
        values = schema.get("enum")
        made.enum = frozenset(values) if values else None


def _fill_list(made: Type, schema: Json) -> None:
    strategy = (schema.get("x-kubernetes-patch-strategy") or "").split(",")
    made.merge_key = schema.get("x-kubernetes-patch-merge-key") or ""
    made.merge_patch = "merge" in strategy
    made.list_type = schema.get("x-kubernetes-list-type") or ""
    made.keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())
    if not made.list_type:
        made.list_type = ("map" if made.merge_key else "set") if made.merge_patch else "atomic"
        made.keys = (made.merge_key,) if made.list_type == "map" else ()


def _property(schema: Json, name: str) -> Type:
    reference = schema.get("$ref")
    if reference is None:
        made = Type(ANY, name)
        _fill(made, schema)
        return made
    target = _named(reference.rpartition("/")[2])
    if "retainKeys" in (schema.get("x-kubernetes-patch-strategy") or "") and target.form == STRUCT:
        return Type(STRUCT, target.name, target.props, required=target.required, retain_keys=True)
    return target


class DecodeError(Exception):
    """A JSON type that does not fit the field."""


@dataclass(slots=True)
class Decoding:
    """What decoding found. `unknown`: paths of fields that the type does not have."""

    unknown: list[str] = field(default_factory=list)


def decode(made: Type, value: Any, path: str, found: Decoding) -> Any:  # noqa: C901  (one dispatch, kept in one place for speed)
    """`value` as `made` holds it; the very same object when nothing had to change. Raises: DecodeError."""
    form = made.form
    if form == STRING:
        if isinstance(value, str):
            return value
        raise _mismatch(made, value, path)
    if form == STRUCT:
        return _decode_struct(made, value, path, found)
    if form == LIST:
        return _decode_list(made, value, path, found)
    if form == MAP:
        return _decode_map(made, value, path, found)
    if form == INTEGER:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        raise _mismatch(made, value, path)
    if form == QUANTITY:
        return _decode_quantity(value)
    if form == BOOLEAN:
        if isinstance(value, bool):
            return value
        raise _mismatch(made, value, path)
    if form in (INT_OR_STRING, NUMBER) and (
        isinstance(value, bool) or not isinstance(value, (int, str) if form == INT_OR_STRING else (int, float))
    ):
        raise _mismatch(made, value, path)
    return value


def _decode_struct(made: Type, value: Any, path: str, found: Decoding) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(made, value, path)
    props = made.props
    out: Json | None = None
    for key, item in value.items():
        child = props.get(key)
        if child is not None and item is not None:
            new = decode(child, item, f"{path}.{key}" if path else key, found)
            if new is not item:
                out = dict(value) if out is None else out
                out[key] = new
        elif child is None and made.preserve:
            continue
        else:
            if child is None:
                found.unknown.append(f"{path}.{key}" if path else key)
            elif child.nullable:
                continue
            out = dict(value) if out is None else out
            del out[key]
    return value if out is None else out


def _decode_map(made: Type, value: Any, path: str, found: Decoding) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(made, value, path)
    inner = made.value
    assert inner is not None
    out: Json | None = None
    for key, item in value.items():
        new = ("" if inner.form == STRING else item) if item is None else decode(inner, item, f"{path}.{key}", found)
        if new is not item:
            out = dict(value) if out is None else out
            out[key] = new
    return value if out is None else out


def _decode_list(made: Type, value: Any, path: str, found: Decoding) -> Any:
    if not isinstance(value, list):
        raise _mismatch(made, value, path)
    inner = made.value
    assert inner is not None
    out: list[Any] | None = None
    for index, item in enumerate(value):
        new = decode(inner, item, f"{path}[{index}]", found)
        if new is not item:
            out = list(value) if out is None else out
            out[index] = new
    return value if out is None else out


def _decode_quantity(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DecodeError(QUANTITY_TEXT)
    try:
        text = canonical_quantity(str(value))
    except InvalidObjectError:
        raise DecodeError(QUANTITY_TEXT) from None
    return value if text == value else text


def _mismatch(made: Type, value: Any, path: str) -> DecodeError:
    kinds = {dict: "object", list: "array", bool: "bool", str: "string", int: "number", float: "number"}
    got = kinds.get(type(value), "null")
    go = _GO.get(made.form) or (f"v1.{made.name}" if made.form == STRUCT else made.form)
    return DecodeError(f"json: cannot unmarshal {got} into Go struct field {path or made.name} of type {go}")
