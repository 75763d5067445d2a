"""What each cloud's own words become in the taxonomy, and the calls in threads that carry them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from google.api_core import exceptions as google_errors
from google.cloud.container_v1.types import NodePool, StatusCondition

from clusters.providers import eks, gke
from clusters.providers._blocking import BlockingCalls
from clusters.providers._shortages import ShortageLedger
from scheduler.model.errors import (
    AuthError,
    CapacityError,
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
    ("code", "want"),
    [
        ("InsufficientInstanceCapacity", CapacityError),
        ("UnfulfillableCapacity", CapacityError),
        ("VcpuLimitExceeded", QuotaError),
        ("InstanceLimitExceeded", QuotaError),
        ("MaxSpotInstanceCountExceeded", QuotaError),
        ("ResourceLimitExceededException", QuotaError),
        ("AccessDeniedException", AuthError),
        ("ExpiredTokenException", AuthError),
        ("SignatureDoesNotMatch", AuthError),
        ("ThrottlingException", ThrottledError),
        ("RequestLimitExceeded", ThrottledError),
        ("ResourceNotFoundException", NotFoundError),
        ("InvalidParameterException", RefusedError),
        ("ResourceInUseException", TransientError),
        ("ServerException", TransientError),
        ("CapacityOfTheMoon", TransientError),
        ("", TransientError),
    ],
)
def test_aws_codes(code: str, want: type[ExternalError]) -> None:
    def fail() -> None:
        raise ClientError({"Error": {"Code": code, "Message": "no capacity"}, "ResponseMetadata": {}}, "Op")

    with pytest.raises(ExternalError) as caught:
        eks._translated("Op", fail, writes=True)
    assert type(caught.value) is want
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("error", "want_read", "want_write"),
    [
        (ReadTimeoutError(endpoint_url="u"), TransientError, OutcomeUnknownError),
        (ConnectTimeoutError(endpoint_url="u"), TransientError, TransientError),
        (EndpointConnectionError(endpoint_url="u"), TransientError, TransientError),
        (NoCredentialsError(), AuthError, AuthError),
    ],
)
def test_aws_without_an_answer(error: BotoCoreError, want_read: type[Exception], want_write: type[Exception]) -> None:
    def fail() -> None:
        raise error

    for writes, want in ((False, want_read), (True, want_write)):
        with pytest.raises(ExternalError) as caught:
            eks._translated("Op", fail, writes=writes)
        assert type(caught.value) is want


LAUNCH = "AsgInstanceLaunchFailures"


@pytest.mark.parametrize(
    ("code", "message", "want"),
    [
        (LAUNCH, "Could not launch Spot Instances. InsufficientInstanceCapacity - no p4d", "capacity"),
        (LAUNCH, "Could not launch Spot Instances. UnfulfillableCapacity - none", "capacity"),
        (LAUNCH, "Could not launch On-Demand Instances. VcpuLimitExceeded - You have", "quota"),
        (LAUNCH, "Could not launch Spot Instances. MaxSpotInstanceCountExceeded - Max", "quota"),
        (LAUNCH, "Could not launch On-Demand Instances. InvalidKeyPair.NotFound - none", "error"),
        ("InstanceLimitExceeded", "Your request for a certain number of instances", "quota"),
        ("InsufficientFreeAddresses", "No address left in the subnet", "error"),
        ("IamNodeRoleNotFound", "role is gone", None),
    ],
)
def test_eks_health_issues(code: str, message: str, want: str | None) -> None:
    assert eks._shortage([{"code": code, "message": message}])[0] == want
    assert eks._shortage([]) == (None, "")


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
