"""Azure's words in the taxonomy: of answers at once, and of long operations that ended badly.

Codes are those of ARM ("Common deployment errors"), AKS (its error-code pages), Compute ("Understand allocation
failures", "Error messages for Azure Spot Virtual Machines") and Microsoft.Quota. AKS wraps Compute's codes in the
messages and details of its own, so they are looked for there too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.identity import CredentialUnavailableError

from clusters.clock import SystemClock
from scheduler.model.errors import (
    AuthError,
    CapacityError,
    ConflictError,
    ExternalError,
    NotFoundError,
    OutcomeUnknownError,
    QuotaError,
    RefusedError,
    ThrottledError,
    TransientError,
)

T = TypeVar("T")

DENIED: Final = "AuthorizationFailed"
"""ARM's code for an identity that it knows and that may not do this."""
_CAPACITY: Final = frozenset(
    {
        "AKSCapacityHeavyUsage",
        "AksCapacityHeavyUsage",
        "AllocationFailed",
        "OverconstrainedAllocationRequest",
        "OverconstrainedZonalAllocationRequest",
        "SkuNotAvailable",
        "SpotPriceGreaterThanProvidedMaxPrice",
        "ZonalAllocationFailed",
    }
)
_QUOTA: Final = frozenset(
    {
        "ErrCode_InsufficientVCPUQuota",
        "InsufficientVCPUQuota",
        "PublicIPCountLimitReached",
        "QuotaExceeded",
        "ResourceQuotaExceeded",
    }
)
_DEPTH: Final = 5
"""Of details within details that are looked at."""
_DETAILS: Final = 20
_TEXT_LENGTH: Final = 600


def translated(place: str, function: Callable[[], T], *, writes: bool) -> T:
    """What `function` returns, Azure's errors turned into the taxonomy. Raises: ExternalError."""
    try:
        return function()
    except CredentialUnavailableError as error:
        raise AuthError(f"{place}: {one_line(error.message)}", code="NoCredentials") from error
    except HttpResponseError as error:
        if isinstance(error.__cause__, ServiceRequestError | ServiceResponseError):
            # azure-identity calls an unreachable token endpoint a failed authentication.
            code = type(error.__cause__).__name__
            raise TransientError(f"{place}: {one_line(error.message)}", code=code) from error
        if error.response is None and isinstance(error, ClientAuthenticationError):
            raise AuthError(f"{place}: {one_line(error.message)}", code="ClientAuthenticationError") from error
        raise http_failure(place, error) from error
    except ServiceRequestError as error:
        raise TransientError(f"{place}: {one_line(error)}", code=type(error).__name__) from error
    except AzureError as error:
        # It was sent, and no (whole) answer came.
        wanted = OutcomeUnknownError if writes else TransientError
        raise wanted(f"{place}: {one_line(error)}", code=type(error).__name__) from error
    except OSError as error:  # the federated token's file, which is read again for each token
        raise AuthError(f"{place}: {error}", code="NoCredentials") from error


def http_failure(place: str, error: HttpResponseError) -> ExternalError:
    """The error of the taxonomy for an HTTP answer; TransientError for what nobody here knows."""
    code, message, words = _told(error)
    text = f"{place}: {code}: {message}"
    kind = _kind(words)
    if kind == "capacity":
        return CapacityError(text, code=code)
    if kind == "quota":
        return QuotaError(text, code=code)
    if error.status_code == 429:
        return ThrottledError(text, code=code, retry_after_seconds=_retry_after(error.response))
    if isinstance(error, ClientAuthenticationError):
        return AuthError(text, code=code)
    kinds: dict[int | None, type[ExternalError]] = {
        400: RefusedError,
        401: AuthError,
        403: AuthError,
        404: NotFoundError,
        412: ConflictError,
    }
    # 409 is "another operation is running" and the like.
    return kinds.get(error.status_code, TransientError)(text, code=code)


def shortage(error: Mapping[str, Any]) -> tuple[str, str]:
    """Kind (capacity, quota or error) and one line for the error with which a long operation ended."""
    text, words = _unfolded(error)
    return _kind(words) or "error", text


def one_line(text: object) -> str:
    """`text` without line ends, cut to a length for people."""
    return " ".join(str(text).split())[:_TEXT_LENGTH]


def _kind(words: set[str]) -> str | None:
    if words & _CAPACITY:
        return "capacity"
    # Compute says OperationNotAllowed for an exceeded core quota as well as for an operation that must wait.
    if words & _QUOTA or ("OperationNotAllowed" in words and words & {"quota", "Quota"}):
        return "quota"
    return None


def _told(error: HttpResponseError) -> tuple[str, str, set[str]]:
    """Code, message and words of ARM's error body; inner errors are appended to the message. Else the HTTP status."""
    answer: Any = error.response
    try:
        body = answer.json()["error"]
        code, message = str(body["code"]), str(body["message"])
        text, words = _unfolded(body)
    except (ValueError, KeyError, TypeError, AttributeError):  # an answer of a proxy, or of the token endpoint
        code, message = f"HTTP {error.status_code}", one_line(error.message)
        return code, message, _words(message)
    return code, text.removeprefix(f"{code}: ") or message, words


def _unfolded(error: Mapping[str, Any]) -> tuple[str, set[str]]:
    """An error and those inside it as one line, and all words of them."""
    parts: list[str] = []
    waiting: list[tuple[int, Any]] = [(0, error)]
    while waiting and len(parts) < _DETAILS:
        depth, one = waiting.pop(0)
        if not isinstance(one, Mapping):
            continue
        parts.append(f"{one.get('code')}: {one.get('message')}")
        inner = one.get("details")
        if depth < _DEPTH and isinstance(inner, Sequence) and not isinstance(inner, str):
            waiting.extend((depth + 1, detail) for detail in inner[:_DETAILS])
    return one_line("; ".join(dict.fromkeys(parts))), _words(*parts)


def _words(*texts: str) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text)}


def _retry_after(answer: Any) -> float | None:
    """Seconds of a Retry-After header, which may be a date; None: not said, or nonsense."""
    wait = str(answer.headers.get("Retry-After", "")).strip()
    if wait.isascii() and wait.isdigit():
        return float(wait[:9])
    try:
        # Dates in it are of the world's time, never of the sandbox's.
        return max(0.0, parsedate_to_datetime(wait).timestamp() - SystemClock().now())
    except (ValueError, TypeError, OverflowError):
        return None
