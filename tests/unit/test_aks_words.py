"""Azure's words: error codes in the taxonomy, pools and clusters in the model, wildcards, kubeconfigs."""

from __future__ import annotations

import base64
import re
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.mgmt.containerservice.models import AgentPool, ManagedCluster
from hypothesis import given
from hypothesis import strategies as st

from clusters.clock import SystemClock
from clusters.providers._aks_access import NEEDED, Scope, checks, matches
from clusters.providers._aks_errors import http_failure, shortage
from clusters.providers._aks_login import entra_login, local_login, read_kubeconfig
from clusters.providers._aks_operations import BegunOperations
from clusters.providers._aks_reading import read_cluster, read_pool, shortage_of
from scheduler.model.cluster import Taint
from scheduler.model.errors import (
    AuthError,
    CapacityError,
    ConflictError,
    ExternalError,
    NotFoundError,
    QuotaError,
    RefusedError,
    ThrottledError,
    TransientError,
)


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
        (409, "OverconstrainedZonalAllocationRequest", "too restrictive", CapacityError),
        (409, "SpotPriceGreaterThanProvidedMaxPrice", "lower than the current spot price", CapacityError),
        (400, "AKSCapacityHeavyUsage", "heavy usage in region", CapacityError),
        (400, "QuotaExceeded", 'Code="OperationNotAllowed" Message="exceeding approved LowPriorityCores"', QuotaError),
        (400, "PublicIPCountLimitReached", "more than 20 public IP addresses", QuotaError),
        (400, "ReconcileFailed", 'Code="OperationNotAllowed" Message="approved NCADS_A100 Cores quota"', QuotaError),
        (429, "SubscriptionRequestsThrottled", "try again after 6 seconds", ThrottledError),
        (429, "Throttled", "PutManagedClusterHandler.PUT request limit", ThrottledError),
        (429, "OperationNotAllowed", "too many requests have been received", ThrottledError),
        (403, "RequestDisallowedByPolicy", "a policy says no", AuthError),
        (403, "LinkedAuthorizationFailed", "subnets/join/action", AuthError),
        (400, "SubnetIsFull", "no address is left", RefusedError),
        (400, "AvailabilityZoneNotSupported", "not in this region", RefusedError),
        (409, "AKSOperationPreempted", "by another operation", TransientError),
        (409, "EtagMismatch", "changed", TransientError),
        (503, "ServerBusy", "the capacity of this front end", TransientError),
        (500, "CapacityOfTheMoon", "full", TransientError),
    ],
)
def test_arm_errors(status: int, code: str, message: str, want: type[ExternalError]) -> None:
    answer = ArmAnswer(status, {"error": {"code": code, "message": message}})
    made = http_failure("aks: Op", HttpResponseError(response=answer))  # type: ignore[arg-type]
    assert type(made) is want
    assert made.code == code


@pytest.mark.parametrize("body", [ValueError("no JSON"), [], {}, {"error": "text"}, {"error": {"code": 1}}, None])
def test_an_arm_answer_that_is_none_is_still_one_line(body: Any) -> None:
    made = http_failure("aks: Op", HttpResponseError(response=ArmAnswer(502, body)))  # type: ignore[arg-type]
    assert type(made) is TransientError
    assert made.code == "HTTP 502"


@pytest.mark.parametrize(
    ("header", "want"),
    [
        ("7", 7.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("٣", None),
        ("9" * 400, 999999999.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_how_long_to_wait(header: str, want: float | None) -> None:
    answer = ArmAnswer(429, {"error": {"code": "TooManyRequests", "message": "slow"}}, {"Retry-After": header})
    made = http_failure("aks: Op", HttpResponseError(response=answer))  # type: ignore[arg-type]
    assert isinstance(made, ThrottledError)
    assert made.retry_after_seconds == want


def test_errors_inside_errors_are_told_and_bounded() -> None:
    inner: dict[str, Any] = {"code": "AllocationFailed", "message": "no\nmachine"}
    body = {"code": "BadRequest", "message": "failed", "details": [inner]}
    made = http_failure("aks: Op", HttpResponseError(response=ArmAnswer(400, {"error": body})))  # type: ignore[arg-type]
    assert type(made) is CapacityError
    assert str(made) == "aks: Op: BadRequest: failed; AllocationFailed: no machine"
    deep: dict[str, Any] = inner
    for _ in range(3000):
        deep = {"code": "X", "message": "m" * 100, "details": [deep] * 3}
    kind, text = shortage(deep)
    assert kind == "error"
    assert len(text) <= 600
    assert "\n" not in text


@pytest.mark.parametrize(
    ("state", "error", "want"),
    [
        ("Succeeded", None, None),
        ("Failed", None, "error"),
        ("Failed", {"code": "ReconcileVMSSAgentPoolFailed", "message": 'Code="AllocationFailed"'}, "capacity"),
        ("Failed", {"code": "X", "message": "", "details": [{"code": "SkuNotAvailable", "message": ""}]}, "capacity"),
        ("Failed", {"code": "OperationNotAllowed", "message": "cores quota"}, "quota"),
        ("Failed", {"code": "VMExtensionProvisioningError", "message": "no"}, "error"),
        ("Failed", {"code": "SkuNotAvailable", "message": "Following SKUs have failed"}, "capacity"),
        (
            "Failed",
            {"code": "X", "message": 'Code="OperationNotAllowed" Message="approved LowPriorityCores quota"'},
            "quota",
        ),
        ("Failed", {"code": "X", "message": "", "details": [{"code": "QuotaExceeded", "message": ""}]}, "quota"),
        ("Failed", {"code": "OperationNotAllowed", "message": "in progress operation"}, "error"),
        ("Failed", {"code": "SubnetIsFull", "message": "no address"}, "error"),
        ("Failed", {"code": "X", "message": "the allocation failed for want of capacity"}, "error"),
        ("Canceled", {"code": "AllocationFailed", "message": ""}, None),
        ("Scaling", {"code": "AllocationFailed", "message": ""}, None),
    ],
)
def test_aks_provisioning_errors(state: str, error: dict[str, Any] | None, want: str | None) -> None:
    pool = AgentPool({"properties": {"provisioningState": state, "status": {"provisioningError": error}}})
    assert shortage_of(pool, None)[0] == want


OUT = {"code": "AllocationFailed", "message": "no machine"}
VAGUE = {"code": "Failed", "message": "look elsewhere"}


@pytest.mark.parametrize(
    ("own", "ended", "want"),
    [
        (None, None, ("error", "activity log")),
        (None, OUT, ("capacity", "no machine")),
        (VAGUE, OUT, ("capacity", "no machine")),
        (OUT, VAGUE, ("capacity", "no machine")),
        (VAGUE, None, ("error", "look elsewhere")),
        (VAGUE, {"code": "Other", "message": "m"}, ("error", "look elsewhere")),
    ],
)
def test_the_operation_tells_what_the_pool_does_not(
    own: dict[str, str] | None, ended: dict[str, str] | None, want: tuple[str, str]
) -> None:
    pool = AgentPool({"properties": {"provisioningState": "Failed", "status": {"provisioningError": own}}})
    kind, text = shortage_of(pool, ended)
    assert kind == want[0]
    assert want[1] in text


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({}, {"taints": (), "zones": (), "version": None, "health": (), "autoscaled": False, "gpus": None}),
        ({"availabilityZones": ["3", "1"]}, {"zones": ("eastus-1", "eastus-3")}),
        ({"availabilityZones": ["us-east-1a"]}, {"zones": ("us-east-1a",)}),
        ({"currentOrchestratorVersion": "1.33.2", "orchestratorVersion": "1.33"}, {"version": "1.33.2"}),
        ({"orchestratorVersion": "1.33"}, {"version": "1.33"}),
        (
            {"nodeTaints": ["nvidia.com/gpu=present:NoSchedule", "x:NoExecute", "a=b=c:NoSchedule"]},
            {
                "taints": (
                    Taint("nvidia.com/gpu", "present", "NoSchedule"),
                    Taint("x", "", "NoExecute"),
                    Taint("a", "b=c", "NoSchedule"),
                )
            },
        ),
        (
            {"nodeTaints": ["nonsense", "=x:NoSchedule"]},
            {
                "taints": (),
                "health": (
                    "the taint 'nonsense' is not understood",
                    "the taint '=x:NoSchedule' is not understood",
                ),
            },
        ),
        ({"provisioningState": "Failed"}, {"health": ("its last operation: Failed",), "busy": False}),
        ({"provisioningState": "Canceled"}, {"health": ("its last operation: Canceled",), "busy": False}),
        (
            {"provisioningState": "Failed", "status": {"provisioningError": {"code": "X", "message": "a\nb"}}},
            {"health": ("Failed: X: a b",)},
        ),
        ({"provisioningState": "Scaling"}, {"busy": True, "health": ()}),
        (
            {"powerState": {"code": "Stopped"}},
            {"health": ("stopped; start it with `az aks start` or `az aks nodepool start`",)},
        ),
        (
            {"enableAutoScaling": True, "minCount": 1, "maxCount": 4},
            {"autoscaled": True, "min_nodes": 1, "max_nodes": 4},
        ),
        ({"mode": "Machines"}, {"autoscaled": True}),
        ({"mode": "ManagedSystem"}, {"autoscaled": True}),
        ({"mode": "System"}, {"autoscaled": False, "min_nodes": 1}),
        ({"vmSize": "Standard_NC24ads_A100_v4"}, {"gpu_model": None, "gpus": None}),
        ({"gpuProfile": {"driver": "Install"}}, {"gpu_model": None, "gpus": None}),
        ({"scaleSetPriority": "Spot"}, {"capacity_type": "spot"}),
    ],
)
def test_what_a_pool_says(fields: dict[str, Any], want: dict[str, Any]) -> None:
    status = read_pool(AgentPool({"name": "p", "properties": fields}), "eastus", None)
    assert {name: getattr(status, name) for name in want} == want


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({"provisioningState": "Succeeded"}, {"status": "Succeeded", "endpoint": None, "version": None, "health": ()}),
        ({"provisioningState": "Creating", "kubernetesVersion": "1.33"}, {"status": "Creating", "version": "1.33"}),
        ({"fqdn": "a.azmk8s.io", "currentKubernetesVersion": "1.33.2"}, {"endpoint": "https://a.azmk8s.io"}),
        ({"privateFQDN": "p.azmk8s.io"}, {"endpoint": "https://p.azmk8s.io"}),
        (
            {"provisioningState": "Succeeded", "powerState": {"code": "Stopped"}},
            {"status": "Stopped", "health": ("stopped; start it with `az aks start` or `az aks nodepool start`",)},
        ),
        (
            {"provisioningState": "Failed", "status": {"provisioningError": {"code": "C", "message": "m"}}},
            {"status": "Failed", "health": ("Failed: C: m",)},
        ),
    ],
)
def test_what_a_cluster_says(fields: dict[str, Any], want: dict[str, Any]) -> None:
    cluster = read_cluster(ManagedCluster({"name": "c", "location": "eastus", "properties": fields}))
    assert (cluster.name, cluster.region) == ("c", "eastus")
    assert {name: getattr(cluster, name) for name in want} == want


READ = "Microsoft.ContainerService/managedClusters/read"
SCOPE = Scope("/c", "/g", "me")


@pytest.mark.parametrize(
    ("pattern", "want"),
    [
        ("*", True),
        ("*/read", True),
        (READ, True),
        (READ.upper(), True),
        ("Microsoft.ContainerService/*", True),
        ("Microsoft.*/managedClusters/*", True),
        ("Microsoft.ContainerService/*/read", True),
        ("**", True),
        ("*managed*", True),
        ("", False),
        ("*/write", False),
        ("Microsoft.ContainerService", False),
        ("Microsoft.ContainerService/managedClusters/read/*", False),
        ("Microsoft.ContainerService/managedClusters/agentPools/*", False),
        ("Microsoft.ContainerService/managedClusters/?ead", False),
        ("microsoft.containerservice/managedclusters/rea*ead", False),
    ],
)
def test_wildcards(pattern: str, want: bool) -> None:
    assert matches(pattern, READ) is want


@given(st.text("aB/*.", max_size=12), st.text("ab/.", max_size=12))
def test_wildcards_are_those_of_a_regular_expression(pattern: str, action: str) -> None:
    wanted = re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), action, re.IGNORECASE)
    assert matches(pattern, action) is (wanted is not None)


@pytest.mark.parametrize(
    ("roles", "want"),
    [
        ([], False),
        ([{"actions": ["*"], "notActions": []}], True),
        ([{"actions": ["*"], "notActions": ["*/READ"]}], False),
        ([{"actions": ["*"], "notActions": ["*/read"]}, {"actions": [READ]}], True),
        ([{"actions": ["*"], "notActions": ["Microsoft.ContainerService/*"]}, {"actions": ["*/write"]}], False),
        ([{"dataActions": ["*"]}], False),
        ([{"actions": [READ], "condition": "@Resource[x] StringEquals 'y'"}], None),
        ([{"actions": [READ], "condition": "c"}, {"actions": ["*/read"], "condition": None}], True),
        ([None, 3, {"actions": "*"}, {"actions": [None, 7, {}]}], False),
    ],
)
def test_roles_add_up_and_take_away_only_from_themselves(roles: list[Any], want: bool | None) -> None:
    found = {check.action: check for check in checks(SCOPE, roles)}
    assert set(found) == set(NEEDED)
    assert found[READ].allowed is want
    assert bool(found[READ].remedy) == (want is False)


PEM = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
CA = base64.b64encode(PEM).decode()


def kubeconfig(
    cluster: str = f"server: https://a:443, certificate-authority-data: {CA}", user: str = "token: t0ken"
) -> bytes:
    return f"""
apiVersion: v1
kind: Config
clusters:
- name: other
  cluster: {{server: https://other}}
- name: c
  cluster: {{{cluster}}}
contexts:
- name: x
  context: {{cluster: c, user: u}}
current-context: x
users:
- name: u
  user: {{{user}}}
""".encode()


def test_a_kubeconfig_with_a_token() -> None:
    config = read_kubeconfig("aks: c", kubeconfig())
    made = local_login("aks: c", config)
    assert (made.server, made.ca_pem, made.token, made.lifetime_seconds) == ("https://a:443", PEM, "t0ken", 3600.0)
    assert "t0ken" not in repr(config) + repr(made)
    assert read_kubeconfig("aks: c", kubeconfig("server: https://a")).ca_pem == b""


@pytest.mark.parametrize(
    ("user", "code", "want"),
    [
        (
            "client-certificate-data: Yw==, client-key-data: aw==",
            "NoToken",
            "client certificate and no token.*enable-aad",
        ),
        ("exec: {command: kubelogin}", "EntraOnly", "login: entra"),
        ("auth-provider: {name: azure}", "EntraOnly", "login: entra"),
        ("username: a, password: hunter2", "NoToken", "has no token.*name a kubeconfig"),
        ("tokenFile: /etc/shadow", "NoToken", "has no token"),
        ("token: [1]", "NoToken", "has no token"),
    ],
)
def test_a_kubeconfig_without_a_token_is_refused_with_the_remedy(user: str, code: str, want: str) -> None:
    with pytest.raises(RefusedError, match=want) as caught:
        local_login("aks: c", read_kubeconfig("aks: c", kubeconfig(user=user)))
    assert caught.value.code == code
    assert "hunter2" not in str(caught.value)


BOMB = b"a: &a {k: v}\n" + b"".join(b"%c: &%c {<<: [*%c, *%c]}\n" % (n + 1, n + 1, n, n) for n in range(97, 120))


@pytest.mark.parametrize(
    "content",
    [
        None,
        "text",
        b"",
        b"a" * 300_000,
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"{" * 100_000,
        BOMB,
        b"x: !!python/object/apply:os.system [true]",
        b"x: 2001-99-99",
        b"x: &a [*a]",
        b"? {a: b}\n: c",
        b"s3cret: [",
        b"s3cret",
        b"[]",
        b"clusters: {}\ncontexts: 3\nusers: s3cret\ncurrent-context: [x]",
        kubeconfig("server: http://a"),
        kubeconfig("server: https://user:s3cret@a"),
        kubeconfig("server: 'https://[::1'"),
        kubeconfig("server: https://a:99999999"),
        kubeconfig("server: file:///etc/passwd"),
        kubeconfig("server: https://a, certificate-authority: /etc/passwd"),
        kubeconfig("server: https://a, certificate-authority-data: '%%%'"),
        kubeconfig("server: https://a, certificate-authority-data: czNjcmV0"),
    ],
)
def test_a_hostile_kubeconfig_is_one_line_without_its_content(content: object) -> None:
    with pytest.raises(TransientError, match="the kubeconfig in the answer is not usable") as caught:
        read_kubeconfig("aks: c", content)
    assert caught.value.code == "Malformed"
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.binary(max_size=200))
def test_no_bytes_are_a_crash(content: bytes) -> None:
    with pytest.raises(TransientError):
        read_kubeconfig("aks: c", content)


def test_a_token_that_is_over_when_it_comes_says_so() -> None:
    config = read_kubeconfig("aks: c", kubeconfig())
    now = SystemClock().now()
    made = entra_login("aks: c", config, SimpleNamespace(token="e", expires_on=now + 100))
    assert made.token == "e"
    assert 0 < made.lifetime_seconds <= 100
    with pytest.raises(TransientError, match="clock") as caught:
        entra_login("aks: c", config, SimpleNamespace(token="e", expires_on=now - 5))
    assert caught.value.code == "TokenExpired"


def begun(url: str, status: int = 200) -> BegunOperations:
    operations = BegunOperations("https://arm.example")
    headers = {"Azure-AsyncOperation": url}
    operations.noting("p")(SimpleNamespace(http_response=SimpleNamespace(status_code=status, headers=headers)))
    return operations


@pytest.mark.parametrize(
    ("url", "status", "want"),
    [
        ("https://arm.example/operations/1", 202, True),
        ("https://ARM.example/operations/1", 201, True),
        ("https://arm.example/operations/1", 429, False),
        ("https://elsewhere.example/operations/1", 200, False),
        ("https://arm.example.evil/1", 200, False),
        ("https://arm.example/{endpoint}", 200, False),
        ("/operations/1", 200, False),
        ("", 200, False),
    ],
)
def test_an_operation_is_remembered_where_it_is_at_home(url: str, status: int, want: bool) -> None:
    assert (begun(url, status).url("p") is not None) is want


@pytest.mark.parametrize(
    ("answer", "want_url", "want_error"),
    [
        ({"status": "InProgress"}, True, None),
        ({"status": "Succeeded"}, False, None),
        ({"status": "Failed", "error": OUT}, False, OUT),
        ({"status": "Canceled", "error": OUT}, False, OUT),
        ({"status": "Failed"}, False, None),
        ({"status": "Failed", "error": "text"}, False, None),
        ({"status": ["Failed"]}, True, None),
        ({}, True, None),
        ([], True, None),
        (None, True, None),
    ],
)
def test_an_operation_is_asked_until_it_has_ended(answer: object, want_url: bool, want_error: object) -> None:
    operations = begun("https://arm.example/operations/1")
    operations.learn("p", answer)
    assert (operations.url("p") is not None) is want_url
    assert operations.error("p") == want_error
    operations.forget("p")
    assert (operations.url("p"), operations.error("p")) == (None, None)
