"""What Google's own words become in the taxonomy, and what GKE's messages say of clusters, pools and endpoints."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import requests
from google.api_core import exceptions as google_errors
from google.cloud.container_v1 import types
from google.cloud.container_v1.types import NodePool, StatusCondition
from google.rpc import code_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from clusters.providers import _gke_access as access
from clusters.providers import _gke_errors as errors
from clusters.providers import _gke_reading as reading
from clusters.providers._gke_resizes import Resizes
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
from tests.contract import cloud_permissions
from tests.contract.emulated_pools import SteppedClock

Endpoints = types.ControlPlaneEndpointsConfig


# Errors


@pytest.mark.parametrize(
    ("kind", "message", "want"),
    [
        (google_errors.ResourceExhausted, "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS: none", CapacityError),
        (google_errors.ResourceExhausted, "REGION_RESOURCE_POOL_EXHAUSTED: none", CapacityError),
        (google_errors.ServiceUnavailable, "GCE_STOCKOUT in zone", OutcomeUnknownError),
        (google_errors.PermissionDenied, "Insufficient regional quota to satisfy request", QuotaError),
        (google_errors.PermissionDenied, "Insufficient quota to satisfy the request: resource CPUS", QuotaError),
        (google_errors.ResourceExhausted, "QUOTA_EXCEEDED: Quota 'GPUS' exceeded", QuotaError),
        (google_errors.Forbidden, "Quota 'NVIDIA_H100_GPUS' exceeded. Limit: 8.0 in region x.", QuotaError),
        (google_errors.ResourceExhausted, "slow down", ThrottledError),
        (google_errors.ResourceExhausted, "Quota exceeded for quota metric 'Requests'", ThrottledError),
        (google_errors.PermissionDenied, "RATE_LIMIT_EXCEEDED", ThrottledError),
        (google_errors.PermissionDenied, "Required container.nodes.list", AuthError),
        (google_errors.Unauthenticated, "token", AuthError),
        (google_errors.NotFound, "pool", NotFoundError),
        (google_errors.InvalidArgument, "size", RefusedError),
        (google_errors.OutOfRange, "size", RefusedError),
        (google_errors.AlreadyExists, "pool", AlreadyExistsError),
        (google_errors.MethodNotImplemented, "unknown method", NotServedError),
        (google_errors.FailedPrecondition, "incompatible operation", TransientError),
        (google_errors.Aborted, "concurrent change", TransientError),
        (google_errors.DeadlineExceeded, "late", OutcomeUnknownError),
        (google_errors.Cancelled, "gave up", OutcomeUnknownError),
        (google_errors.ServiceUnavailable, "failed to connect to all addresses", TransientError),
        (google_errors.ServiceUnavailable, "Socket closed", OutcomeUnknownError),
        (google_errors.InternalServerError, "oops", TransientError),
        (google_errors.DataLoss, "gone", TransientError),
        (google_errors.Unknown, "no capacity whatsoever", TransientError),
    ],
)
def test_google_errors(kind: Any, message: str, want: type[ExternalError]) -> None:
    def fail() -> None:
        raise kind(message)

    with pytest.raises(ExternalError) as caught:
        errors.translated("Op", fail, writes=True)
    assert type(caught.value) is want


@pytest.mark.parametrize(
    ("reason", "status", "text", "want"),
    [
        ("rateLimitExceeded", 403, "Rate Limit Exceeded", ThrottledError),
        ("userRateLimitExceeded", 403, "User Rate Limit Exceeded", ThrottledError),
        ("dailyLimitExceeded", 403, "Daily Limit Exceeded", ThrottledError),
        ("concurrentLimitExceeded", 403, "Concurrent Limit Exceeded", ThrottledError),
        ("RATE_LIMIT_EXCEEDED", 403, "of operations", ThrottledError),
        ("RESOURCE_OPERATION_RATE_EXCEEDED", 403, "of operations on it", ThrottledError),
        ("", 429, "slow down", ThrottledError),
        ("quotaExceeded", 403, "Quota exceeded", QuotaError),
        ("QUOTA_EXCEEDED", 403, "none left", QuotaError),
        ("LIMIT_EXCEEDED", 403, "none left", QuotaError),
        ("authError", 401, "Invalid Credentials", AuthError),
        ("forbidden", 403, "Required permission", AuthError),
        ("accessNotConfigured", 403, "the API is not enabled", AuthError),
        ("notFound", 404, "group", NotFoundError),
        ("invalid", 400, "instances", RefusedError),
        ("required", 400, "instances", RefusedError),
        ("conditionNotMet", 412, "etag", ConflictError),
        ("resourceNotReady", 409, "later", TransientError),
        ("resourceInUseByAnotherResource", 400, "in use", RefusedError),
        ("ZONE_RESOURCE_POOL_EXHAUSTED", 503, "none", CapacityError),
        ("insufficientCapacity", 503, "none", CapacityError),
        ("backendError", 503, "oops", TransientError),
        ("CapacityOfTheMoon", 418, "no capacity", TransientError),
    ],
)
def test_compute_errors(reason: str, status: int, text: str, want: type[ExternalError]) -> None:
    assert type(errors.typed_error(text, reason, status, None)) is want


def answer(status: int, body: bytes, **headers: str) -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made._content = body
    made.headers.update(headers)
    return made


@pytest.mark.parametrize(
    ("status", "body", "want_reason", "want_text"),
    [
        (403, b'{"error": {"message": "m", "errors": [{"reason": "forbidden"}]}}', "forbidden", "m"),
        (403, b'{"error": {"message": "m", "status": "PERMISSION_DENIED"}}', "PERMISSION_DENIED", "m"),
        (
            403,
            b'{"error": {"message": "m", "status": "S", "details": [{"@type": "x"}, {"reason": "SERVICE_DISABLED"}]}}',
            "SERVICE_DISABLED",
            "m",
        ),
        (502, b"<html>bad gateway</html>", "", "<html>bad gateway</html>"),
        (500, b'{"error": "text"}', "", '{"error": "text"}'),
        (500, b'{"error": {"code": 500}}', "", '{"error": {"code": 500}}'),
        (500, b"[]", "", "[]"),
        (500, b'{"error": {"message": "m", "errors": [1]}}', "", "m"),
    ],
)
def test_a_rest_answer_is_read_whatever_it_is(status: int, body: bytes, want_reason: str, want_text: str) -> None:
    read = errors.RestError.of(answer(status, body))
    assert (read.status, read.reason, str(read), read.retry_after) == (status, want_reason, want_text, None)


@pytest.mark.parametrize(
    ("header", "want"),
    [("7", 7.0), ("", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("²", None), ("9" * 400, None)],
)
def test_only_seconds_are_waited_for(header: str, want: float | None) -> None:
    assert errors.RestError.of(answer(429, b"", **{"Retry-After": header})).retry_after == want


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "message", "errors", "reason", "details", "status"]), inner)
    ),
    max_leaves=12,
)


@given(body=st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_body_at_all_breaks_the_reading_of_an_error(body: bytes) -> None:
    def fail() -> None:
        raise errors.RestError.of(answer(500, body))

    with pytest.raises(ExternalError) as caught:
        errors.translated("Op", fail, writes=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("writes", "want"), [(True, OutcomeUnknownError), (False, TransientError)])
def test_a_gateway_that_gave_up_says_nothing_of_the_outcome(writes: bool, want: type[ExternalError]) -> None:
    def fail() -> None:
        raise errors.RestError.of(answer(504, b"late\nand broken"))

    with pytest.raises(ExternalError) as caught:
        errors.translated("Op", fail, writes=writes)
    assert type(caught.value) is want
    assert "\n" not in str(caught.value)
    assert errors.status_of(caught.value) == 504


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("ZONE_RESOURCE_POOL_EXHAUSTED: x", "capacity"),
        ("The zone 'z' does not have enough resources available to fulfill the request.", "capacity"),
        ("QUOTA_EXCEEDED: Quota 'GPUS_ALL_REGIONS' exceeded", "quota"),
        ("Instance creation failed: Quota 'SSD_TOTAL_GB' exceeded. Limit: 500.0", "quota"),
        ("RATE_LIMIT_EXCEEDED: too many operations", "error"),
        ("IP_SPACE_EXHAUSTED: no addresses in the subnetwork", "error"),
        ("PERMISSIONS_ERROR: the service account is gone", "error"),
        ("RESOURCE_EXHAUSTED: of what, it does not say", "error"),
        ("", "error"),
    ],
)
def test_the_kind_of_a_shortage(text: str, want: str) -> None:
    assert errors.shortage_kind(text) == want


# Pools


def test_a_node_pool_in_error_is_short_of_something() -> None:
    groups = reading.Groups(target=1, stable=False)
    codes = StatusCondition.Code
    cases = [
        (NodePool(conditions=[StatusCondition(code=codes.GCE_STOCKOUT, message="m")]), "capacity"),
        (NodePool(conditions=[StatusCondition(code=codes.GCE_QUOTA_EXCEEDED, message="m")]), "quota"),
        (NodePool(conditions=[StatusCondition(code=codes.CA_EXPIRING, message="m")]), None),
        (NodePool(status=NodePool.Status.ERROR, status_message="m"), "error"),
        (NodePool(status=NodePool.Status.ERROR, status_message="QUOTA_EXCEEDED"), "quota"),
        (NodePool(status=NodePool.Status.RUNNING), None),
    ]
    assert [reading.pool_trouble(pool, groups)[0] for pool, _ in cases] == [want for _, want in cases]


@pytest.mark.parametrize(
    ("group_error", "failed", "want"),
    [
        ("", (None, ""), None),
        ("IP_SPACE_EXHAUSTED: m", (None, ""), "error"),
        ("IP_SPACE_EXHAUSTED: m", ("capacity", "t"), "capacity"),
        ("QUOTA_EXCEEDED: m", ("capacity", "t"), "quota"),
        ("", ("error", "t"), "error"),
        ("", ("quota", "t"), "quota"),
    ],
)
def test_what_names_the_lack_beats_what_only_complains(
    group_error: str, failed: reading.Trouble, want: str | None
) -> None:
    groups = reading.Groups(target=1, stable=False, error=group_error)
    assert reading.pool_trouble(NodePool(), groups, failed)[0] == want


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
    assert reading.newest_error(items, after=nine - 7200) == "NEW: m"
    assert reading.newest_error(items, after=nine + 7200) == ""
    assert reading.newest_error([], after=0) == ""


def gpu(word: str, count: int, **more: Any) -> types.AcceleratorConfig:
    return types.AcceleratorConfig(accelerator_type=word, accelerator_count=count, **more)


@pytest.mark.parametrize(
    ("accelerators", "want"),
    [
        ([], (None, None)),
        ([gpu("nvidia-tesla-a100", 8)], ("nvidia-tesla-a100", 8)),
        ([gpu("nvidia-l4", 1), gpu("nvidia-l4", 1)], ("nvidia-l4", 2)),
        ([gpu("nvidia-l4", 1), gpu("nvidia-tesla-t4", 1)], (None, None)),
        ([gpu("nvidia-l4", 0)], ("nvidia-l4", None)),
        ([gpu("", 4)], (None, None)),
        ([gpu("nvidia-tesla-a100", 1, gpu_partition_size="1g.5gb")], ("nvidia-tesla-a100", None)),
        (
            [gpu("nvidia-l4", 1, gpu_sharing_config=types.GPUSharingConfig(max_shared_clients_per_gpu=4))],
            ("nvidia-l4", None),
        ),
    ],
)
def test_accelerators(accelerators: list[types.AcceleratorConfig], want: tuple[str | None, int | None]) -> None:
    pool = NodePool(name="p", config=types.NodeConfig(accelerators=accelerators))
    status = reading.pool_status(pool, reading.Groups(0, True), None, autopilot=False, resizing=False)
    assert (status.gpu_model, status.gpus) == want


Scaling = types.NodePoolAutoscaling


@pytest.mark.parametrize(
    ("scaling", "autopilot", "want"),
    [
        (Scaling(), False, False),
        (Scaling(enabled=True), False, True),
        (Scaling(autoprovisioned=True), False, True),
        (Scaling(), True, True),
        (Scaling(max_node_count=3), False, False),
    ],
)
def test_who_owns_the_size(scaling: Scaling, autopilot: bool, want: bool) -> None:
    pool = NodePool(name="p", autoscaling=scaling)
    status = reading.pool_status(pool, reading.Groups(0, True), None, autopilot=autopilot, resizing=False)
    assert status.autoscaled is want


def test_taints_zones_and_health_of_a_pool() -> None:
    effects = types.NodeTaint.Effect
    group = "https://www.googleapis.com/compute/v1/projects/p/zones/{}/instanceGroupManagers/{}"
    pool = NodePool(
        name="p",
        config=types.NodeConfig(
            taints=[
                types.NodeTaint(key="a", value="1", effect=effects.NO_SCHEDULE),
                types.NodeTaint(key="b", value="", effect=effects.NO_EXECUTE),
                types.NodeTaint(key="c", value="2", effect=effects.PREFER_NO_SCHEDULE),
                types.NodeTaint(key="d", value="3"),
            ]
        ),
        instance_group_urls=[group.format(z, n) for z, n in (("z-b", "blue"), ("z-a", "blue"), ("z-b", "green"))],
        autoscaling=types.NodePoolAutoscaling(min_node_count=1, max_node_count=3),
        status=NodePool.Status.RUNNING_WITH_ERROR,
        conditions=[
            StatusCondition(code=StatusCondition.Code.CA_EXPIRING, message="soon\nvery soon"),
            StatusCondition(canonical_code=code_pb2.Code.INTERNAL),
        ],
    )
    status = reading.pool_status(pool, reading.Groups(0, True), None, autopilot=False, resizing=True)
    assert [(one.key, one.value, one.effect) for one in status.taints] == [
        ("a", "1", "NoSchedule"),
        ("b", "", "NoExecute"),
        ("c", "2", "PreferNoSchedule"),
    ]
    assert status.zones == ("z-a", "z-b"), "two groups of an upgrade in one zone are one zone"
    assert (status.min_nodes, status.max_nodes, status.busy) == (2, 6, True)
    assert status.health == ("CA_EXPIRING: soon very soon", "INTERNAL")
    assert status.version is None
    silent = NodePool(name="p", status=NodePool.Status.ERROR)
    told = reading.pool_status(silent, reading.Groups(0, True), None, autopilot=False, resizing=False)
    assert told.health == ("in error, and Google does not say why",)
    assert told.zones == ()


# Operations


@pytest.mark.parametrize(
    ("operation", "want"),
    [
        (types.Operation(), (None, "")),
        (
            types.Operation(error=status_pb2.Status(code=8, message="ZONE_RESOURCE_POOL_EXHAUSTED\nin z")),
            ("capacity", "RESOURCE_EXHAUSTED: ZONE_RESOURCE_POOL_EXHAUSTED in z"),
        ),
        (types.Operation(error=status_pb2.Status(code=7, message="Quota 'GPUS' exceeded")), ("quota", None)),
        (types.Operation(error=status_pb2.Status(code=13, message="oops")), ("error", "INTERNAL: oops")),
        (types.Operation(error=status_pb2.Status(code=13)), ("error", "INTERNAL:")),
        (types.Operation(error=status_pb2.Status(code=99, message="x")), ("error", "99: x")),
        (types.Operation(status_message="GCE_STOCKOUT"), ("capacity", "GCE_STOCKOUT")),
        (
            types.Operation(nodepool_conditions=[StatusCondition(code=StatusCondition.Code.GCE_STOCKOUT, message="m")]),
            ("capacity", "m"),
        ),
    ],
)
def test_what_an_operation_failed_of(operation: types.Operation, want: tuple[str | None, str | None]) -> None:
    kind, text = reading.operation_trouble(operation)
    assert kind == want[0]
    assert want[1] in (text, None)


def ended(name: str, code: int = 0, message: str = "") -> types.Operation:
    error = status_pb2.Status(code=code, message=message)
    return types.Operation(name=name, status=types.Operation.Status.DONE, error=error)


def test_a_failed_resize_speaks_until_the_nodes_came_another_began_or_it_is_long_ago() -> None:
    clock = SteppedClock()
    resizes = Resizes(clock)
    waiting, there = reading.Groups(2, stable=False), reading.Groups(2, stable=True)

    def fail(name: str) -> None:
        resizes.begun("p", name, 2)
        assert resizes.running("p") == name
        resizes.looked_up("p", types.Operation(name=name, status=types.Operation.Status.RUNNING))
        assert resizes.running("p") == name
        resizes.looked_up("p", ended("other", 8, "GCE_STOCKOUT"))
        assert resizes.running("p") == name, "of another operation"
        resizes.looked_up("p", ended(name, 8, "GCE_STOCKOUT"))
        assert resizes.running("p") is None
        assert resizes.trouble("p", waiting)[0] == "capacity"
        assert resizes.trouble("q", waiting)[0] is None

    fail("one")
    clock.advance(900)
    assert resizes.trouble("p", reading.Groups(1, stable=True))[0] == "capacity", "fewer than asked for"
    clock.advance(1)
    assert resizes.trouble("p", waiting)[0] is None
    fail("two")
    assert resizes.trouble("p", there)[0] is None
    fail("three")
    resizes.begun("p", "four", 0)
    assert resizes.trouble("p", waiting)[0] is None
    resizes.looked_up("p", ended("four"))
    assert (resizes.running("p"), resizes.any_operation()) == (None, None)
    resizes.begun("p", "", 3)
    assert resizes.running("p") is None, "a name that was not told cannot be looked up"


# Clusters


def with_endpoints(endpoint: str, dns: str = "", outside: bool = True, addresses: bool | None = None) -> types.Cluster:
    ip = Endpoints.IPEndpointsConfig() if addresses is None else Endpoints.IPEndpointsConfig(enabled=addresses)
    return types.Cluster(
        name="c",
        endpoint=endpoint,
        master_auth=types.MasterAuth(cluster_ca_certificate=base64.b64encode(b"PEM").decode()),
        control_plane_endpoints_config=Endpoints(
            ip_endpoints_config=ip,
            dns_endpoint_config=Endpoints.DNSEndpointConfig(endpoint=dns, allow_external_traffic=outside),
        ),
    )


NAME = "gke-1.us-central1.gke.goog"


@pytest.mark.parametrize(
    ("cluster", "want_url", "want_ca", "want_by_name"),
    [
        (with_endpoints("34.1.2.3"), "https://34.1.2.3", b"PEM", False),
        (with_endpoints("127.0.0.1:6443"), "https://127.0.0.1:6443", b"PEM", False),
        (with_endpoints("2600:1900::1"), "https://[2600:1900::1]", b"PEM", False),
        (with_endpoints("34.1.2.3", NAME, addresses=True), "https://34.1.2.3", b"PEM", False),
        (with_endpoints("", NAME), f"https://{NAME}", b"", True),
        (with_endpoints(NAME, NAME), f"https://{NAME}", b"", True),
        (with_endpoints("34.1.2.3", NAME, addresses=False), f"https://{NAME}", b"", True),
        (with_endpoints("", NAME, outside=False), None, b"", False),
        (with_endpoints("34.1.2.3", "", addresses=False), None, b"", False),
        (with_endpoints(""), None, b"", False),
    ],
)
def test_where_the_api_is(cluster: types.Cluster, want_url: str | None, want_ca: bytes, want_by_name: bool) -> None:
    assert reading.api_url(cluster) == want_url
    assert reading.api_authority(cluster) == want_ca
    assert reading.by_name_only(cluster) == want_by_name


def test_a_ca_that_is_no_base64_is_a_clear_error() -> None:
    cluster = with_endpoints("34.1.2.3")
    cluster.master_auth.cluster_ca_certificate = "not base64!"
    with pytest.raises(TransientError, match="c: its CA certificate is no base64"):
        reading.api_authority(cluster)


@pytest.mark.parametrize(
    ("location", "want"),
    [
        ("us-central1", "us-central1"),
        ("us-central1-a", "us-central1"),
        ("us-central1-ai1a", "us-central1"),
        ("northamerica-northeast1-b", "northamerica-northeast1"),
        ("somewhere", "somewhere"),
    ],
)
def test_the_region_of_a_location(location: str, want: str) -> None:
    assert reading.region_of(location) == want


def test_a_cluster_in_trouble_says_so() -> None:
    cluster = types.Cluster(
        name="c",
        location="us-central1",
        status=types.Cluster.Status.DEGRADED,
        conditions=[StatusCondition(code=StatusCondition.Code.CLOUD_KMS_KEY_ERROR, message="no key")],
    )
    found = reading.cloud_cluster(cluster)
    assert (found.status, found.health) == ("DEGRADED", ("CLOUD_KMS_KEY_ERROR: no key",))
    assert (found.version, found.endpoint) == (None, None)


def test_the_adapter_asks_about_just_what_the_role_grants() -> None:
    assert set(access.NEEDED) == cloud_permissions.granted("gke")
