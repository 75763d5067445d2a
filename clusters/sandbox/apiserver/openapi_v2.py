"""The protobuf form of an OpenAPI v2 document, which is the only one that kubectl before 1.27 reads.

Field numbers from gnostic's published `openapiv2/OpenAPIv2.proto`. Only what the documents made here contain.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from clusters.sandbox.apiserver.failures import Json

_STRINGS: Final = {"$ref": 1, "format": 2, "title": 3, "description": 4, "pattern": 13}
_VERBS: Final = {"get": 2, "put": 3, "post": 4, "delete": 5, "options": 6, "head": 7, "patch": 8}


def encode(document: Json) -> bytes:
    """The document as a gnostic `openapi.v2.Document` message."""
    info = _text(1, document["info"]["title"]) + _text(2, document["info"]["version"])
    paths = b"".join(_field(2, _named(path, _path_item(item))) for path, item in document["paths"].items())
    definitions = b"".join(_field(1, _named(name, _schema(made))) for name, made in document["definitions"].items())
    return _text(1, document["swagger"]) + _field(2, info) + _field(8, paths) + _field(9, definitions)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode())


def _true(number: int) -> bytes:
    return _varint(number << 3) + b"\x01"


def _named(name: str, payload: bytes) -> bytes:
    return _text(1, name) + _field(2, payload)


def _extensions(number: int, items: Iterable[tuple[str, Any]]) -> bytes:
    """Vendor extensions as NamedAny; JSON is YAML."""
    return b"".join(
        _field(number, _named(key, _text(2, orjson.dumps(value).decode())))
        for key, value in items
        if key.startswith("x-")
    )


def _schema(schema: Json) -> bytes:
    out = b"".join(_text(number, schema[key]) for key, number in _STRINGS.items() if isinstance(schema.get(key), str))
    out += b"".join(_text(19, name) for name in schema.get("required") or ())
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict):
        out += _field(21, _field(1, _schema(extra)))
    elif extra is True:
        out += _field(21, _true(2))
    if isinstance(schema.get("type"), str):
        out += _field(22, _text(1, schema["type"]))
    if isinstance(schema.get("items"), dict):
        out += _field(23, _field(1, _schema(schema["items"])))
    out += b"".join(_field(24, _schema(part)) for part in schema.get("allOf") or ())
    if properties := schema.get("properties"):
        out += _field(25, b"".join(_field(1, _named(name, _schema(made))) for name, made in properties.items()))
    return out + _extensions(31, schema.items())


def _path_item(item: Json) -> bytes:
    return b"".join(_field(_VERBS[verb], _operation(operation)) for verb, operation in item.items())


def _operation(operation: Json) -> bytes:
    out = _text(5, operation["operationId"])
    out += b"".join(_field(8, _parameter(parameter)) for parameter in operation["parameters"])
    response = _field(1, _text(1, "OK"))
    out += _field(9, _field(1, _named("200", response)))
    return out + _extensions(13, operation.items())


def _parameter(parameter: Json) -> bytes:
    """A query parameter of type string: ParametersItem > Parameter > NonBodyParameter > QueryParameterSubSchema."""
    query = _text(2, "query") + _text(4, parameter["name"]) + _text(6, "string")
    return _field(1, _field(2, _field(3, query)))
