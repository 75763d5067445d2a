"""Azure AKS agent pools by the Container Service management SDK.

A pool's count is read, changed and put back under its ETag; a named machine is deleted, and AKS lowers the count.

The SDKs' retries are off, in ARM calls and in token fetches: the daemon's next pass is the only retry. Nothing polls a
long-running operation either: the pool's provisioning state tells how it went.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.pipeline.policies import RetryPolicy
from azure.identity import (
    ClientSecretCredential,
    CredentialUnavailableError,
    DefaultAzureCredential,
    WorkloadIdentityCredential,
)
from azure.mgmt.containerservice import ContainerServiceClient
from azure.mgmt.containerservice.models import (
    AgentPool,
    AgentPoolDeleteMachinesParameter,
    AgentPoolMode,
    ScaleSetPriority,
)
from pydantic import Field, model_validator

from clusters.providers._blocking import BlockingCalls
from clusters.providers._settings import NearbyPath, ProviderSettings
from clusters.providers._shortages import ShortageLedger
from scheduler.model.cluster import ON_DEMAND, RESERVED, SPOT
from scheduler.model.errors import (
    AuthError,
    CapacityError,
    ConflictError,
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

_POOL_LABEL: Final = "kubernetes.azure.com/agentpool"
_MOST_NODES: Final = 1000
"""AKS's own limit, for a pool that states none: only autoscaled ones do."""
_SETTLED: Final = frozenset({"Succeeded", "Failed", "Canceled"})
_MACHINE: Final = re.compile(r"azure:///subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Compute/.+", re.I)

# Codes of ARM, AKS and Compute, found as such and inside the messages of wrapping errors.
_CAPACITY: Final = frozenset(
    {
        "AllocationFailed",
        "OverconstrainedAllocationRequest",
        "OverconstrainedZonalAllocationRequest",
        "SkuNotAvailable",
        "ZonalAllocationFailed",
    }
)
_QUOTA: Final = frozenset(
    {
        "ErrCode_InsufficientVCPUQuota",
        "InsufficientVCPUQuota",
        "QuotaExceeded",
        "ResourceQuotaExceeded",
    }
)


class Settings(ProviderSettings):
    """Credentials: `clientSecretFile`, `federatedTokenFile` (workload identity), or neither: Azure's default chain."""

    type: Literal["aks"]
    subscription_id: str = Field(min_length=1)
    resource_group: str = Field(min_length=1)
    cluster_name: str = Field(min_length=1)
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret_file: NearbyPath | None = None
    federated_token_file: NearbyPath | None = None
    endpoint: str = "https://management.azure.com"
    scope: str = "https://management.azure.com/.default"
    authority: str | None = None
    disable_instance_discovery: bool = False
    """For authorities that the public cloud does not know: sovereign, private or emulated ones."""
    ca_file: NearbyPath | None = None

    @model_validator(mode="after")
    def _whole_identity(self) -> Settings:
        files = [file for file in (self.client_secret_file, self.federated_token_file) if file is not None]
        if len(files) > 1:
            raise ValueError("give clientSecretFile or federatedTokenFile, not both")
        if files and not (self.tenant_id and self.client_id):
            raise ValueError("clientSecretFile and federatedTokenFile need tenantId and clientId")
        return self


class AgentPools:
    """The agent pools of one AKS cluster."""

    def __init__(self, settings: Settings, *, clock: Clock) -> None:
        self._group = settings.resource_group
        self._cluster = settings.cluster_name
        transport: dict[str, Any] = {
            "connection_timeout": settings.connect_timeout_seconds,
            "read_timeout": settings.read_timeout_seconds,
        }
        if settings.ca_file is not None:
            transport["connection_verify"] = str(settings.ca_file)
        self._credential = _credential(settings, transport)
        self._client = ContainerServiceClient(
            self._credential,
            settings.subscription_id,
            base_url=settings.endpoint.rstrip("/"),
            credential_scopes=[settings.scope],
            retry_policy=RetryPolicy.no_retries(),
            **transport,
        )
        self._calls = BlockingCalls(f"aks/{self._cluster}", limit_seconds=settings.call_limit_seconds)
        self._shortages = ShortageLedger(clock)

    async def list_pools(self) -> tuple[PoolStatus, ...]:
        pools = await self._ask(
            "agentPools.list", lambda: list(self._client.agent_pools.list(self._group, self._cluster))
        )
        return tuple(self._status(pool) for pool in sorted(pools, key=lambda one: str(one.name)))

    async def set_size(self, pool: PoolId, desired_nodes: int) -> None:
        """Nothing is sent when the size is right already; TransientError `PoolBusy` while another operation runs;
        ConflictError when the pool changed since it was read."""
        found = await self._get(pool)
        status = self._status(found)
        if status.desired_nodes == desired_nodes:
            return
        if found.enable_auto_scaling:
            text = f"aks: {pool}: AKS's autoscaler owns its size; set `scaling: external`"
            raise RefusedError(text, code="Autoscaled")
        if not status.min_nodes <= desired_nodes <= status.max_nodes:
            span = f"{status.min_nodes}..{status.max_nodes}"
            raise RefusedError(f"aks: {pool}: a count of {desired_nodes} nodes is outside {span}", code="OutOfRange")
        if status.busy:
            raise TransientError(f"aks: {pool}: another operation is under way", code="PoolBusy")
        found.count = desired_nodes
        tag: dict[str, Any] = {}
        if found.e_tag:
            tag = {"etag": found.e_tag, "match_condition": MatchConditions.IfNotModified}
        await self._ask(
            "agentPools.createOrUpdate",
            lambda: self._client.agent_pools.begin_create_or_update(
                self._group, self._cluster, pool, found, polling=False, **tag
            ),
            writes=True,
        )

    async def remove_node(self, pool: PoolId, node: NodeName, provider_id: str) -> None:
        if not _MACHINE.fullmatch(provider_id):
            text = f"aks: {node}: provider id {provider_id!r} names no Azure virtual machine"
            raise RefusedError(text, code="BadProviderId")
        try:
            await self._ask("machines.get", lambda: self._client.machines.get(self._group, self._cluster, pool, node))
        except NotFoundError:
            await self._get(pool)  # the pool is there, so it is the machine that is gone
            return
        await self._ask(
            "agentPools.deleteMachines",
            lambda: self._client.agent_pools.begin_delete_machines(
                self._group,
                self._cluster,
                pool,
                AgentPoolDeleteMachinesParameter(machine_names=[node]),
                polling=False,
            ),
            writes=True,
        )

    async def close(self) -> None:
        await self._calls.close()
        self._client.close()
        self._credential.close()

    async def _get(self, pool: str) -> AgentPool:
        return await self._ask("agentPools.get", lambda: self._client.agent_pools.get(self._group, self._cluster, pool))

    def _status(self, pool: AgentPool) -> PoolStatus:
        name = str(pool.name)
        spot = pool.scale_set_priority == ScaleSetPriority.SPOT
        least = 1 if pool.mode == AgentPoolMode.SYSTEM else 0
        kind, text = _shortage(pool)
        return PoolStatus(
            pool=PoolId(name),
            instance_type=pool.vm_size or "",
            capacity_type=SPOT if spot else RESERVED if pool.capacity_reservation_group_id else ON_DEMAND,
            min_nodes=pool.min_count or least,
            max_nodes=pool.max_count or _MOST_NODES,
            desired_nodes=pool.count or 0,
            labels=tuple(sorted({**(pool.node_labels or {}), _POOL_LABEL: name}.items())),
            busy=(pool.provisioning_state or "Succeeded") not in _SETTLED,
            shortage=self._shortages.note(name, kind, text),
        )

    async def _ask(self, action: str, function: Callable[[], T], *, writes: bool = False) -> T:
        return await self._calls.run(action, lambda: _translated(action, function, writes=writes), writes=writes)


def create(settings: Settings, *, clock: Clock) -> AgentPools:
    """The provider. Raises: AuthError for unusable credential files, InvalidObjectError for other unusable settings."""
    if settings.ca_file is not None and not settings.ca_file.is_file():
        raise InvalidObjectError(f"aks: caFile {settings.ca_file}: no such file")
    try:
        return AgentPools(settings, clock=clock)
    except ValueError as error:  # an authority that is no https address, a malformed tenant
        raise InvalidObjectError(f"aks: {error}") from error


def _credential(settings: Settings, transport: dict[str, Any]) -> Any:
    """Raises: AuthError, naming the file; ValueError for a malformed identity."""
    options: dict[str, Any] = {
        **transport,
        "retry_total": 0,
        "disable_instance_discovery": settings.disable_instance_discovery,
    }
    if settings.authority is not None:
        options["authority"] = settings.authority
    if settings.client_secret_file is not None:
        try:
            secret = settings.client_secret_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise AuthError(
                f"aks: clientSecretFile {settings.client_secret_file}: {error}", code="NoCredentials"
            ) from error
        return ClientSecretCredential(settings.tenant_id or "", settings.client_id or "", secret, **options)
    if settings.federated_token_file is not None:
        return WorkloadIdentityCredential(
            tenant_id=settings.tenant_id,
            client_id=settings.client_id,
            token_file_path=str(settings.federated_token_file),
            **options,
        )
    return DefaultAzureCredential(exclude_interactive_browser_credential=True, **options)


def _shortage(pool: AgentPool) -> tuple[str | None, str]:
    """Kind (capacity, quota, error; None: no shortage) and text."""
    if pool.provisioning_state != "Failed":
        return None, ""
    error = pool.status.provisioning_error if pool.status is not None else None
    if error is None:
        return "error", "the last operation on the pool failed; Azure's activity log says why"
    text = f"{error.code}: {error.message}"
    words = _words(text, *(f"{one.code} {one.message}" for one in error.details or []))
    if words & _CAPACITY:
        return "capacity", text
    if words & _QUOTA or _over_quota(str(error.code), text):
        return "quota", text
    return "error", text


def _translated(action: str, function: Callable[[], T], *, writes: bool) -> T:
    """What `function` returns, Azure's errors turned into the taxonomy. Raises: ExternalError."""
    place = f"aks: {action}"
    try:
        return function()
    except CredentialUnavailableError as error:
        raise AuthError(f"{place}: {error.message}", code="NoCredentials") from error
    except HttpResponseError as error:
        if isinstance(error.__cause__, ServiceRequestError | ServiceResponseError):
            # azure-identity calls an unreachable token endpoint a failed authentication.
            raise TransientError(f"{place}: {error.message}", code=type(error.__cause__).__name__) from error
        if error.response is None and isinstance(error, ClientAuthenticationError):
            raise AuthError(f"{place}: {error.message}", code="ClientAuthenticationError") from error
        raise _http_failure(place, error) from error
    except ServiceRequestError as error:
        raise TransientError(f"{place}: {error}", code=type(error).__name__) from error
    except AzureError as error:
        # It was sent, and no (whole) answer came.
        wanted = OutcomeUnknownError if writes else TransientError
        raise wanted(f"{place}: {error}", code=type(error).__name__) from error
    except OSError as error:  # the federated token's file, which is read again for each token
        raise AuthError(f"{place}: {error}", code="NoCredentials") from error


def _http_failure(place: str, error: HttpResponseError) -> ExternalError:
    """The error of the taxonomy for an HTTP answer; TransientError for what nobody here knows."""
    code, message = _code_and_message(error)
    text = f"{place}: {code}: {message}"
    words = _words(code, message)
    if words & _CAPACITY:
        return CapacityError(text, code=code)
    if words & _QUOTA or _over_quota(code, message):
        return QuotaError(text, code=code)
    if error.status_code == 429:
        answer: Any = error.response
        wait = str(answer.headers.get("Retry-After", ""))
        return ThrottledError(text, code=code, retry_after_seconds=float(wait) if wait.isdigit() else None)
    if isinstance(error, ClientAuthenticationError):
        return AuthError(text, code=code)
    kinds: dict[int | None, type[ExternalError]] = {
        400: RefusedError,
        401: AuthError,
        403: AuthError,
        404: NotFoundError,
        412: ConflictError,
    }
    # 409 is "another operation is running" and the like.
    return kinds.get(error.status_code, TransientError)(text, code=code)


def _code_and_message(error: HttpResponseError) -> tuple[str, str]:
    """Of ARM's error body; inner codes are appended to the message. Falls back on the HTTP status."""
    fallback = f"HTTP {error.status_code}", str(error.message)[:300]
    answer: Any = error.response
    try:
        body = answer.json()["error"]
        inner = [f"{one['code']}: {one['message']}" for one in body.get("details") or []]
        return str(body["code"]), "; ".join([str(body["message"]), *inner])
    except (ValueError, KeyError, TypeError, AttributeError):
        return fallback  # an answer of a proxy, or of the token endpoint


def _words(*texts: str) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text)}


def _over_quota(code: str, message: str) -> bool:
    """Compute says `OperationNotAllowed` for an exceeded core quota as well as for an operation that must wait."""
    return code == "OperationNotAllowed" and "quota" in message.lower()
