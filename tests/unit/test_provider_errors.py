"""What each cloud's own words become in the taxonomy, and the calls in threads that carry them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.mgmt.containerservice.models import AgentPool
from google.api_core import exceptions as google_errors
from google.cloud.container_v1.types import NodePool, StatusCondition

from clusters.providers import aks, gke
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


@pytest.mark.parametrize(
    ("kind", "message", "want"),
    [
        (google_errors.ResourceExhausted, "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS: none", CapacityError),
        (google_errors.ServiceUnavailable, "GCE_STOCKOUT in zone", OutcomeUnknownError),
        (google_errors.PermissionDenied, "Insufficient regional quota to satisfy request", QuotaError),
        (google_errors.ResourceExhausted, "QUOTA_EXCEEDED: Quota 'GPUS' exceeded", QuotaError),
        (google_errors.ResourceExhausted, "slow down", ThrottledError),
        (google_errors.PermissionDenied, "Required container.nodes.list", AuthError),
        (google_errors.Unauthenticated, "token", AuthError),
        (google_errors.NotFound, "pool", NotFoundError),
        (google_errors.InvalidArgument, "size", RefusedError),
        (google_errors.FailedPrecondition, "incompatible operation", TransientError),
        (google_errors.DeadlineExceeded, "late", OutcomeUnknownError),
        (google_errors.ServiceUnavailable, "failed to connect to all addresses", TransientError),
        (google_errors.ServiceUnavailable, "Socket closed", OutcomeUnknownError),
        (google_errors.InternalServerError, "oops", TransientError),
        (google_errors.Unknown, "no capacity whatsoever", TransientError),
    ],
)
def test_google_errors(kind: Any, message: str, want: type[ExternalError]) -> None:
    def fail() -> None:
        raise kind(message)

    with pytest.raises(ExternalError) as caught:
        gke._translated("Op", fail, writes=True)
    assert type(caught.value) is want


@pytest.mark.parametrize(
    ("reason", "status", "text", "want"),
    [
        ("rateLimitExceeded", 403, "Rate Limit Exceeded", ThrottledError),
        ("quotaExceeded", 403, "Quota exceeded", QuotaError),
        ("forbidden", 403, "Required permission", AuthError),
        ("notFound", 404, "group", NotFoundError),
        ("invalid", 400, "instances", RefusedError),
        ("resourceNotReady", 409, "later", TransientError),
        ("ZONE_RESOURCE_POOL_EXHAUSTED", 503, "none", CapacityError),
        ("backendError", 503, "oops", TransientError),
    ],
)
def test_compute_errors(reason: str, status: int, text: str, want: type[ExternalError]) -> None:
    assert type(gke._typed_error(text, reason, status, None)) is want


def test_a_node_pool_in_error_is_short_of_something() -> None:
    groups = gke._Groups(target=1, stable=False)
    codes = StatusCondition.Code
    cases = [
        (NodePool(conditions=[StatusCondition(code=codes.GCE_STOCKOUT, message="m")]), "capacity"),
        (NodePool(conditions=[StatusCondition(code=codes.GCE_QUOTA_EXCEEDED, message="m")]), "quota"),
        (NodePool(status=NodePool.Status.ERROR, status_message="m"), "error"),
        (NodePool(status=NodePool.Status.RUNNING), None),
    ]
    assert [gke._shortage(pool, groups)[0] for pool, _ in cases] == [want for _, want in cases]


def test_only_fresh_errors_of_a_group_count() -> None:
    def item(at: str, code: str) -> dict[str, Any]:
        return {"timestamp": at, "error": {"code": code, "message": "m"}}

    items = [
        item("2027-01-15T08:00:00+00:00", "OLD"),
        item("2027-01-15T09:00:00.123-00:00", "NEW"),
        item("whenever", "BAD"),
        {"timestamp": "2027-01-15T09:30:00+00:00"},
    ]
    nine = 1_800_000_000.0 + 3600
    assert gke._newest_error(items, after=nine - 7200) == "NEW: m"
    assert gke._newest_error(items, after=nine + 7200) == ""
    assert gke._newest_error([], after=0) == ""


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
