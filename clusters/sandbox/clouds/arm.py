"""Azure Resource Manager's manners, emulated: error bodies, pages, the answer that begins a long operation, faults."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from clusters.sandbox.clouds.faults import Fault
from clusters.sandbox.clouds.operations import Operation

SHORTAGES: Final = {
    "capacity": "We do not have sufficient capacity for the requested VM size in this region.",
    "quota": "Insufficient regional vcpu quota left for location westeurope. left regional vcpu quota 0.",
}
SHORTAGE_CODES: Final = {"capacity": "AllocationFailed", "quota": "ErrCode_InsufficientVCPUQuota"}


class ArmError(Exception):
    """An answer other than the asked one."""

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


@dataclass(frozen=True, slots=True)
class Answer:
    body: Any
    status: int = 200
    operation: Operation | None = None
    """Told in the headers, to be polled."""


def page(asked: Mapping[str, str], items: Sequence[dict[str, Any]], size: int, next_link: str = "") -> Answer:
    """The part of `items` that `asked` is due, and the link to the next (or `next_link`, be there more or not)."""
    first = int(asked["skip"]) if asked["skip"].isdigit() else 0
    end = first + size
    link = next_link or (f"{asked['url']}&$skiptoken={end}" if end < len(items) else "")
    return Answer({"value": list(items[first:end])} | ({"nextLink": link} if link else {}))


def denied(permission: str) -> ArmError:
    text = f"The client does not have authorization to perform action '{permission}' over the scope of the request."
    return ArmError(403, "AuthorizationFailed", text)


def strike(fault: Fault | None, permission: str) -> None:
    """Raise what the script of faults has for this call."""
    if fault is None:
        return
    match fault.kind:
        case "throttled":
            raise ArmError(429, "TooManyRequests", "The request is being throttled.", fault.retry_after_seconds)
        case "capacity":
            raise ArmError(409, "AllocationFailed", SHORTAGES["capacity"])
        case "quota":
            raise ArmError(400, "ErrCode_InsufficientVCPUQuota", SHORTAGES["quota"])
        case "denied":
            raise denied(permission)
        case "unmapped":
            raise ArmError(500, fault.code, "Something that nobody has heard of")


async def read_object(request: web.Request) -> Any:
    try:
        parsed = json.loads(await request.read())
    except ValueError as error:
        raise ArmError(
            400, "InvalidRequestContent", "The request content was invalid and could not be parsed"
        ) from error
    if not isinstance(parsed, dict):
        raise ArmError(400, "InvalidRequestContent", "The request content is no JSON object")
    return parsed
