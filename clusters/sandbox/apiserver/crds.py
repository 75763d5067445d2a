"""Custom resource definitions: their structural schemas compiled to types, checks, defaults, printer columns, kinds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from clusters.sandbox.apiserver import names, rules, selectors
from clusters.sandbox.apiserver.failures import (
    Cause,
    Json,
    duplicate,
    invalid,
    invalid_plain,
    not_supported,
    required,
    shown,
)
from clusters.sandbox.apiserver.kinds import Column, Kind, ScalePaths
from clusters.sandbox.apiserver.schema import (
    ANY,
    BOOLEAN,
    INT_OR_STRING,
    INTEGER,
    LIST,
    MAP,
    NUMBER,
    STRING,
    STRUCT,
    Type,
    object_meta,
)

_CHECKED: Final = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
    "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "format", "enum", "allOf", "anyOf",
    "oneOf", "not",
)  # fmt: skip
_JSON_TYPES: Final = {
    STRUCT: (dict,), MAP: (dict,), LIST: (list,), STRING: (str,), INTEGER: (int,), NUMBER: (int, float),
    BOOLEAN: (bool,), INT_OR_STRING: (int, str),
}  # fmt: skip
_NAMES: Final = {STRUCT: "object", MAP: "object", LIST: "array"}


def kinds_of(crd: Json) -> tuple[Kind, ...]:
    """The served kinds of a CRD, one per version."""
    spec = crd["spec"]
    words = spec["names"]
    return tuple(_kind(spec, words, version) for version in spec["versions"] if version.get("served"))


def _kind(spec: Json, words: Json, version: Json) -> Kind:
    schema = (version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
    made = compile_schema(schema, words["kind"], root=True)
    parts = version.get("subresources") or {}
    scale = parts.get("scale")
    fields = {
        path["jsonPath"].removeprefix("."): selectors.read_path(path["jsonPath"].removeprefix("."))
        for path in version.get("selectableFields") or ()
    }
    return Kind(
        spec["group"],
        version["name"],
        words["kind"],
        words["plural"],
        words.get("singular") or words["kind"].lower(),
        spec["scope"] == "Namespaced",
        tuple(words.get("shortNames") or ()),
        tuple(words.get("categories") or ()),
        tuple(name for name in ("status", "scale") if name in parts),
        fields=fields,
        scale=_scale_paths(scale) if scale else None,
        unconditional=False,
        custom=made,
        columns=tuple(_column(column) for column in version.get("additionalPrinterColumns") or ()),
        document=schema,
    )


def _scale_paths(scale: Json) -> ScalePaths:
    return ScalePaths(
        scale["specReplicasPath"].removeprefix("."),
        scale["statusReplicasPath"].removeprefix("."),
        (scale.get("labelSelectorPath") or "").removeprefix("."),
    )


def _column(column: Json) -> Column:
    return Column(
        column["name"],
        json_path(column["jsonPath"]),
        column["type"],
        1 if column.get("priority") else 0,
        column.get("format") or "",
        column.get("description") or "",
    )


_STEP: Final = re.compile(
    r"\.([A-Za-z_$][\w$-]*(?:\\\.[\w$-]+)*(?:/[\w-]+)?)|\['([^']+)'\]|\[(\d+|\*)\]"
    r"|\[\?\(@\.([\w.]+)\s*==\s*['\"]([^'\"]*)['\"]\)\]"
)


def json_path(path: str) -> Callable[[Mapping[str, Any]], Any]:
    """A reader of a printer column's JSONPath (fields, indexes, `*`, and `[?(@.type=="x")]`); None: nothing there."""
    steps: list[Callable[[list[Any]], list[Any]]] = []
    for match in _STEP.finditer(path):
        name = (match[1] or match[2] or "").replace("\\.", ".")
        if name:
            steps.append(lambda at, name=name: [v[name] for v in at if isinstance(v, dict) and name in v])  # type: ignore[misc]
        elif match[3] == "*":
            steps.append(lambda at: [item for v in at if isinstance(v, list) for item in v])
        elif match[3]:
            index = int(match[3])
            steps.append(lambda at, i=index: [v[i] for v in at if isinstance(v, list) and len(v) > i])  # type: ignore[misc]
        else:
            read, want = selectors.read_path(match[4]), match[5]
            steps.append(
                lambda at, read=read, want=want: [  # type: ignore[misc]
                    item
                    for v in at
                    if isinstance(v, list)
                    for item in v
                    if isinstance(item, dict) and read(item) == want
                ]
            )

    def read_all(obj: Mapping[str, Any]) -> Any:
        found: list[Any] = [obj]
        for step in steps:
            found = step(found)
        return found[0] if found else None

    return read_all


# Schemas -----------------------------------------------------------------------------------------------------------


def compile_schema(schema: Json, name: str, *, root: bool = False) -> Type:
    """The type of a structural schema. Fields that it does not name are pruned, unless it preserves them."""
    made = Type(ANY, name)
    made.nullable = bool(schema.get("nullable"))
    made.preserve = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    made.embedded = bool(schema.get("x-kubernetes-embedded-resource"))
    made.atomic = schema.get("x-kubernetes-map-type") == "atomic"
    made.checks = {key: schema[key] for key in _CHECKED if key in schema}
    if "default" in schema:
        made.has_default, made.default = True, schema["default"]
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        made.form = INT_OR_STRING
    elif kind == "object":
        _compile_object(made, schema, name, root=root)
    elif kind == "array":
        made.form = LIST
        made.value = compile_schema(schema.get("items") or {"x-kubernetes-preserve-unknown-fields": True}, name)
        made.list_type = schema.get("x-kubernetes-list-type") or "atomic"
        made.keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())
    elif kind in (STRING, INTEGER, NUMBER, BOOLEAN):
        made.form = str(kind)
    inside = [*made.props.values(), *((made.value,) if made.value else ())]
    made.rules = tuple(schema.get(rules.KEY) or ())
    made.rules_inside = bool(made.rules) or any(child.rules_inside for child in inside)
    made.defaults_inside = made.has_default or any(child.defaults_inside for child in inside)
    return made


def _compile_object(made: Type, schema: Json, name: str, *, root: bool) -> None:
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict) and not properties:
        made.form, made.value = MAP, compile_schema(extra, name)
        return
    if extra is True:
        made.preserve = True
    if not properties and made.preserve and not (root or made.embedded):
        made.form = ANY
        made.checks = {**made.checks, "type": "object"}
        return
    made.form = STRUCT
    made.props = {key: compile_schema(value, f"{name}.{key}") for key, value in properties.items()}
    made.required = tuple(schema.get("required") or ())
    if root or made.embedded:
        made.props["apiVersion"] = made.props["kind"] = Type(STRING)
        made.props["metadata"] = object_meta() if root else Type(ANY)


def with_defaults(made: Type, value: Any) -> Any:
    """`value` with the schema's defaults where fields are missing; the same object when none were."""
    if not made.defaults_inside:
        return value
    if made.form == STRUCT and isinstance(value, dict):
        out: Json | None = None
        for key, child in made.props.items():
            if key in value and not (value[key] is None and child.has_default and not child.nullable):
                new = with_defaults(child, value[key])
                if new is value[key]:
                    continue
            elif child.has_default:
                new = with_defaults(child, child.default)
            else:
                continue
            out = dict(value) if out is None else out
            out[key] = new
        return value if out is None else out
    inner = made.value
    if inner is None:
        return value
    if made.form == LIST and isinstance(value, list):
        return [with_defaults(inner, item) for item in value]
    if made.form == MAP and isinstance(value, dict):
        return {key: with_defaults(inner, item) for key, item in value.items()}
    return value


def pruned(made: Type, value: Any, path: str, unknown: list[str]) -> Any:
    """`value` less the fields that the schema does not name (listed in `unknown`), nulls of plain fields dropped."""
    if made.form == STRUCT and isinstance(value, dict):
        out: Json | None = None
        for key, item in value.items():
            child = made.props.get(key)
            at = f"{path}.{key}" if path else key
            if child is None and made.preserve:
                continue
            if child is None or (item is None and not child.nullable and not child.has_default):
                if child is None:
                    unknown.append(at)
                out = dict(value) if out is None else out
                del out[key]
                continue
            new = pruned(child, item, at, unknown) if child.form != ANY and key != "metadata" else item
            if new is not item:
                out = dict(value) if out is None else out
                out[key] = new
        return value if out is None else out
    inner = made.value
    if inner is not None and inner.form in (STRUCT, LIST, MAP):
        if made.form == LIST and isinstance(value, list):
            return [pruned(inner, item, f"{path}[{index}]", unknown) for index, item in enumerate(value)]
        if made.form == MAP and isinstance(value, dict):
            return {key: pruned(inner, item, f"{path}.{key}", unknown) for key, item in value.items()}
    return value


def causes(made: Type, value: Any, path: str) -> Iterator[Cause]:
    """Every way in which `value` breaks the schema, worded as the real server words them."""
    if value is None:
        if not made.nullable:
            yield invalid(path, None, f'{path} in body must be of type {_NAMES.get(made.form, made.form)}: "null"')
        return
    wanted: tuple[type, ...] | None = _JSON_TYPES.get(made.form)
    if made.form == ANY and made.checks.get("type") == "object":
        wanted = (dict,)
    if wanted is not None and not _is_a(value, wanted, made.form):
        yield _wrong_type(path, value, "object" if made.form == ANY else _NAMES.get(made.form, made.form))
        return
    if made.checks:
        yield from _value_causes(made.checks, value, path)
    inner = made.value
    if made.form == STRUCT:
        yield from _field_causes(made, value, path)
    elif inner is not None and made.form == MAP:
        for key, item in value.items():
            yield from causes(inner, item, f"{path}.{key}")
    elif inner is not None:
        yield from _item_causes(made, inner, value, path)


def _field_causes(made: Type, value: Json, path: str) -> Iterator[Cause]:
    for key in made.required:
        if key not in value:
            yield required(f"{path}.{key}" if path else key)
    for key, item in value.items():
        child = made.props.get(key)
        if child is not None and not (key == "metadata" and not path):
            yield from causes(child, item, f"{path}.{key}" if path else key)


def _item_causes(made: Type, inner: Type, items: list[Any], path: str) -> Iterator[Cause]:
    seen: set[bytes] = set()
    for index, item in enumerate(items):
        yield from causes(inner, item, f"{path}[{index}]")
        if made.list_type == "atomic":
            continue
        key: Any = item
        if made.list_type == "map" and isinstance(item, dict):
            key = {
                name: item.get(name, inner.props[name].default if name in inner.props else None) for name in made.keys
            }
        encoded = orjson.dumps(key, option=orjson.OPT_SORT_KEYS)
        if encoded in seen:
            yield duplicate(f"{path}[{index}]", key)
        seen.add(encoded)


def _is_a(value: Any, wanted: tuple[type, ...], form: str) -> bool:
    if isinstance(value, bool):
        return form == BOOLEAN
    return isinstance(value, wanted) or (form == INTEGER and isinstance(value, float) and value.is_integer())


def _wrong_type(path: str, value: Any, wanted: str) -> Cause:
    kinds = {dict: "object", list: "array", bool: "boolean", str: "string", int: "integer", float: "number"}
    got = kinds.get(type(value), "null")
    return Cause(
        "FieldValueTypeInvalid",
        path,
        f'Invalid value: "{got}": {path} in body must be of type {wanted}: "{got}"',
    )


def _value_causes(checks: Json, value: Any, path: str) -> Iterator[Cause]:
    allowed = checks.get("enum")
    if allowed is not None and value not in allowed:
        yield not_supported(path, value, [word if isinstance(word, str) else shown(word) for word in allowed])
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number_causes(checks, value, path)
    elif isinstance(value, str):
        yield from _string_causes(checks, value, path)
    elif isinstance(value, (list, dict)):
        few, many, what = (
            ("minItems", "maxItems", "items")
            if isinstance(value, list)
            else ("minProperties", "maxProperties", "properties")
        )
        if few in checks and len(value) < checks[few]:
            yield invalid(path, len(value), f"{path} in body should have at least {checks[few]} {what}")
        if many in checks and len(value) > checks[many]:
            yield Cause("FieldValueTooMany", path, f"Too many: {len(value)}: must have at most {checks[many]} {what}")
    if any(key in checks for key in ("allOf", "anyOf", "oneOf", "not")):
        yield from _junctor_causes(checks, value, path)


def _number_causes(checks: Json, value: float, path: str) -> Iterator[Cause]:
    low, high = checks.get("minimum"), checks.get("maximum")
    if low is not None and (value <= low if checks.get("exclusiveMinimum") else value < low):
        yield invalid(path, value, f"{path} in body should be greater than or equal to {low}")
    if high is not None and (value >= high if checks.get("exclusiveMaximum") else value > high):
        yield invalid(path, value, f"{path} in body should be less than or equal to {high}")
    if (step := checks.get("multipleOf")) and value % step:
        yield invalid(path, value, f"{path} in body should be a multiple of {step}")


def _string_causes(checks: Json, value: str, path: str) -> Iterator[Cause]:
    if len(value) < checks.get("minLength", 0):
        yield invalid(path, value, f"{path} in body should be at least {checks['minLength']} chars long")
    if "maxLength" in checks and len(value) > checks["maxLength"]:
        yield Cause("FieldValueTooLong", path, f"Too long: may not be more than {checks['maxLength']} bytes")
    if (pattern := checks.get("pattern")) and not re.search(pattern, value):
        yield invalid(path, value, f"{path} in body should match '{pattern}'")
    if checks.get("format") == "date-time" and not _is_time(value):
        yield invalid(path, value, f"{path} in body must be of type date-time: {shown(value)}")


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None and "T" in text.upper()
    except ValueError:
        return False


def _junctor_causes(checks: Json, value: Any, path: str) -> Iterator[Cause]:
    def holds(schema: Json) -> bool:
        return next(causes(_value_schema(schema), value, path), None) is None

    if not all(holds(schema) for schema in checks.get("allOf") or ()):
        yield invalid_plain(path, f'"{path}" must validate all the schemas (allOf)')
    if (any_of := checks.get("anyOf")) and not any(holds(schema) for schema in any_of):
        yield invalid_plain(path, f'"{path}" must validate at least one schema (anyOf)')
    if (one_of := checks.get("oneOf")) and sum(holds(schema) for schema in one_of) != 1:
        yield invalid_plain(path, f'"{path}" must validate one and only one schema (oneOf)')
    if (negated := checks.get("not")) and holds(negated):
        yield invalid_plain(path, f'"{path}" must not validate the schema (not)')


def _value_schema(schema: Json) -> Type:
    """The type of a schema inside allOf/anyOf/oneOf/not, which constrains but does not name fields."""
    shaped = {"x-kubernetes-preserve-unknown-fields": True, **schema}
    if "type" not in shaped and ("properties" in shaped or "required" in shaped):
        shaped = {**shaped, "type": "object", "properties": shaped.get("properties") or {}}
        made = compile_schema({**shaped, "x-kubernetes-embedded-resource": False}, "")
        made.form, made.required = STRUCT, tuple(schema.get("required") or ())
        return made
    return compile_schema(shaped, "")


# Definitions themselves --------------------------------------------------------------------------------------------


def definition_causes(crd: Json) -> Iterator[Cause]:
    """What is wrong with a CustomResourceDefinition."""
    spec = crd.get("spec") or {}
    words = spec.get("names") or {}
    wanted = f"{words.get('plural')}.{spec.get('group')}"
    if crd["metadata"]["name"] != wanted:
        yield invalid("metadata.name", crd["metadata"]["name"], 'must be spec.names.plural+"."+spec.group')
    if spec.get("scope") not in ("Cluster", "Namespaced"):
        yield not_supported("spec.scope", spec.get("scope") or "", ("Cluster", "Namespaced"))
    group = spec.get("group") or ""
    for fault in names.subdomain_faults(group):
        yield invalid("spec.group", group, fault)
    if "." not in group:
        yield invalid("spec.group", group, "should be a domain with at least one dot")
    for field in ("plural", "singular"):
        for fault in names.dns1035_faults(words.get(field) or ""):
            yield invalid(f"spec.names.{field}", words.get(field) or "", fault)
    if (spec.get("conversion") or {}).get("strategy") != "None":
        yield not_supported("spec.conversion.strategy", spec["conversion"].get("strategy"), ("None",))
    versions = spec.get("versions") or []
    if sum(bool(version.get("storage")) for version in versions) != 1:
        yield invalid_plain("spec.versions", "must have exactly one version marked as storage version")
    for index, version in enumerate(versions):
        path = f"spec.versions[{index}]"
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        if schema is None:
            yield required(f"{path}.schema.openAPIV3Schema", "schemas are required")
        elif schema.get("type") != "object":
            yield invalid(f"{path}.schema.openAPIV3Schema.type", schema.get("type") or "", "must be object at the root")
        else:
            yield from _structural_causes(schema, f"{path}.schema.openAPIV3Schema")


def _structural_causes(schema: Any, path: str) -> Iterator[Cause]:
    if not isinstance(schema, dict):
        yield invalid(path, schema, "must be an object")
        return
    kinds = ("array", "boolean", "integer", "number", "object", "string")
    kind = schema.get("type")
    free = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-int-or-string")
    if kind is None and not free:
        yield required(f"{path}.type", "must not be empty for specified object fields")
    elif kind is not None and kind not in kinds:
        yield not_supported(f"{path}.type", kind, kinds)
    if kind == "array" and "items" not in schema:
        yield required(f"{path}.items", "must be specified")
    if schema.get("properties") and isinstance(schema.get("additionalProperties"), dict):
        yield Cause("FieldValueForbidden", path, "Forbidden: additionalProperties and properties are mutual exclusive")
    if schema.get("uniqueItems"):
        yield Cause(
            "FieldValueForbidden",
            f"{path}.uniqueItems",
            "Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        )
    yield from _expression_causes(schema, path)
    for key, child in (schema.get("properties") or {}).items():
        yield from _structural_causes(child, f"{path}.properties[{key}]")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _structural_causes(schema[key], f"{path}.{key}")


def _expression_causes(schema: Json, path: str) -> Iterator[Cause]:
    """What is wrong with a schema's pattern and its rules."""
    if pattern := schema.get("pattern"):
        try:
            re.compile(pattern)
        except re.error as error:
            yield invalid(f"{path}.pattern", pattern, f"must be a valid regular expression, but isn't: {error}")
    for index, rule in enumerate(schema.get(rules.KEY) or ()):
        if problem := rules.rule_problem(rule.get("rule")):
            yield invalid(f"{path}.{rules.KEY}[{index}].rule", rule.get("rule"), problem)


def established_status(crd: Json, time: str) -> Json:
    """The status of a CRD whose kinds are served."""
    condition = {"status": "True", "lastTransitionTime": time}
    old = (crd.get("status") or {}).get("storedVersions") or []
    storage = next(version["name"] for version in crd["spec"]["versions"] if version.get("storage"))
    return {
        "acceptedNames": crd["spec"]["names"],
        "storedVersions": [*old, *((storage,) if storage not in old else ())],
        "conditions": [
            {**condition, "type": "NamesAccepted", "reason": "NoConflicts", "message": "no conflicts found"},
            {
                **condition,
                "type": "Established",
                "reason": "InitialNamesAccepted",
                "message": "the initial names have been accepted",
            },
        ],
    }
