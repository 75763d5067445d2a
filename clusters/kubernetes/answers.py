"""What a Kubernetes API answers, judged: HTTP failures as typed errors, bodies as checked JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from clusters.kubernetes.codec import object_name
from scheduler.model.errors import (
    AlreadyExistsError,
    AuthError,
    ConflictError,
    ExternalError,
    GoneError,
    NotFoundError,
    NotServedError,
    OutcomeUnknownError,
    QuotaError,
    RefusedError,
    ThrottledError,
    TransientError,
)
from scheduler.model.ports import RawObject, Resource, WatchEvent

_EVENT_TYPES: Final = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK"})
_REFUSED: Final = frozenset({400, 405, 406, 413, 415, 422})
_MESSAGE_LENGTH: Final = 500
_LARGEST_VERSION: Final = 2**63 - 1
"""etcd counts its revisions in an int64."""


def parse_object(body: bytes, place: str) -> dict[str, Any]:
    """The JSON object in `body`. Raises: TransientError naming `place` for anything else."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise TransientError(f"{place}: the answer is not JSON ({error})", code="Malformed") from error
    if not isinstance(parsed, dict):
        raise TransientError(f"{place}: the answer is no JSON object", code="Malformed")
    return parsed


def parse_metadata(body: bytes, place: str) -> dict[str, Any]:
    """Some Kubernetes object: JSON with metadata. Raises: TransientError."""
    parsed = parse_object(body, place)
    if not isinstance(parsed.get("metadata"), dict):
        raise TransientError(f"{place}: the answer has no metadata, it is no Kubernetes object", code="Malformed")
    return parsed


def parse_resource(body: bytes, place: str, resource: Resource, name: str = "") -> RawObject:
    """A single object of `resource`, called `name` when that is known. Raises: TransientError for anything else."""
    parsed = parse_metadata(body, place)
    if wrong := _not_an_object(parsed, resource):
        raise TransientError(f"{place}: the answer {wrong}", code="Malformed")
    if name and parsed["metadata"]["name"] != name:
        raise TransientError(
            f"{place}: the answer is another object, {parsed['metadata']['name']!r:.80}", code="Malformed"
        )
    return parsed


def check_deleted(body: bytes, place: str, resource: Resource) -> None:
    """The answer to a deletion: its success, or the object that is on its way out. Raises: OutcomeUnknownError."""
    try:
        parsed = parse_object(body, place)
    except TransientError as error:
        raise OutcomeUnknownError(str(error), code=error.code) from error
    if (parsed.get("kind"), parsed.get("status")) != ("Status", "Success") and _not_an_object(parsed, resource):
        raise OutcomeUnknownError(f"{place}: the answer does not say that it is deleted", code="Malformed")


def parse_page(body: bytes, place: str, resource: Resource) -> tuple[list[RawObject], str, str]:
    """Items, resourceVersion and continue token of one page of a list. Raises: TransientError.

    All or nothing: what a list lacks counts as deleted, so one that holds anything doubtful is no list. Built-in lists
    leave apiVersion and kind out of their items; they are put back, as in watch events.
    """
    parsed = parse_object(body, place)
    metadata, items = parsed.get("metadata"), parsed.get("items")
    if items is None:
        items = []
    if parsed.get("kind") != f"{resource.kind}List" or not isinstance(metadata, dict) or not isinstance(items, list):
        raise TransientError(f"{place}: the answer is no {resource.kind}List", code="Malformed")
    version, token = metadata.get("resourceVersion"), metadata.get("continue") or ""
    if not isinstance(version, str) or _wrong_version(version) or not isinstance(token, str):
        raise TransientError(f"{place}: the list has no resourceVersion", code="Malformed")
    for item in items:
        if not isinstance(item, dict):
            raise TransientError(f"{place}: the list holds something that is no object", code="Malformed")
        item.setdefault("apiVersion", resource.api_version)
        item.setdefault("kind", resource.kind)
        wrong = _not_an_object(item, resource)
        if not wrong and _is_later(item["metadata"]["resourceVersion"], version):
            wrong = "is newer than the list itself"
        if wrong:
            raise TransientError(f"{place}: the list is refused: {object_name(item)} {wrong}", code="Malformed")
    return items, version, token


def _not_an_object(parsed: Mapping[str, Any], resource: Resource) -> str:
    """What keeps it from being an object of `resource`; empty when it is one."""
    metadata = parsed.get("metadata")
    if parsed.get("kind") != resource.kind:
        return f"is of kind {str(parsed.get('kind'))[:80]!r}, not {resource.kind}"
    if not isinstance(metadata, dict):
        return "has no metadata"
    for name in ("name", "uid", "resourceVersion", *(("namespace",) if resource.namespaced else ())):
        if not isinstance(metadata.get(name), str) or not metadata[name]:
            return f"has no {name}"
    return "has an impossible resourceVersion" if _wrong_version(metadata["resourceVersion"]) else ""


def _wrong_version(version: str) -> bool:
    return not version or len(version) > 64 or (version.isdecimal() and int(version) > _LARGEST_VERSION)


def _is_later(version: str, than: str) -> bool:
    return version.isdecimal() and than.isdecimal() and int(version) > int(than)


def parse_event(line: bytes, place: str, resource: Resource) -> WatchEvent:
    """One line of a watch. Raises: GoneError for an ERROR event 410, else TransientError for ERROR or garbage."""
    parsed = parse_object(line, place)
    kind, subject = parsed.get("type"), parsed.get("object")
    if kind == "ERROR" and isinstance(subject, dict):
        code = subject.get("code")
        message = str(subject.get("message") or "no message")[:_MESSAGE_LENGTH]
        if code == 410 or subject.get("reason") in ("Expired", "Gone"):
            raise GoneError(f"{place}: {message}", code="Expired")
        raise TransientError(f"{place}: the server ended the watch: {message}", code=str(subject.get("reason") or code))
    if not isinstance(kind, str) or kind not in _EVENT_TYPES or not isinstance(subject, dict):
        raise TransientError(f"{place}: malformed watch event {line[:80]!r}", code="Malformed")
    if kind != "BOOKMARK" and (wrong := _not_an_object(subject, resource)):
        raise TransientError(f"{place}: malformed watch event: {object_name(subject)} {wrong}", code="Malformed")
    return WatchEvent(kind, subject)


def failure(status: int, headers: Mapping[str, str], body: bytes, place: str, *, write: bool) -> ExternalError:
    """The typed error for an answer that is not 2xx. `code` is the Status reason, else the HTTP status."""
    try:
        parsed = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        parsed = {}
    answer = parsed if isinstance(parsed, dict) else {}
    reason = str(answer.get("reason") or status)
    message = str(answer.get("message") or body[:200].decode("utf-8", "replace").strip() or "no message")
    text = f"{place}: {status} {' '.join(message.split())[:_MESSAGE_LENGTH]}"
    match status:
        case 401:
            return AuthError(text, code=reason)
        case 403:
            return _forbidden(text, reason, answer)
        case 404:
            # An ingress without a backend says 404, too, and so does the API for a kind that it does not know.
            missing = answer.get("kind") == "Status" and answer.get("reason") == "NotFound"
            return NotFoundError(text, code=reason) if missing else NotServedError(text, code=reason)
        case 409:
            return (
                AlreadyExistsError(text, code=reason) if reason == "AlreadyExists" else ConflictError(text, code=reason)
            )
        case 410:
            return GoneError(text, code=reason)
        case 429:
            return ThrottledError(text, code=reason, retry_after_seconds=_retry_after(headers, answer))
    if status in _REFUSED:
        return RefusedError(text, code=reason)
    if write and (status == 504 or (status >= 500 and _maybe_written(message))):
        return OutcomeUnknownError(text, code=reason)
    return TransientError(text, code=reason)


def _forbidden(text: str, reason: str, answer: Mapping[str, Any]) -> ExternalError:
    """403 is RBAC, but also a full ResourceQuota, an admission policy, or a namespace on its way out."""
    details = answer.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    if isinstance(causes, list) and any(
        isinstance(c, dict) and c.get("reason") == "NamespaceTerminating" for c in causes
    ):
        return TransientError(text, code="NamespaceTerminating")
    if "exceeded quota" in text:
        return QuotaError(text, code=reason)
    if "denied the request" in text or "denied request" in text:
        return RefusedError(text, code=reason)
    return AuthError(text, code=reason)


def _maybe_written(message: str) -> bool:
    """etcd may have taken a write whose confirmation the API server did not get."""
    return "etcdserver: request timed out" in message or "leader changed" in message


def _retry_after(headers: Mapping[str, str], answer: Mapping[str, Any]) -> float | None:
    details = answer.get("details")
    said = headers.get("Retry-After") or (details.get("retryAfterSeconds") if isinstance(details, dict) else None)
    try:
        seconds = float(said) if said is not None else None
    except (TypeError, ValueError):
        return None
    return seconds if seconds is not None and 0 <= seconds <= 3600 else None
