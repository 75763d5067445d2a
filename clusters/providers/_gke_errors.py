"""What Google's errors mean in the taxonomy: gRPC statuses of GKE, HTTP answers of Compute and Resource Manager, and
google-auth's own. Nothing here sends anything.

Sources: google.rpc.Code; Compute Engine's reasons and codes as its troubleshooting pages and the Kubernetes cluster
autoscaler's GCE client name them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import google.auth.exceptions
import requests
from google.api_core import exceptions as google_errors
from google.rpc.error_details_pb2 import RetryInfo

from scheduler.model.errors import (
    AlreadyExistsError,
    AuthError,
    CapacityError,
    ConflictError,
    ExternalError,
    NotFoundError,
    NotServedError,
    OutcomeUnknownError,
    QuotaError,
    RefusedError,
    ThrottledError,
    TransientError,
)

T = TypeVar("T")

# Compute Engine's words, found in codes and inside messages of all its APIs. A rate is looked for before a quota:
# RATE_LIMIT_EXCEEDED has LIMIT_EXCEEDED in it, and rates are "quotas" in Google's prose.
_CAPACITY: Final = re.compile(
    r"RESOURCE_POOL_EXHAUSTED|GCE_STOCKOUT|\binsufficientCapacity\b|does not have enough resources available"
)
_RATE: Final = re.compile(
    r"RATE_LIMIT_EXCEEDED|RATE_EXCEEDED|[rR]ateLimitExceeded|\b(?:daily|concurrent)LimitExceeded\b"
)
_QUOTA: Final = re.compile(
    r"QUOTA_EXCEEDED|quotaExceeded|LIMIT_EXCEEDED|[Ii]nsufficient (?:\w+ )?quota|Quota '[^']{1,200}' exceeded"
)
_TEXT_LENGTH: Final = 300
_DIGITS: Final = 5
"""Of a Retry-After in seconds: a day has five. It may be a date as well, which Google does not use here."""
_GAVE_UP: Final = frozenset({408, 499, 504})
"""HTTP statuses of one who stopped waiting: what was asked may have been done."""


class RestError(Exception):
    """An HTTP answer other than success, before it is translated."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after

    @classmethod
    def of(cls, answer: requests.Response) -> RestError:
        """Google's error body, or the start of whatever came instead of one."""
        text, reason = answer.text[:_TEXT_LENGTH], ""
        try:
            error = answer.json()["error"]
            text = str(error["message"])
            reason = str(error.get("status") or "")
            reason = str((error.get("errors") or [{}])[0].get("reason") or reason)
            reason = next((str(one["reason"]) for one in error.get("details") or [] if one.get("reason")), reason)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            pass  # an answer of a proxy, not of Google
        header = answer.headers.get("Retry-After", "")
        told = header.isdecimal() and len(header) <= _DIGITS
        return cls(answer.status_code, reason, text, float(header) if told else None)


def translated(action: str, function: Callable[[], T], *, writes: bool) -> T:
    """What `function` returns, the libraries' errors turned into the taxonomy. Raises: ExternalError."""
    unknown = OutcomeUnknownError if writes else TransientError
    place = f"gke: {action}"
    try:
        return function()
    except RestError as error:
        text = f"{place}: {error.reason or error.status}: {one_line(str(error))}"
        if error.status in _GAVE_UP:
            raise unknown(text, code=error.reason or str(error.status)) from error
        raise typed_error(text, error.reason or str(error.status), error.status, error.retry_after) from error
    except google_errors.GoogleAPICallError as error:
        raise _grpc_failure(place, error, unknown) from error
    except google_errors.GoogleAPIError as error:
        raise unknown(f"{place}: {error}", code=type(error).__name__) from error
    except google.auth.exceptions.GoogleAuthError as error:
        raise auth_failure(action, error) from error
    except (requests.exceptions.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        raise TransientError(f"{place}: {error}", code=type(error).__name__) from error
    except requests.exceptions.RequestException as error:
        raise unknown(f"{place}: {error}", code=type(error).__name__) from error


def auth_failure(action: str, error: google.auth.exceptions.GoogleAuthError) -> ExternalError:
    """A token that could not be had."""
    transport = isinstance(error, google.auth.exceptions.TransportError)
    kind = TransientError if transport or getattr(error, "retryable", False) else AuthError
    return kind(f"gke: {action}: token: {error.args[0] if error.args else error}", code=type(error).__name__)


def status_of(error: ExternalError) -> int | None:
    """The HTTP status that Google answered with, or the one that its gRPC status stands for; None: no answer."""
    cause = error.__cause__
    if isinstance(cause, RestError):
        return cause.status
    if isinstance(cause, google_errors.GoogleAPICallError) and cause.code is not None:
        return int(cause.code)
    return None


def _grpc_failure(place: str, error: google_errors.GoogleAPICallError, unknown: type[ExternalError]) -> ExternalError:
    status = error.grpc_status_code.name if error.grpc_status_code is not None else type(error).__name__
    code = error.reason or status
    text = f"{place}: {code}: {one_line(error.message)}"
    if status in ("DEADLINE_EXCEEDED", "CANCELLED"):
        return unknown(text, code=code)
    if status == "UNAVAILABLE":
        unsent = "failed to connect" in error.message or "Getting metadata from plugin failed" in error.message
        return (TransientError if unsent else unknown)(text, code=code)
    if status == "ALREADY_EXISTS":
        return AlreadyExistsError(text, code=code)
    waits = [one.retry_delay.ToTimedelta().total_seconds() for one in error.details if isinstance(one, RetryInfo)]
    # 409: FAILED_PRECONDITION shares 400 with what is plainly wrong, but means "another operation is running".
    http = 409 if status == "FAILED_PRECONDITION" else int(error.code or 500)
    return typed_error(text, code, http, waits[0] if waits else None)


def typed_error(text: str, code: str, status: int, retry_after: float | None) -> ExternalError:
    """The error of the taxonomy for Google's reason, message and HTTP status; TransientError for anything else."""
    words = f"{code} {text}"
    if _CAPACITY.search(words):
        return CapacityError(text, code=code)
    if _RATE.search(words):
        return ThrottledError(text, code=code, retry_after_seconds=retry_after)
    if _QUOTA.search(words):
        return QuotaError(text, code=code)
    if status == 429:
        return ThrottledError(text, code=code, retry_after_seconds=retry_after)
    kinds: dict[int, type[ExternalError]] = {
        400: RefusedError,
        401: AuthError,
        403: AuthError,
        404: NotFoundError,
        412: ConflictError,
        501: NotServedError,
    }
    return kinds.get(status, TransientError)(text, code=code)


def shortage_kind(text: str) -> str:
    """What a pool lacks by the text of its trouble: capacity, quota, or error for everything else."""
    if _CAPACITY.search(text):
        return "capacity"
    if _QUOTA.search(text) and not _RATE.search(text):
        return "quota"
    return "error"


def one_line(text: Any) -> str:
    """Text of any origin as one bounded line."""
    return " ".join(str(text).split())[:_TEXT_LENGTH]
