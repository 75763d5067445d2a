"""What each cloud's own words become in the taxonomy, and the calls in threads that carry them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.mgmt.containerservice.models import AgentPool

from clusters.providers import aks
from clusters.providers._blocking import BlockingCalls
from clusters.providers._shortages import ShortageLedger
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
from tests.contract.emulated_pools import SteppedClock


class ArmAnswer:
    """As much of an HTTP answer as azure-core's errors look at."""

    reason = "r"

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self.status_code = status
        self.headers = headers or {}
        self._body = body

    def json(self) -> Any:
        if isinstance(self._body, Exception):
            raise self._body
        return self._body

    def text(self, encoding: str | None = None) -> str:
        return str(self._body)


@pytest.mark.parametrize(
    ("status", "code", "message", "want"),
    [
        (409, "AllocationFailed", "no", CapacityError),
        (400, "ZonalAllocationFailed", "no", CapacityError),
        (400, "SkuNotAvailable", "no", CapacityError),
        (400, "BadRequest", 'Code="OverconstrainedAllocationRequest"', CapacityError),
        (400, "ErrCode_InsufficientVCPUQuota", "no", QuotaError),
        (409, "QuotaExceeded", "no", QuotaError),
        (409, "OperationNotAllowed", "exceeding approved Total Regional Cores quota", QuotaError),
        (409, "OperationNotAllowed", "an in progress operation", TransientError),
        (429, "TooManyRequests", "slow", ThrottledError),
        (401, "InvalidAuthenticationToken", "no", AuthError),
        (403, "AuthorizationFailed", "no", AuthError),
        (404, "ResourceNotFound", "no", NotFoundError),
        (400, "InvalidParameter", "no", RefusedError),
        (412, "PreconditionFailed", "no", ConflictError),
        (500, "InternalServerError", "no capacity", TransientError),
    ],
)
def test_arm_errors(status: int, code: str, message: str, want: type[ExternalError]) -> None:
    answer = ArmAnswer(status, {"error": {"code": code, "message": message}})
    made = aks._http_failure("aks: Op", HttpResponseError(response=answer))  # type: ignore[arg-type]
    assert type(made) is want
    assert made.code == code


@pytest.mark.parametrize("body", [ValueError("no JSON"), [], {}, {"error": "text"}, {"error": {"code": 1}}, None])
def test_an_arm_answer_that_is_none_is_still_one_line(body: Any) -> None:
    made = aks._http_failure("aks: Op", HttpResponseError(response=ArmAnswer(502, body)))  # type: ignore[arg-type]
    assert type(made) is TransientError
    assert made.code == "HTTP 502"


@pytest.mark.parametrize(
    ("state", "error", "want"),
    [
        ("Succeeded", None, None),
        ("Failed", None, "error"),
        ("Failed", {"code": "ReconcileVMSSAgentPoolFailed", "message": 'Code="AllocationFailed"'}, "capacity"),
        ("Failed", {"code": "X", "message": "", "details": [{"code": "SkuNotAvailable", "message": ""}]}, "capacity"),
        ("Failed", {"code": "OperationNotAllowed", "message": "cores quota"}, "quota"),
        ("Failed", {"code": "VMExtensionProvisioningError", "message": "no"}, "error"),
    ],
)
def test_aks_provisioning_errors(state: str, error: dict[str, Any] | None, want: str | None) -> None:
    pool = AgentPool({"properties": {"provisioningState": state, "status": {"provisioningError": error}}})
    assert aks._shortage(pool)[0] == want


def test_a_shortage_keeps_its_beginning_until_it_is_another() -> None:
    clock = SteppedClock(100.0)
    ledger = ShortageLedger(clock)
    seen = []
    for kind in ("capacity", "capacity", "quota", None, "capacity"):
        shortage = ledger.note("p", kind, "text")
        seen.append(None if shortage is None else (shortage.kind, shortage.since))
        clock.advance(10)
    assert seen == [("capacity", 100.0), ("capacity", 100.0), ("quota", 120.0), None, ("capacity", 140.0)]


async def test_a_call_that_outlives_its_limit_is_bounded_and_counted() -> None:
    calls = BlockingCalls("x", limit_seconds=0.05, threads=1, waiting=1)
    go, entered = threading.Event(), threading.Event()

    def block() -> str:
        entered.set()
        go.wait(10)
        return "late"

    with pytest.raises(OutcomeUnknownError, match="Op: no answer within"):
        await calls.run("Op", block, writes=True)
    assert entered.is_set()
    waiting = asyncio.ensure_future(calls.run("Op", block, writes=True))  # for the one thread
    await asyncio.sleep(0)
    with pytest.raises(TransientError, match="2 calls wait already"):
        await calls.run("Op", block)
    with pytest.raises(TransientError, match="no answer within"):
        await waiting  # it never began, so its outcome is known
    go.set()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await calls.run("Op", lambda: "on time") == "on time"
                break
            except TransientError:
                await asyncio.sleep(0)
    await calls.close()
    with pytest.raises(TransientError, match="Op: cannot schedule"):
        await calls.run("Op", block)
