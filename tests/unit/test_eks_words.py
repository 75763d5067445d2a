"""What AWS's own words become: error codes, health issues, updates' errors, node groups, policy simulations."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from clusters.providers import _eks_errors
from clusters.providers._eks_access import policy_source, verdict
from clusters.providers._eks_machines import Gpus
from clusters.providers._eks_status import GroupFacts, cloud_cluster, pool_status
from clusters.providers._eks_updates import Failure
from clusters.providers._shortages import ShortageLedger
from scheduler.model.cluster import Taint
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
from scheduler.model.ports import PoolStatus
from tests.contract.emulated_pools import SteppedClock


@pytest.mark.parametrize(
    ("code", "want"),
    [
        ("InsufficientInstanceCapacity", CapacityError),
        ("UnfulfillableCapacity", CapacityError),
        ("ReservationCapacityExceeded", CapacityError),
        ("InsufficientHostCapacity", CapacityError),
        ("VcpuLimitExceeded", QuotaError),
        ("VolumeLimitExceeded", QuotaError),
        ("ServiceQuotaExceededException", QuotaError),
        ("InstanceLimitExceeded", QuotaError),
        ("MaxSpotInstanceCountExceeded", QuotaError),
        ("ResourceLimitExceededException", QuotaError),
        ("AccessDeniedException", AuthError),
        ("ExpiredTokenException", AuthError),
        ("ExpiredToken", AuthError),
        ("RequestExpired", AuthError),
        ("UnauthorizedOperation", AuthError),
        ("OptInRequired", AuthError),
        ("PendingVerification", AuthError),
        ("Blocked", AuthError),
        ("IDPRejectedClaim", AuthError),
        ("RegionDisabledException", AuthError),
        ("SignatureDoesNotMatch", AuthError),
        ("ThrottlingException", ThrottledError),
        ("RequestLimitExceeded", ThrottledError),
        ("EC2ThrottledException", ThrottledError),
        ("SlowDown", ThrottledError),
        ("NoSuchEntity", NotFoundError),
        ("InvalidInstanceID.NotFound", NotFoundError),
        ("ResourceNotFoundException", NotFoundError),
        ("InvalidParameterException", RefusedError),
        ("UnsupportedOperation", RefusedError),
        ("InvalidInstanceType", RefusedError),
        ("ClientException", RefusedError),
        ("ResourceInUseException", TransientError),
        ("ScalingActivityInProgress", TransientError),
        ("IdempotentCallInProgress", TransientError),
        ("ServerException", TransientError),
        ("404", NotServedError),
        ("CapacityOfTheMoon", TransientError),
        ("", TransientError),
    ],
)
def test_aws_codes(code: str, want: type[ExternalError]) -> None:
    def fail() -> None:
        raise ClientError({"Error": {"Code": code, "Message": "no capacity"}, "ResponseMetadata": {}}, "Op")

    with pytest.raises(ExternalError) as caught:
        _eks_errors.translated("Op", fail, writes=True)
    assert type(caught.value) is want
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("error", "want_read", "want_write"),
    [
        (ReadTimeoutError(endpoint_url="u"), TransientError, OutcomeUnknownError),
        (ConnectTimeoutError(endpoint_url="u"), TransientError, TransientError),
        (EndpointConnectionError(endpoint_url="u"), TransientError, TransientError),
        (NoCredentialsError(), AuthError, AuthError),
        (ResponseParserError("no XML:\n<html>"), TransientError, OutcomeUnknownError),
    ],
)
def test_aws_without_an_answer(error: Exception, want_read: type[Exception], want_write: type[Exception]) -> None:
    def fail() -> None:
        raise error

    for writes, want in ((False, want_read), (True, want_write)):
        with pytest.raises(ExternalError) as caught:
            _eks_errors.translated("Op", fail, writes=writes)
        assert type(caught.value) is want
        assert "\n" not in str(caught.value)


LAUNCH = "AsgInstanceLaunchFailures"


@pytest.mark.parametrize(
    ("code", "message", "want"),
    [
        (LAUNCH, "Could not launch Spot Instances. InsufficientInstanceCapacity - no p4d", "capacity"),
        (LAUNCH, "Could not launch Spot Instances. UnfulfillableCapacity - none", "capacity"),
        (LAUNCH, "Could not launch On-Demand Instances. VcpuLimitExceeded - You have", "quota"),
        (LAUNCH, "Could not launch Spot Instances. MaxSpotInstanceCountExceeded - Max", "quota"),
        (LAUNCH, "Could not launch On-Demand Instances. InvalidKeyPair.NotFound - none", "error"),
        (LAUNCH, "Could not launch On-Demand Instances. ReservationCapacityExceeded - none", "capacity"),
        (LAUNCH, "Could not launch On-Demand Instances. Unsupported - p4d is not supported in us-east-1e", "error"),
        ("EniLimitReached", "Network interfaces", "quota"),
        ("IpNotAvailable", "No address left", "error"),
        ("Ec2InstanceTypeDoesNotExist", "p9 does not exist", "error"),
        ("NodeCreationFailure", "Instances failed to join the kubernetes cluster", "error"),
        ("PodEvictionFailure", "Reached max retries while trying to evict pods", None),
        ("AccessDenied", "no", None),
        ("InstanceLimitExceeded", "Your request for a certain number of instances", "quota"),
        ("InsufficientFreeAddresses", "No address left in the subnet", "error"),
        ("IamNodeRoleNotFound", "role is gone", None),
    ],
)
def test_eks_health_issues(code: str, message: str, want: str | None) -> None:
    assert _eks_errors.shortage([{"code": code, "message": message}])[0] == want
    assert _eks_errors.shortage([]) == (None, "")


CALLED = {
    "eks": (
        "ListClusters",
        "DescribeCluster",
        "ListNodegroups",
        "DescribeNodegroup",
        "UpdateNodegroupConfig",
        "ListUpdates",
        "DescribeUpdate",
    ),
    "autoscaling": (
        "DescribeAutoScalingGroups",
        "DescribeAutoScalingInstances",
        "TerminateInstanceInAutoScalingGroup",
    ),
    "ec2": ("DescribeInstanceTypes",),
    "sts": ("GetCallerIdentity",),
    "iam": ("SimulatePrincipalPolicy",),
}
DECLARED: dict[str, type[ExternalError]] = {
    "ClientException": RefusedError,
    "InvalidInput": RefusedError,
    "InvalidNextToken": RefusedError,
    "InvalidParameterException": RefusedError,
    "InvalidRequestException": RefusedError,
    "NoSuchEntity": NotFoundError,
    "PolicyEvaluation": TransientError,
    "ResourceContention": TransientError,
    "ResourceInUseException": TransientError,
    "ResourceNotFoundException": NotFoundError,
    "ScalingActivityInProgress": TransientError,
    "ServerException": TransientError,
    "ServiceUnavailableException": TransientError,
}


def test_every_error_that_our_calls_declare_has_its_place() -> None:
    """The SDK's service models say which errors an operation may end in; a new one must be looked at here."""
    session = botocore.session.get_session()
    declared = {
        (shape.metadata.get("error") or {}).get("code") or shape.name
        for service, operations in CALLED.items()
        for operation in operations
        for shape in session.get_service_model(service).operation_model(operation).error_shapes
    }
    assert declared == set(DECLARED)
    for code, want in DECLARED.items():
        assert type(_eks_errors.typed_error("eks: Op", code, "m", None)) is want, code


def test_every_word_of_eks_for_a_trouble_is_known_to_the_sdk() -> None:
    model = botocore.session.get_session().get_service_model("eks")
    words = {*model.shape_for("NodegroupIssueCode").enum, *model.shape_for("ErrorCode").enum}
    assert words >= _eks_errors._NODES_LACK
    kinds = {word: _eks_errors.shortage([{"code": word, "message": ""}])[0] for word in words}
    assert {word for word, kind in kinds.items() if kind == "quota"} == {
        "EniLimitReached",
        "InstanceLimitExceeded",
        "LimitExceeded",
    }
    assert {word for word, kind in kinds.items() if kind == "error"} == set(_eks_errors._NODES_LACK)
    assert "capacity" not in kinds.values(), "the code alone never says it"


@pytest.mark.parametrize(("given", "want"), [("7", 7.0), (None, None), ("", None), ("Wed, 21 Oct 2026", None)])
def test_a_wait_that_is_no_number_is_not_told(given: str | None, want: float | None) -> None:
    error = _eks_errors.typed_error("eks: Op", "Throttling", "Rate exceeded", given)
    assert isinstance(error, ThrottledError)
    assert error.retry_after_seconds == want


def test_an_answer_of_many_lines_is_one_line() -> None:
    error = _eks_errors.typed_error("eks: Op", "404", "<html>\n<title>\n" + "x" * 9999, None)
    assert "\n" not in str(error)
    assert len(str(error)) <= 500


def facts(scaling: list[dict[str, Any]] | None = None, **changes: Any) -> GroupFacts:
    group = {
        "nodegroupName": "p4d",
        "status": "ACTIVE",
        "scalingConfig": {"minSize": 0, "maxSize": 4, "desiredSize": 1},
        "instanceTypes": ["p4d.24xlarge"],
        **changes.pop("group", {}),
    }
    return GroupFacts(group, tuple(scaling or ()), **changes)


def read(made: GroupFacts, failure: Failure | None = None, gpus: dict[str, Gpus] | None = None) -> PoolStatus:
    return pool_status(made, gpus or {}, failure, ShortageLedger(SteppedClock()))


def test_a_node_group_alone_tells_what_it_can() -> None:
    status = read(facts())
    assert (status.desired_nodes, status.gpus, status.gpu_model, status.zones, status.version) == (
        1,
        None,
        None,
        (),
        None,
    )
    assert not status.busy
    assert not status.autoscaled


def test_all_there_is_to_tell_is_told() -> None:
    scaling = {"DesiredCapacity": 3, "AvailabilityZones": ["us-east-1b", "us-east-1a"]}
    told = {
        "version": "1.33",
        "taints": [
            {"key": "b", "effect": "PREFER_NO_SCHEDULE"},
            {"key": "a", "value": "v", "effect": "NO_EXECUTE"},
        ],
        "health": {"issues": [{"code": "PodEvictionFailure", "message": "two\nlines"}]},
    }
    status = read(facts([scaling], group=told), gpus={"p4d.24xlarge": Gpus("A100", 8)})
    assert (status.desired_nodes, status.gpus, status.gpu_model) == (3, 8, "A100")
    assert status.zones == ("us-east-1a", "us-east-1b")
    assert status.taints == (Taint("a", "v", "NoExecute"), Taint("b", "", "PreferNoSchedule"))
    assert status.version == "1.33"
    assert status.health == ("PodEvictionFailure: two lines",)
    assert status.shortage is None


@pytest.mark.parametrize(
    ("group", "want"),
    [
        ({"version": "1.33", "releaseVersion": "1.32.1-20250801"}, "1.33"),
        ({"releaseVersion": "1.32.1-20250801"}, "1.32"),
        ({"releaseVersion": "ami-0123456789"}, None),
        ({}, None),
    ],
)
def test_versions(group: dict[str, Any], want: str | None) -> None:
    assert read(facts(group=group)).version == want


@pytest.mark.parametrize(
    ("named", "known", "want"),
    [
        (["a"], {"a": Gpus("A100", 8)}, ("A100", 8)),
        (["a"], {"a": Gpus(None, 0)}, (None, 0)),
        (["a", "b"], {"a": Gpus("A100", 8), "b": Gpus("A100", 8)}, ("A100", 8)),
        (["a", "b"], {"a": Gpus("A100", 8), "b": Gpus("A10G", 1)}, (None, None)),
        (["a", "b"], {"a": Gpus("A100", 8)}, (None, None)),
        ([], {"": Gpus("A100", 8)}, (None, None)),
    ],
)
def test_gpus_only_where_all_types_agree(
    named: list[str], known: dict[str, Gpus], want: tuple[str | None, int | None]
) -> None:
    status = read(facts(group={"instanceTypes": named}), gpus=known)
    assert (status.gpu_model, status.gpus) == want


def test_a_launch_templates_types_are_found_in_the_scaling_group() -> None:
    overrides = {"LaunchTemplate": {"Overrides": [{"InstanceType": "g5.xlarge"}, {"InstanceType": "g5.2xlarge"}]}}
    scaling = {
        "DesiredCapacity": 1,
        "MixedInstancesPolicy": overrides,
        "Instances": [{"InstanceType": "g5.2xlarge", "LifecycleState": "InService"}],
    }
    assert facts([scaling], group={"instanceTypes": None}).instance_types == ("g5.xlarge", "g5.2xlarge")
    plain = {"DesiredCapacity": 1, "Instances": scaling["Instances"]}
    assert read(facts([plain], group={"instanceTypes": None})).instance_type == "g5.2xlarge"


@pytest.mark.parametrize(
    ("tags", "group_tags", "counts", "want"),
    [
        (["k8s.io/cluster-autoscaler/enabled"], {}, True, True),
        (["k8s.io/cluster-autoscaler/enabled"], {}, False, False),
        (["k8s.io/cluster-autoscaler/burst"], {}, True, False),
        (["eks:cluster-name"], {}, True, False),
        ([], {"k8s.io/cluster-autoscaler/enabled": "true"}, True, True),
        ([], {"karpenter.sh/nodepool": "gpu"}, False, True),
        (["karpenter.sh/managed-by"], {}, False, True),
    ],
)
def test_whose_size_it_is(tags: list[str], group_tags: dict[str, str], counts: bool, want: bool) -> None:
    scaling = {"DesiredCapacity": 1, "Tags": [{"Key": key, "Value": "x"} for key in tags]}
    assert read(facts([scaling], group={"tags": group_tags}, autoscaler_tags=counts)).autoscaled is want


def test_a_running_update_knows_the_size_best() -> None:
    made = facts([{"DesiredCapacity": 1}], updating=True, target=3)
    assert (read(made).desired_nodes, read(made).busy) == (3, True)


@pytest.mark.parametrize(
    ("code", "message", "want"),
    [
        ("NodeCreationFailure", "Could not launch. InsufficientInstanceCapacity - none", "capacity"),
        ("EniLimitReached", "no more interfaces", "quota"),
        ("InsufficientFreeAddresses", "subnet is full", "error"),
        ("PodEvictionFailure", "Reached max retries", None),
    ],
)
def test_what_only_the_update_knew_is_told(code: str, message: str, want: str | None) -> None:
    status = read(facts(), Failure(((code, message),), 3, 0.0))
    assert (status.shortage.kind if status.shortage else None) == want
    assert status.health == (f"update failed: {code}: {message}",)


def test_a_cluster_without_more_than_a_name() -> None:
    cluster = cloud_cluster({"name": "c", "status": "CREATING", "endpoint": ""}, "us-east-1")
    assert (cluster.version, cluster.endpoint, cluster.health) == (None, None, ())
    issues = {"issues": [{"code": "KmsKeyDisabled", "message": "no key"}]}
    assert cloud_cluster({"name": "c", "health": issues}, "r").health == ("KmsKeyDisabled: no key",)


@pytest.mark.parametrize(
    ("identity", "configured", "want"),
    [
        ("arn:aws:iam::1:user/ops/overspill", "", "arn:aws:iam::1:user/ops/overspill"),
        ("arn:aws:sts::1:assumed-role/burst/i-0123", "", "arn:aws:iam::1:role/burst"),
        ("arn:aws-cn:sts::1:assumed-role/burst/s", "", "arn:aws-cn:iam::1:role/burst"),
        ("arn:aws:sts::1:assumed-role/burst/s", "arn:aws:iam::1:role/ml/burst", "arn:aws:iam::1:role/ml/burst"),
        ("arn:aws:sts::1:assumed-role/burst/s", "arn:aws:iam::1:role/ml/other", "arn:aws:iam::1:role/burst"),
        ("arn:aws:sts::1:assumed-role/burst/s", "arn:aws:iam::2:role/ml/burst", "arn:aws:iam::1:role/burst"),
        ("arn:aws:sts::1:federated-user/bob", "", None),
        ("arn:aws:iam::1:root", "", None),
        ("", "", None),
    ],
)
def test_whose_policies_are_simulated(identity: str, configured: str, want: str | None) -> None:
    assert policy_source(identity, configured) == want


@pytest.mark.parametrize(
    ("result", "want"),
    [
        ({"EvalDecision": "allowed"}, True),
        ({"EvalDecision": "explicitDeny"}, False),
        ({"EvalDecision": "implicitDeny"}, False),
        ({"EvalDecision": "implicitDeny", "MissingContextValues": ["aws:SourceVpc"]}, None),
        ({"EvalDecision": "allowed", "OrganizationsDecisionDetail": {"AllowedByOrganizations": False}}, False),
        (
            {"EvalDecision": "allowed", "PermissionsBoundaryDecisionDetail": {"AllowedByPermissionsBoundary": False}},
            False,
        ),
    ],
)
def test_what_a_simulation_says(result: dict[str, Any], want: bool | None) -> None:
    allowed, why = verdict([result])
    assert allowed is want
    assert why


def test_a_simulation_without_a_result_is_no_answer() -> None:
    with pytest.raises(TransientError):
        verdict([])
