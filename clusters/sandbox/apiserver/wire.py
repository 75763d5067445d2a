"""What one HTTP request says, read once: query parameters, accepted and given media types, body."""

from __future__ import annotations

import functools
from typing import Any, Final

import orjson
from aiohttp import web
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from clusters.sandbox.apiserver import protobuf
from clusters.sandbox.apiserver.failures import Json, StatusError, bad_request, unsupported_media
from clusters.sandbox.apiserver.registry import Request

_JSON: Final = "application/json"
_YAML_TYPES: Final = ("application/yaml", "application/apply-patch+yaml")
_VALIDATIONS: Final = ("", "Strict", "Warn", "Ignore")


class Wire:
    """One request's parameters."""

    __slots__ = ("query", "request")

    def __init__(self, request: web.BaseRequest) -> None:
        self.request = request
        self.query = request.query

    def flag(self, name: str) -> bool:
        return self.query.get(name, "") in ("true", "1")

    def number(self, name: str) -> int:
        """A whole number; 0 when it is not given. Raises: StatusError 400."""
        text = self.query.get(name, "")
        if not text:
            return 0
        if not text.isdecimal() or len(text) > 18:
            raise bad_request(f"invalid {name}: strconv.ParseUint: parsing {text[:40]!r}: invalid syntax")
        return int(text)

    @property
    def media(self) -> str:
        return self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def accept(self) -> str:
        return self.request.headers.get("Accept", "")

    @property
    def wants_table(self) -> bool:
        return accepts(self.accept, "Table") == "Table"

    def as_request(self, subresource: str = "") -> Request:
        """The options of a write. Raises: StatusError 400 or 422."""
        validation = self.query.get("fieldValidation", "")
        if validation not in _VALIDATIONS:
            raise bad_request(
                f'fieldValidation: Unsupported value: "{validation[:40]}": supported values: "Ignore", "Strict", "Warn"'
            )
        dry_run = self.query.get("dryRun", "")
        if dry_run not in ("", "All"):
            raise bad_request(f'dryRun: Unsupported value: "{dry_run[:40]}": supported values: "All"')
        manager = self.query.get("fieldManager", "")
        if len(manager) > 128:
            raise bad_request("fieldManager: Too long: may not be more than 128 bytes")
        agent = self.request.headers.get("User-Agent", "unknown").partition("/")[0][:128]
        return Request(
            manager=manager or agent,
            dry_run=dry_run == "All",
            field_validation=validation or "Warn",
            force=self.flag("force"),
            subresource=subresource,
        )


@functools.lru_cache(maxsize=512)
def accepts(header: str, kind: str) -> str:
    """`kind` when the first acceptable JSON form is the document "as" that kind; "" when it is plain JSON.

    Raises: StatusError 406 when no JSON form is acceptable.
    """
    if not header:
        return ""
    for part in header.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        if media == _JSON and values.get("as") == kind and values.get("v", "v1") in ("v1", "v2"):
            return kind
        if media in (_JSON, "*/*", "application/*") and "as" not in values:
            return ""
    raise StatusError(406, "NotAcceptable", "only the following media types are accepted: application/json")


async def read_body(wire: Wire, limit: int) -> Any:
    """The parsed body; None when it is empty. Raises: StatusError 400, 413 or 415."""
    request = wire.request
    if request.content_length is not None and request.content_length > limit:
        raise StatusError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")
    raw = await request.read()
    if len(raw) > limit:
        raise StatusError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")
    if not raw:
        return None
    media = wire.media
    if media == protobuf.MEDIA:
        return protobuf.decode(raw)
    if media and not media.endswith(("json", "yaml")):
        raise unsupported_media((_JSON, "application/yaml"))
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if media not in _YAML_TYPES:
            raise bad_request(f"the object provided is unrecognized: {error}") from None
    try:
        return _plain(YAML(typ="safe", pure=True).load(raw))
    except (YAMLError, ValueError, UnicodeDecodeError) as error:
        raise bad_request(f"error decoding YAML: {str(error).splitlines()[0]}") from None


def _plain(value: Any) -> Any:
    """Only what JSON has: YAML's dates become the strings they were."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def json_response(body: Json | bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return web.Response(body=raw, status=status, content_type=_JSON, headers=headers)
