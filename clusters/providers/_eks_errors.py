"""AWS's own words for what went wrong, and what each of them is in the taxonomy.

The codes are those of the EKS, Auto Scaling, EC2, STS and IAM API references (error shapes, and each reference's common
errors), of the EC2 error list, and of EKS' node group issues and update errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoAuthTokenError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from scheduler.model.errors import (
    AuthError,
    CapacityError,
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

_CAPACITY: Final = frozenset(
    {
        "InsufficientCapacity",
        "InsufficientCapacityOnOutpost",
        "InsufficientHostCapacity",
        "InsufficientInstanceCapacity",
        "InsufficientReservedInstanceCapacity",
        "ReservationCapacityExceeded",
        "UnfulfillableCapacity",
    }
)
_QUOTA: Final = frozenset(
    {
        "EniLimitReached",
        "InstanceLimitExceeded",
        "LimitExceeded",
        "MaxSpotInstanceCountExceeded",
        "NetworkInterfaceLimitExceeded",
        "ResourceLimitExceeded",
        "ResourceLimitExceededException",
        "ServiceQuotaExceededException",
        "VcpuLimitExceeded",
        "VolumeLimitExceeded",
    }
)
STALE_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidIdentityToken",
        "RequestExpired",
        "UnrecognizedClientException",
    }
)
"""What AWS says to credentials that were good once: others may be there by now."""
_AUTH: Final = STALE_CREDENTIALS | {
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "Blocked",
    "IDPRejectedClaim",
    "IncompleteSignature",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "OptInRequired",
    "PendingVerification",
    "RegionDisabledException",
    "SignatureDoesNotMatch",
    "UnauthorizedOperation",
}
_THROTTLED: Final = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_NOT_FOUND: Final = frozenset(
    {"InvalidInstanceID.NotFound", "NoSuchEntity", "NotFoundException", "ResourceNotFoundException"}
)
_REFUSED: Final = frozenset(
    {
        "BadRequestException",
        "ClientException",
        "InvalidAction",
        "InvalidInput",
        "InvalidInstanceType",
        "InvalidNextToken",
        "InvalidParameterCombination",
        "InvalidParameterException",
        "InvalidParameterValue",
        "InvalidRequestException",
        "MalformedHttpRequestException",
        "MalformedQueryString",
        "MissingParameter",
        "RequestEntityTooLargeException",
        "UnknownOperationException",
        "UnknownParameter",
        "UnsupportedAvailabilityZoneException",
        "UnsupportedOperation",
        "ValidationError",
        "ValidationException",
    }
)
_NODES_LACK: Final = frozenset(
    {
        "AsgInstanceLaunchFailures",
        "Ec2InstanceTypeDoesNotExist",
        "InsufficientFreeAddresses",
        "IpNotAvailable",
        "NodeCreationFailure",
    }
)
"""Issues and update errors that keep nodes from coming, for want neither of machines nor of quota."""
_NOT_SENT: Final = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError, SSLError)
NO_CREDENTIALS: Final = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)


def shortage(issues: Sequence[Mapping[str, Any]]) -> tuple[str | None, str]:
    """Kind (capacity, quota, error; None: no shortage) and text of a node group's health issues.

    `AsgInstanceLaunchFailures` stands for any launch failure; EC2's own code inside its message says which.
    """
    for issue in issues:
        code, message = issue.get("code") or "", issue.get("message") or ""
        words = {code, *re.findall(r"[A-Za-z]+", message)}
        if words & _CAPACITY:
            return "capacity", message
        if words & _QUOTA:
            return "quota", message
        if code in _NODES_LACK:
            return "error", f"{code}: {message}"
    return None, ""


def translated(action: str, function: Callable[[], T], *, writes: bool) -> T:
    """What `function` returns, botocore's errors turned into the taxonomy. Raises: ExternalError."""
    try:
        return function()
    except ClientError as error:
        detail = error.response.get("Error", {})
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        raise typed_error(
            f"eks: {action}", detail.get("Code", ""), detail.get("Message", ""), headers.get("retry-after")
        ) from error
    except NO_CREDENTIALS as error:
        raise AuthError(one_line(f"eks: {action}: {error}"), code=type(error).__name__) from error
    except ParamValidationError as error:
        raise RefusedError(one_line(f"eks: {action}: {error}"), code="ParamValidationError") from error
    except _NOT_SENT as error:
        raise TransientError(one_line(f"eks: {action}: {error}"), code=type(error).__name__) from error
    except (BotoCoreError, ResponseParserError) as error:
        # Read timeouts, broken connections, a proxy's page instead of XML: it was sent, and no (whole) answer came.
        wanted = OutcomeUnknownError if writes else TransientError
        raise wanted(one_line(f"eks: {action}: {error}"), code=type(error).__name__) from error


def typed_error(place: str, code: str, message: str, retry_after: str | None) -> ExternalError:
    """The error of the taxonomy for AWS's `code`; TransientError for one that nobody here knows."""
    text = one_line(f"{place}: {code}: {message}")
    if code in _THROTTLED:
        wait = float(retry_after) if retry_after and retry_after.isdigit() else None
        return ThrottledError(text, code=code, retry_after_seconds=wait)
    if code == "404":  # botocore's word where the answer is none of AWS's
        return NotServedError(text, code=code)
    kinds: tuple[tuple[frozenset[str], type[ExternalError]], ...] = (
        (_CAPACITY, CapacityError),
        (_QUOTA, QuotaError),
        (_AUTH, AuthError),
        (_NOT_FOUND, NotFoundError),
        (_REFUSED, RefusedError),
    )
    for codes, kind in kinds:
        if code in codes:
            return kind(text, code=code)
    return TransientError(text, code=code)


def one_line(text: str, most: int = 500) -> str:
    """`text` without line breaks, cut at `most` characters."""
    return " ".join(text.split())[:most]
