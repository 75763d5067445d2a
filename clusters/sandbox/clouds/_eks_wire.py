"""How the emulated AWS words its answers: EKS in REST-JSON, the rest in the Query protocol's XML, EC2 in its own."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

from aiohttp import web

from clusters.sandbox.ports import EmulatedPools, PoolState

ACCOUNT: Final = "000000000000"


class AwsError(Exception):
    """An answer other than the asked one."""

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


RestHandler = Callable[[Mapping[str, str], Any], dict[str, Any]]
QueryHandler = Callable[[Mapping[str, str]], str]


def rest_failure(error: AwsError) -> web.Response:
    headers = {"x-amzn-ErrorType": error.code, **error.headers}
    return web.json_response({"message": str(error)}, status=error.status, headers=headers)


def query_answer(service: str, action: str, result: str) -> web.Response:
    """EC2's answers have no `Result` element, and their request id stands at the top."""
    request_id = secrets.token_hex(8)
    if service == "ec2":
        text = f"<{action}Response><requestId>{request_id}</requestId>{result}</{action}Response>"
    else:
        text = (
            f"<{action}Response><{action}Result>{result}</{action}Result><ResponseMetadata><RequestId>"
            f"{request_id}</RequestId></ResponseMetadata></{action}Response>"
        )
    return web.Response(text=text, content_type="text/xml")


def query_failure(service: str, error: AwsError) -> web.Response:
    request_id = secrets.token_hex(8)
    inner = f"<Code>{escape(error.code)}</Code><Message>{escape(str(error))}</Message>"
    if service == "ec2":
        text = f"<Response><Errors><Error>{inner}</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    else:
        error_xml = f"<Error><Type>Sender</Type>{inner}</Error>"
        text = f"<ErrorResponse>{error_xml}<RequestId>{request_id}</RequestId></ErrorResponse>"
    return web.Response(text=text, status=error.status, content_type="text/xml", headers=error.headers)


def json_object(body: bytes) -> Any:
    """The object in a request's body. Raises: AwsError."""
    try:
        parsed = json.loads(body)
    except ValueError as error:
        raise AwsError(400, "SerializationException", "the body is no JSON") from error
    if not isinstance(parsed, dict):
        raise AwsError(400, "SerializationException", "the body is no JSON object")
    return parsed


def page(names: Sequence[str], asked: Mapping[str, str]) -> tuple[list[str], str | None]:
    """The page of `names` that `maxResults` and `nextToken` ask for, and the next one's token. Raises: AwsError."""
    most, start = asked.get("maxResults", "100"), asked.get("nextToken", "0")
    if not (most.isdigit() and 1 <= int(most) <= 100 and start.isdigit()):
        raise AwsError(400, "InvalidParameterException", "maxResults must be 1 to 100")
    end = int(start) + int(most)
    return list(names[int(start) : end]), str(end) if end < len(names) else None


def listed(form: Mapping[str, str], name: str) -> list[str]:
    """A list parameter, in its order: `name.member.1`, or `name.1` as EC2 has it."""
    found = {key: value for key, value in form.items() if re.fullmatch(rf"{name}\.(member\.)?\d{{1,4}}", key)}
    return [found[key] for key in sorted(found, key=lambda key: int(key.rpartition(".")[2]))]


def region_of(pools: EmulatedPools) -> str:
    zones = [state.spec.zone for state in pools.pools()]
    known = zones and re.fullmatch(r"[a-z]+-[a-z]+-\d[a-z]?", zones[0])
    return re.sub(r"[a-z]$", "", zones[0]) if known else "us-east-1"


def pool_named(pools: EmulatedPools, name: str) -> PoolState:
    """Raises: AwsError as EKS words it."""
    for state in pools.pools():
        if state.spec.name == name:
            return state
    raise AwsError(404, "ResourceNotFoundException", f"No node group found for name: {name}.")


def resize(pools: EmulatedPools, state: PoolState, desired: int) -> None:
    """Raises: AwsError."""
    try:
        pools.resize(state.spec.name, desired)
    except ValueError as error:
        message = f"desired capacity {desired} is outside {state.spec.min_nodes}..{state.spec.max_nodes}"
        raise AwsError(400, "InvalidParameterException", message) from error
