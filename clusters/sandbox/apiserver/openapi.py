"""OpenAPI documents, as far as clients need them: v3 (apply, explain, field validation) and v2 (older kubectl).

Made on first request and remembered: builtin groups once per process, custom ones per change of the kinds.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import orjson
from aiohttp import web

from clusters.sandbox.apiserver import openapi_v2, schema
from clusters.sandbox.apiserver.failures import Json, no_such_path
from clusters.sandbox.apiserver.kinds import Kind, KindTable
from clusters.sandbox.apiserver.wire import Wire, json_response

_DEFS: Final = "#/$defs/"
_OBJECT_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_MARK: Final = "x-kubernetes-group-version-kind"
_PARAMETERS: Final = ("dryRun", "fieldManager", "fieldValidation", "force", "pretty")
_PATCHES: Final = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
_V2_PROTOBUF: Final = "application/com.github.proto-openapi.spec.v2"


def answer(kinds: KindTable, path: str, wire: Wire) -> web.Response | None:
    """The document at `path`; None when that is no OpenAPI path. Raises: StatusError 404."""
    if path == "/openapi/v3":
        return json_response({"paths": _index(kinds)})
    if path == "/openapi/v2":
        return _v2(kinds, wire)
    if not path.startswith("/openapi/v3/"):
        return None
    name = path.removeprefix("/openapi/v3/")
    chosen = tuple(kind for kind in kinds.all() if _path_of(kind) == name)
    if not chosen:
        raise no_such_path()
    return json_response(_document(chosen))


def _path_of(kind: Kind) -> str:
    return f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}"


def _index(kinds: KindTable) -> Json:
    return {
        name: {"serverRelativeURL": f"/openapi/v3/{name}?hash={schema.VERSION}-{kinds.revision}"}
        for name in sorted({_path_of(kind) for kind in kinds.all()})
    }


@functools.lru_cache(maxsize=128)
def _document(kinds: tuple[Kind, ...]) -> bytes:
    schemas: Json = {}
    paths: Json = {}
    for kind in kinds:
        name = definition_name(kind)
        if kind.custom is None:
            _collect(name, schemas)
        else:
            schemas[name] = custom_schema(kind, "#/components/schemas/")
            _collect(_OBJECT_META, schemas)
        paths.update(_paths(kind, {"$ref": f"#/components/schemas/{name}"}))
    info = {"title": "Kubernetes", "version": f"v{schema.VERSION}.0"}
    return orjson.dumps({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}})


def definition_name(kind: Kind) -> str:
    """The name of a kind's schema in the documents."""
    if kind.custom is None:
        return schema.definition_names()[(kind.group, kind.version, kind.kind)]
    return ".".join([*reversed(kind.group.split(".")), kind.version, kind.kind])


def custom_schema(kind: Kind, prefix: str) -> Json:
    """A custom resource's schema with the fields that every object has."""
    document = dict(kind.document or {"type": "object"})
    document["properties"] = {
        **(document.get("properties") or {}),
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"allOf": [{"$ref": prefix + _OBJECT_META}]},
    }
    document[_MARK] = [{"group": kind.group, "version": kind.version, "kind": kind.kind}]
    return document


def _collect(name: str, into: Json) -> None:
    """Put the definition `name` and all that it refers to into `into`."""
    pending = [name]
    while pending:
        name = pending.pop()
        if name not in into:
            into[name] = _converted(schema.definitions()[name], pending)


def _converted(value: Any, found: list[str]) -> Any:
    """A published JSON schema as OpenAPI v3; the names that it refers to are added to `found`."""
    if isinstance(value, list):
        return [_converted(item, found) for item in value]
    if not isinstance(value, dict):
        return value
    out: Json = {}
    for key, item in value.items():
        if key == "$ref" and isinstance(item, str):
            name = item.rpartition("/")[2]
            found.append(name)
            out["allOf"] = [{"$ref": f"#/components/schemas/{name}"}]
        elif key == "type" and isinstance(item, list):
            out["type"] = next(kind for kind in item if kind != "null")
        elif key == "properties" and isinstance(item, dict):
            out["properties"] = {name: _converted(prop, found) for name, prop in item.items()}
        else:
            out[key] = _converted(item, found)
    if set(out) == {"allOf"}:
        return out["allOf"][0]
    return out


def _paths(kind: Kind, reference: Json) -> Json:
    """The paths of a kind: clients look here for what an operation accepts."""
    base = f"/{_path_of(kind)}" + ("/namespaces/{namespace}" if kind.namespaced else "") + f"/{kind.plural}"
    mark = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in _PARAMETERS]
    answered = {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}}
    patches = _PATCHES if kind.custom is None else _PATCHES[:3]

    def operation(action: str, body: Json | None) -> Json:
        made = {
            "operationId": f"{action}{kind.group}{kind.version}{kind.kind}",
            "parameters": parameters,
            "responses": answered,
            "x-kubernetes-action": action,
            _MARK: mark,
        }
        return {**made, "requestBody": {"content": body}} if body else made

    whole = {"*/*": {"schema": reference}}
    one = {
        "get": operation("get", None),
        "put": operation("put", whole),
        "patch": operation("patch", {media: {"schema": {"type": "object"}} for media in patches}),
        "delete": operation("delete", None),
    }
    return {base: {"get": operation("list", None), "post": operation("post", whole)}, base + "/{name}": one}


# Version 2 ---------------------------------------------------------------------------------------------------------


def _v2(kinds: KindTable, wire: Wire) -> web.Response:
    document = _v2_document(kinds.all())
    if _V2_PROTOBUF in wire.accept:
        return web.Response(body=_v2_encoded(kinds.all()), headers={"Content-Type": f"{_V2_PROTOBUF}.v1.0+protobuf"})
    return json_response(document)


@functools.lru_cache(maxsize=16)
def _v2_encoded(kinds: tuple[Kind, ...]) -> bytes:
    return openapi_v2.encode(_v2_document(kinds))


@functools.lru_cache(maxsize=16)
def _v2_document(kinds: tuple[Kind, ...]) -> Json:
    schemas: Json = {}
    paths: Json = {}
    for kind in kinds:
        name = definition_name(kind)
        if kind.custom is None:
            _collect(name, schemas)
        else:
            schemas[name] = custom_schema(kind, "#/components/schemas/")
            _collect(_OBJECT_META, schemas)
        for path, operations in _paths(kind, {}).items():
            paths[path] = {verb: _v2_operation(operation) for verb, operation in operations.items()}
    info = {"title": "Kubernetes", "version": f"v{schema.VERSION}.0"}
    return {
        "swagger": "2.0",
        "info": info,
        "paths": paths,
        "definitions": {name: _v2_schema(made) for name, made in sorted(schemas.items())},
    }


def _v2_operation(operation: Json) -> Json:
    out = {key: value for key, value in operation.items() if key not in ("requestBody", "responses")}
    out["parameters"] = [{"name": p["name"], "in": "query", "type": "string"} for p in operation["parameters"]]
    out["responses"] = {"200": {"description": "OK"}}
    return out


def _v2_schema(value: Any) -> Any:
    """OpenAPI v2 knows no oneOf, anyOf, not, nullable: what is left says less, never something else."""
    if isinstance(value, list):
        return [_v2_schema(item) for item in value]
    if not isinstance(value, dict):
        return value
    out: Json = {}
    for key, item in value.items():
        if key in ("oneOf", "anyOf", "not", "nullable"):
            continue
        if key == "properties" and isinstance(item, dict):
            out[key] = {name: _v2_schema(prop) for name, prop in item.items()}
        elif key == "allOf" and len(item) == 1 and "$ref" in item[0]:
            out["$ref"] = item[0]["$ref"].replace("#/components/schemas/", "#/definitions/")
        elif key == "$ref" and isinstance(item, str):
            out[key] = item.replace("#/components/schemas/", "#/definitions/")
        else:
            out[key] = _v2_schema(item)
    if "oneOf" in value and "type" not in out:
        out["type"] = "string"
    return out
