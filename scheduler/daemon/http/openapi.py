"""The OpenAPI description of what the daemon serves, made from the same table as its routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from scheduler.daemon.http import answers

OPEN: Final = "open"
READ: Final = "read"
WRITE: Final = "write"
WEBHOOK: Final = "webhook"
JSON: Final = "application/json"
TEXT: Final = "text/plain"
SSE: Final = "text/event-stream"
_REF: Final = "#/components/schemas/{model}"
_MEANING: Final = {
    400: "The request makes no sense; the error says how to put it.",
    401: "A bearer token is needed, or the one that was sent is nobody's.",
    403: "That user may not.",
    404: "No such thing.",
    409: "Not in this state or mode.",
    503: "It cannot be said or done now; try again.",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    schema: dict[str, Any]
    text: str
    where: str = "query"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path: how it is answered, and what is said of it."""

    method: str
    path: str
    name: str
    summary: str
    handler: Handler
    answer: type[BaseModel] | None = None
    """None: text, or an object that is described elsewhere."""
    parameters: tuple[Parameter, ...] = ()
    body: type[BaseModel] | None = None
    errors: tuple[int, ...] = ()
    access: str = READ
    media: str = JSON


def description(routes: Iterable[Route]) -> dict[str, Any]:
    """OpenAPI 3.1 of the routes."""
    routes = tuple(routes)
    models = {each for route in routes for each in (route.answer, route.body) if each is not None} | {answers.Error}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "serialization") for model in ordered], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Overspill",
            "version": "1",
            "description": "What the daemon knows and decides, and the switches that people throw. Within v1 answers "
            "may grow keys; none goes or changes its meaning. Amounts of money are exact decimals, as text.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of listen.tokenFile, or a Kubernetes token of the hub: TokenReview says "
                    "whose it is, SubjectAccessReview whether that user may. To look, list Jobs in all namespaces; to "
                    "throw switches, patch the ConfigMap overspill-NAME in kube-system.",
                },
                "webhook": {"type": "http", "scheme": "bearer", "description": "The token of alerts.webhookTokenFile."},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    plain = {"type": "object" if route.media == JSON else "string"}
    schema: dict[str, Any] = plain if route.answer is None else _named(route.answer)
    told: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": {
            "200": {"description": "The answer.", "content": {route.media: {"schema": schema}}},
            **{str(status): _error(status, route) for status in _errors(route)},
        },
    }
    if route.parameters:
        told["parameters"] = [
            {
                "name": one.name,
                "in": one.where,
                "required": one.required or one.where == "path",
                "description": one.text,
                "schema": one.schema,
            }
            for one in route.parameters
        ]
    if route.body is not None:
        told["requestBody"] = {"required": True, "content": {JSON: {"schema": _named(route.body)}}}
    # To look needs no token over loopback: the empty requirement stands for that.
    security: dict[str, list[dict[str, list[str]]]] = {
        READ: [{}, {"bearer": []}],
        WRITE: [{"bearer": []}],
        WEBHOOK: [{"webhook": []}],
    }
    if route.access in security:
        told["security"] = security[route.access]
    return told


def _errors(route: Route) -> list[int]:
    usual = {READ: (401, 403, 503), WRITE: (400, 401, 403, 503), WEBHOOK: (400, 401, 503)}.get(route.access, ())
    return sorted({*usual, *route.errors})


def _error(status: int, route: Route) -> dict[str, Any]:
    media, schema = (TEXT, {"type": "string"}) if route.access == OPEN else (JSON, _named(answers.Error))
    return {"description": _MEANING[status], "content": {media: {"schema": schema}}}


def _named(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}
