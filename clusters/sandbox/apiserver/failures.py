"""The API server's refusals: Status objects, field errors, and their translation into the model's typed errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from scheduler.model import errors

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """One field error, worded as the real API server words it."""

    reason: str
    field: str
    message: str

    def as_json(self) -> Json:
        return {"reason": self.reason, "message": self.message, "field": self.field}

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class StatusError(Exception):
    """A request that is refused; `body` is the Status object that says so."""

    def __init__(
        self, code: int, reason: str, message: str, *, details: Json | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.retry_after = retry_after

    def body(self) -> Json:
        details = {**self.details, **({"retryAfterSeconds": self.retry_after} if self.retry_after else {})}
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            **({"details": details} if details else {}),
            "code": self.code,
        }


def success(details: Json) -> Json:
    """The Status object of an operation that has no object to return."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def as_model_error(error: StatusError) -> errors.ExternalError:
    """The typed error that a client of this server raises for `error`."""
    text, code = error.message, error.reason
    match error.code:
        case 404:
            return errors.NotFoundError(text, code=code) if code else errors.NotServedError(text, code="404")
        case 409 if code == "AlreadyExists":
            return errors.AlreadyExistsError(text, code=code)
        case 409:
            return errors.ConflictError(text, code=code)
        case 410:
            return errors.GoneError(text, code=code)
        case 401 | 403:
            return errors.AuthError(text, code=code)
        case 429:
            return errors.ThrottledError(text, code=code, retry_after_seconds=error.retry_after)
        case status if 400 <= status < 500:
            return errors.RefusedError(text, code=code)
    return errors.TransientError(text, code=code)


# Field errors ------------------------------------------------------------------------------------------------------


def shown(value: object) -> str:
    """`value` as the real server prints a bad one."""
    if isinstance(value, str):
        return orjson.dumps(value).decode()
    if isinstance(value, (dict, list)):
        return orjson.dumps(value).decode()[:400]
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def invalid(field: str, value: object, detail: str) -> Cause:
    return Cause("FieldValueInvalid", field, f"Invalid value: {shown(value)}: {detail}")


def invalid_plain(field: str, detail: str) -> Cause:
    """An invalid field whose value is too big to be shown."""
    return Cause("FieldValueInvalid", field, f"Invalid value: {detail}")


def required(field: str, detail: str = "") -> Cause:
    return Cause("FieldValueRequired", field, "Required value" + (f": {detail}" if detail else ""))


def forbidden_field(field: str, detail: str) -> Cause:
    return Cause("FieldValueForbidden", field, f"Forbidden: {detail}")


def duplicate(field: str, value: object) -> Cause:
    return Cause("FieldValueDuplicate", field, f"Duplicate value: {shown(value)}")


def not_supported(field: str, value: object, allowed: Iterable[str]) -> Cause:
    words = ", ".join(shown(word) for word in sorted(allowed))
    return Cause("FieldValueNotSupported", field, f"Unsupported value: {shown(value)}: supported values: {words}")


def too_long(field: str, most: int) -> Cause:
    return Cause("FieldValueTooLong", field, f"Too long: may not be more than {most} bytes")


# Whole refusals ----------------------------------------------------------------------------------------------------


def _details(group: str, kind: str, name: str, causes: Sequence[Cause] = (), uid: str = "") -> Json:
    return {
        **({"name": name} if name else {}),
        **({"group": group} if group else {}),
        "kind": kind,
        **({"uid": uid} if uid else {}),
        **({"causes": [cause.as_json() for cause in causes]} if causes else {}),
    }


def _qualified(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


def not_found(group: str, resource: str, name: str) -> StatusError:
    text = f'{_qualified(resource, group)} "{name}" not found'
    return StatusError(404, "NotFound", text, details=_details(group, resource, name))


def no_such_path() -> StatusError:
    """Said by the router, not by the API: no Status, and no reason."""
    return StatusError(404, "", "404 page not found")


def already_exists(group: str, resource: str, name: str) -> StatusError:
    text = f'{_qualified(resource, group)} "{name}" already exists'
    return StatusError(409, "AlreadyExists", text, details=_details(group, resource, name))


def conflict(group: str, resource: str, name: str, why: str) -> StatusError:
    text = f'Operation cannot be fulfilled on {_qualified(resource, group)} "{name}": {why}'
    return StatusError(409, "Conflict", text, details=_details(group, resource, name))


STALE = "the object has been modified; please apply your changes to the latest version and try again"


def apply_conflict(causes: Sequence[Cause]) -> StatusError:
    """Server-side apply met fields that other managers own; each cause names the owner and the field."""
    by_owner: dict[str, list[str]] = {}
    for cause in causes:
        by_owner.setdefault(cause.message, []).append(cause.field)
    if len(causes) == 1:
        text = f"Apply failed with 1 conflict: {causes[0].message}: {causes[0].field}"
    else:
        listed = "\n".join(
            f"{owner}:\n" + "\n".join(f"- {field}" for field in fields) for owner, fields in sorted(by_owner.items())
        )
        text = f"Apply failed with {len(causes)} conflicts: {listed}"
    return StatusError(409, "Conflict", text, details={"causes": [cause.as_json() for cause in causes]})


def unprocessable(group: str, kind: str, name: str, causes: Sequence[Cause]) -> StatusError:
    """422: the object was understood and breaks a rule of its kind."""
    texts = [str(cause) for cause in causes]
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    text = f'{_qualified(kind, group)} "{name}" is invalid: {joined}'
    return StatusError(422, "Invalid", text, details=_details(group, kind, name, causes))


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def forbidden(group: str, resource: str, name: str, why: str, causes: Sequence[Cause] = ()) -> StatusError:
    text = f'{_qualified(resource, group)} "{name}" is forbidden: {why}'
    return StatusError(403, "Forbidden", text, details=_details(group, resource, name, causes))


def expired(message: str) -> StatusError:
    return StatusError(410, "Expired", message)


def not_allowed() -> StatusError:
    return StatusError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def unsupported_media(supported: Iterable[str]) -> StatusError:
    text = f"the body of the request was in an unknown format - accepted media types include: {', '.join(supported)}"
    return StatusError(415, "UnsupportedMediaType", text)


def too_large_version(asked: int, current: int) -> StatusError:
    return StatusError(
        504,
        "Timeout",
        f"Too large resource version: {asked}, current: {current}",
        details={"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]},
        retry_after=1,
    )
