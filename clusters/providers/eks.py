"""Amazon EKS managed node groups, by boto3: the EKS API resizes them, the Auto Scaling API gives back a named node.

The SDK's own retries are off (one attempt): the daemon's next pass is the only retry. The wanted size is read from the
Auto Scaling group, which a termination lowers at once; the node group follows it later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import boto3
import botocore.session
from botocore.config import Config
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
from pydantic import BaseModel, ConfigDict, Field

from clusters.providers._blocking import BlockingCalls
from clusters.providers._settings import NearbyPath, ProviderSettings
from clusters.providers._shortages import ShortageLedger
from scheduler.model.cluster import ON_DEMAND, RESERVED, SPOT
from scheduler.model.errors import (
    AuthError,
    CapacityError,
    ExternalError,
    InvalidObjectError,
    NotFoundError,
    OutcomeUnknownError,
    QuotaError,
    RefusedError,
    ThrottledError,
    TransientError,
)
from scheduler.model.ids import NodeName, PoolId
from scheduler.model.ports import Clock, PoolStatus

T = TypeVar("T")

_POOL_LABEL: Final = "eks.amazonaws.com/nodegroup"
_CAPACITY_TYPES: Final = {"ON_DEMAND": ON_DEMAND, "SPOT": SPOT, "CAPACITY_BLOCK": RESERVED}
_BUSY: Final = frozenset({"CREATING", "UPDATING", "DELETING"})
_INSTANCE_ID: Final = re.compile(r"aws://.*/(i-[0-9a-z]+)")
_GROUPS_A_CALL: Final = 50

# Codes of the EKS, Auto Scaling, EC2 and STS API references, and of their common errors.
_CAPACITY: Final = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity",
        "UnfulfillableCapacity",
    }
)
_QUOTA: Final = frozenset(
    {
        "VcpuLimitExceeded",
        "InstanceLimitExceeded",
        "MaxSpotInstanceCountExceeded",
        "LimitExceeded",
        "ResourceLimitExceeded",
        "ResourceLimitExceededException",
        "ServiceQuotaExceededException",
    }
)
_AUTH: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    }
)
_THROTTLED: Final = frozenset(
    {
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_REFUSED: Final = frozenset(
    {
        "InvalidParameterException",
        "InvalidParameterValue",
        "InvalidRequestException",
        "ValidationError",
        "ValidationException",
    }
)
_NOT_SENT: Final = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError, SSLError)
_NO_CREDENTIALS: Final = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)


class Endpoints(BaseModel):
    """Where the APIs are when not at AWS's own addresses (a VPC endpoint, a proxy, an emulation)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    eks: str | None = None
    autoscaling: str | None = None


class Settings(ProviderSettings):
    """Credentials come from boto3's default chain; `profile` and `credentialsFile` narrow it."""

    type: Literal["eks"]
    cluster_name: str = Field(min_length=1)
    region: str = Field(min_length=1)
    endpoints: Endpoints = Endpoints()
    ca_file: NearbyPath | None = None
    profile: str | None = None
    credentials_file: NearbyPath | None = None


class NodeGroups:
    """The managed node groups of one EKS cluster."""

    def __init__(self, settings: Settings, session: boto3.Session, *, clock: Clock) -> None:
        config = Config(
            connect_timeout=settings.connect_timeout_seconds,
            read_timeout=settings.read_timeout_seconds,
            retries={"total_max_attempts": 1, "mode": "standard"},
            user_agent_extra="overspill",
        )
        verify = str(settings.ca_file) if settings.ca_file else None
        self._cluster = settings.cluster_name
        self._eks = session.client("eks", config=config, endpoint_url=settings.endpoints.eks, verify=verify)
        self._scaling = session.client(
            "autoscaling", config=config, endpoint_url=settings.endpoints.autoscaling, verify=verify
        )
        self._calls = BlockingCalls(f"eks/{self._cluster}", limit_seconds=settings.call_limit_seconds)
        self._shortages = ShortageLedger(clock)

    async def list_pools(self) -> tuple[PoolStatus, ...]:
        names: list[str] = []
        page: dict[str, Any] = {}
        while True:
            arguments = {"nextToken": page["nextToken"]} if page else {}
            page = await self._ask(
                "ListNodegroups",
                lambda a=arguments: self._eks.list_nodegroups(  # type: ignore[misc]
                    clusterName=self._cluster, maxResults=100, **a
                ),
            )
            names += page["nodegroups"]
            if not page.get("nextToken"):
                break
        groups = [await self._describe(name) for name in sorted(names)]
        desired = await self._desired_sizes([name for group in groups for name in _scaling_groups(group)])
        return tuple(self._status(group, desired) for group in groups)

    async def set_size(self, pool: PoolId, desired_nodes: int) -> None:
        """Nothing is sent when the size is right already; TransientError `PoolBusy` while another resize runs."""
        group = await self._describe(pool)
        status = self._status(group, await self._desired_sizes(_scaling_groups(group)))
        if status.desired_nodes == desired_nodes:
            return
        if not status.min_nodes <= desired_nodes <= status.max_nodes:
            raise RefusedError(
                f"eks: {pool}: {desired_nodes} nodes is outside the node group's {status.min_nodes}.."
                f"{status.max_nodes}; change its scalingConfig or the pool's minNodes and maxNodes",
                code="OutOfRange",
            )
        if status.busy:
            raise TransientError(f"eks: {pool}: another resize is under way", code="PoolBusy")
        answer = await self._ask(
            "UpdateNodegroupConfig",
            lambda: self._eks.update_nodegroup_config(
                clusterName=self._cluster, nodegroupName=pool, scalingConfig={"desiredSize": desired_nodes}
            ),
            writes=True,
        )
        update = answer.get("update", {})
        if update.get("status") == "Failed":
            first = (update.get("errors") or [{}])[0]
            raise _typed_error(f"eks: {pool}", first.get("errorCode", ""), first.get("errorMessage", ""), None)

    async def remove_node(self, pool: PoolId, node: NodeName, provider_id: str) -> None:
        found = _INSTANCE_ID.fullmatch(provider_id)
        if found is None:
            raise RefusedError(f"eks: {node}: provider id {provider_id!r} names no EC2 instance", code="BadProviderId")
        instance = found[1]
        answer = await self._ask(
            "DescribeAutoScalingInstances",
            lambda: self._scaling.describe_auto_scaling_instances(InstanceIds=[instance]),
        )
        there = [one for one in answer["AutoScalingInstances"] if not one["LifecycleState"].startswith("Terminat")]
        if not there:
            return
        group = await self._describe(pool)
        if there[0]["AutoScalingGroupName"] not in _scaling_groups(group):
            raise RefusedError(f"eks: {node}: instance {instance} is not of node group {pool}", code="OtherPool")
        await self._ask(
            "TerminateInstanceInAutoScalingGroup",
            lambda: self._scaling.terminate_instance_in_auto_scaling_group(
                InstanceId=instance, ShouldDecrementDesiredCapacity=True
            ),
            writes=True,
        )

    async def close(self) -> None:
        await self._calls.close()
        self._eks.close()
        self._scaling.close()

    async def _describe(self, pool: str) -> dict[str, Any]:
        answer = await self._ask(
            "DescribeNodegroup",
            lambda: self._eks.describe_nodegroup(clusterName=self._cluster, nodegroupName=pool),
        )
        group: dict[str, Any] = answer["nodegroup"]
        return group

    async def _desired_sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Desired capacity by Auto Scaling group; one that is not to be seen is left out."""
        sizes: dict[str, int] = {}
        for start in range(0, len(names), _GROUPS_A_CALL):
            wanted = list(names[start : start + _GROUPS_A_CALL])
            answer = await self._ask(
                "DescribeAutoScalingGroups",
                lambda wanted=wanted: self._scaling.describe_auto_scaling_groups(  # type: ignore[misc]
                    AutoScalingGroupNames=wanted, MaxRecords=_GROUPS_A_CALL
                ),
            )
            for group in answer["AutoScalingGroups"]:
                sizes[group["AutoScalingGroupName"]] = group["DesiredCapacity"]
        return sizes

    def _status(self, group: Mapping[str, Any], desired: Mapping[str, int]) -> PoolStatus:
        name = group["nodegroupName"]
        scaling = group.get("scalingConfig", {})
        sizes = [desired[one] for one in _scaling_groups(group) if one in desired]
        kind, text = _shortage((group.get("health") or {}).get("issues") or [])
        labels = {**(group.get("labels") or {}), _POOL_LABEL: name}
        return PoolStatus(
            pool=PoolId(name),
            instance_type=(group.get("instanceTypes") or [""])[0],
            capacity_type=_CAPACITY_TYPES.get(group.get("capacityType", "ON_DEMAND"), ON_DEMAND),
            min_nodes=scaling.get("minSize", 0),
            max_nodes=scaling.get("maxSize", 0),
            desired_nodes=sum(sizes) if sizes else scaling.get("desiredSize", 0),
            labels=tuple(sorted(labels.items())),
            busy=group.get("status") in _BUSY,
            shortage=self._shortages.note(name, kind, text),
        )

    async def _ask(self, action: str, function: Callable[[], T], *, writes: bool = False) -> T:
        return await self._calls.run(action, lambda: _translated(action, function, writes=writes), writes=writes)


def create(settings: Settings, *, clock: Clock) -> NodeGroups:
    """The provider. Raises: AuthError when the profile or the credentials file cannot be used."""
    core = botocore.session.Session(profile=settings.profile)
    if settings.credentials_file is not None:
        if not settings.credentials_file.is_file():
            raise AuthError(f"eks: {settings.credentials_file}: no such credentials file", code="NoCredentials")
        core.set_config_variable("credentials_file", str(settings.credentials_file))
    if settings.ca_file is not None and not settings.ca_file.is_file():
        raise InvalidObjectError(f"eks: caFile {settings.ca_file}: no such file")
    try:
        return NodeGroups(settings, boto3.Session(botocore_session=core, region_name=settings.region), clock=clock)
    except _NO_CREDENTIALS as error:
        raise AuthError(f"eks: {error}", code=type(error).__name__) from error
    except (BotoCoreError, ValueError) as error:  # a region or an endpoint that is none
        raise InvalidObjectError(f"eks: {error}") from error


def _scaling_groups(group: Mapping[str, Any]) -> list[str]:
    return [one["name"] for one in (group.get("resources") or {}).get("autoScalingGroups") or []]


def _shortage(issues: Sequence[Mapping[str, Any]]) -> tuple[str | None, str]:
    """Kind (capacity, quota, error; None: no shortage) and text of a node group's health issues.

    `AsgInstanceLaunchFailures` stands for any launch failure; EC2's own code inside its message says which.
    """
    for issue in issues:
        code, message = issue.get("code", ""), issue.get("message", "")
        words = {code, *re.findall(r"[A-Za-z]+", message)}
        if words & _CAPACITY:
            return "capacity", message
        if words & _QUOTA:
            return "quota", message
        if code in ("AsgInstanceLaunchFailures", "NodeCreationFailure", "InsufficientFreeAddresses"):
            return "error", f"{code}: {message}"
    return None, ""


def _translated(action: str, function: Callable[[], T], *, writes: bool) -> T:
    """What `function` returns, botocore's errors turned into the taxonomy. Raises: ExternalError."""
    try:
        return function()
    except ClientError as error:
        detail = error.response.get("Error", {})
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        raise _typed_error(
            f"eks: {action}", detail.get("Code", ""), detail.get("Message", ""), headers.get("retry-after")
        ) from error
    except _NO_CREDENTIALS as error:
        raise AuthError(f"eks: {action}: {error}", code=type(error).__name__) from error
    except ParamValidationError as error:
        raise RefusedError(f"eks: {action}: {error}", code="ParamValidationError") from error
    except _NOT_SENT as error:
        raise TransientError(f"eks: {action}: {error}", code=type(error).__name__) from error
    except BotoCoreError as error:
        # Read timeouts and broken connections: it was sent, and no (whole) answer came.
        wanted = OutcomeUnknownError if writes else TransientError
        raise wanted(f"eks: {action}: {error}", code=type(error).__name__) from error


def _typed_error(place: str, code: str, message: str, retry_after: str | None) -> ExternalError:
    """The error of the taxonomy for AWS's `code`; TransientError for one that nobody here knows."""
    text = f"{place}: {code}: {message}"
    if code in _THROTTLED:
        wait = float(retry_after) if retry_after and retry_after.isdigit() else None
        return ThrottledError(text, code=code, retry_after_seconds=wait)
    if code == "ResourceNotFoundException":
        return NotFoundError(text, code=code)
    for codes, kind in (
        (_CAPACITY, CapacityError),
        (_QUOTA, QuotaError),
        (_AUTH, AuthError),
        (_REFUSED, RefusedError),
    ):
        if code in codes:
            return kind(text, code=code)
    return TransientError(text, code=code)
