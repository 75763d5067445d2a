"""Google GKE node pools: the ClusterManager API (gRPC) resizes them, Compute Engine tells their size and gives back a
named node, both with the same credentials.

The SDK's retries are off for every call; the daemon's next pass is the only retry (google-auth alone repeats a failed
token fetch, within the call's time limit). A node pool does not say how many nodes it aims at: the target sizes of its
managed instance groups do.
"""

from __future__ import annotations

import datetime
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import google.auth
import google.auth.exceptions
import google.auth.identity_pool
import google.oauth2.credentials
import google.oauth2.service_account
import grpc
import requests
from google.api_core import exceptions as google_errors
from google.auth.transport.grpc import secure_authorized_channel
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud.container_v1 import ClusterManagerClient
from google.cloud.container_v1.services.cluster_manager.transports import ClusterManagerGrpcTransport
from google.cloud.container_v1.types import NodePool, ReservationAffinity, SetNodePoolSizeRequest, StatusCondition
from google.rpc.error_details_pb2 import RetryInfo
from pydantic import Field

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

_SCOPES: Final = ("https://www.googleapis.com/auth/cloud-platform",)
_POOL_LABEL: Final = "cloud.google.com/gke-nodepool"
_MOST_NODES_A_ZONE: Final = 1000
"""GKE's own limit, for a pool that states none."""
_BUSY: Final = frozenset({NodePool.Status.PROVISIONING, NodePool.Status.RECONCILING, NodePool.Status.STOPPING})
_FRESH_SECONDS: Final = 900.0
"""Errors of an instance group that are older than this say nothing about now."""
_GROUP: Final = re.compile(r".*/projects/([^/]+)/zones/([^/]+)/instanceGroupManagers/([^/]+)")
_INSTANCE: Final = re.compile(r"gce://([^/]+)/([^/]+)/([^/]+)")

# Compute Engine's words, found in codes and inside messages of both APIs.
_CAPACITY: Final = re.compile(
    r"ZONE_RESOURCE_POOL_EXHAUSTED|RESOURCE_POOL_EXHAUSTED|GCE_STOCKOUT|does not have enough resources available"
)
_QUOTA: Final = re.compile(r"QUOTA_EXCEEDED|quotaExceeded|LIMIT_EXCEEDED|[Ii]nsufficient \w+ quota")
_RATE: Final = re.compile(r"RATE_LIMIT_EXCEEDED|[rR]ateLimitExceeded")


class Settings(ProviderSettings):
    """Without `credentialsFile`: application default credentials."""

    type: Literal["gke"]
    project: str = Field(min_length=1)
    location: str = Field(min_length=1)
    """Region or zone of the cluster."""
    cluster_name: str = Field(min_length=1)
    endpoint: str = "container.googleapis.com:443"
    compute_endpoint: str = "https://compute.googleapis.com"
    ca_file: NearbyPath | None = None
    credentials_file: NearbyPath | None = None


@dataclass(frozen=True, slots=True)
class _Groups:
    """What a pool's managed instance groups say together."""

    target: int
    stable: bool
    error: str = ""
    """Of an unstable group, its newest fresh error."""


class _BoundedRequest(Request):
    """google-auth's HTTP transport, with our time limit in place of its two minutes, and our CA.

    The CA goes with each request: `REQUESTS_CA_BUNDLE` in the environment beats a session's own.
    """

    def __init__(self, session: requests.Session, seconds: float, verify: str | None) -> None:
        super().__init__(session=session)
        self._fixed = {"timeout": seconds, "verify": verify}

    def __call__(self, url: str, *args: Any, **kwargs: Any) -> Any:
        answer: Any = super().__call__(url, *args, **{**kwargs, **self._fixed})  # type: ignore[no-untyped-call]
        return answer


class NodePools:
    """The node pools of one GKE cluster."""

    def __init__(self, settings: Settings, credentials: Any, *, clock: Clock) -> None:
        self._clock = clock
        self._name = f"projects/{settings.project}/locations/{settings.location}/clusters/{settings.cluster_name}"
        self._compute = f"{settings.compute_endpoint.rstrip('/')}/compute/v1"
        self._limits = (settings.connect_timeout_seconds, settings.read_timeout_seconds)
        self._verify = str(settings.ca_file) if settings.ca_file else None
        self._token_session = requests.Session()
        self._request = _BoundedRequest(self._token_session, settings.read_timeout_seconds, self._verify)
        self._credentials = credentials
        self._refreshing = threading.Lock()
        roots = settings.ca_file.read_bytes() if settings.ca_file else None
        self._channel: grpc.Channel = secure_authorized_channel(  # type: ignore[no-untyped-call]
            credentials,
            self._request,
            settings.endpoint,
            ssl_credentials=grpc.ssl_channel_credentials(root_certificates=roots),
            options=[("grpc.enable_retries", 0)],
        )
        self._gke = ClusterManagerClient(transport=ClusterManagerGrpcTransport(channel=self._channel))
        self._session: Any = AuthorizedSession(credentials, auth_request=self._request)  # type: ignore[no-untyped-call]
        self._calls = BlockingCalls(f"gke/{settings.cluster_name}", limit_seconds=settings.call_limit_seconds)
        self._shortages = ShortageLedger(clock)

    async def list_pools(self) -> tuple[PoolStatus, ...]:
        answer = await self._ask(
            "ListNodePools", lambda: self._gke.list_node_pools(parent=self._name, retry=None, timeout=self._limits[1])
        )
        return tuple([await self._status(pool) for pool in sorted(answer.node_pools, key=lambda one: one.name)])

    async def set_size(self, pool: PoolId, desired_nodes: int) -> None:
        """Nothing is sent when the size is right already; TransientError `PoolBusy` while another resize runs.

        GKE takes sizes per zone: a pool in several zones is resized in multiples of their number only.
        """
        found = await self._ask(
            "GetNodePool",
            lambda: self._gke.get_node_pool(name=self._pool_name(pool), retry=None, timeout=self._limits[1]),
        )
        status = await self._status(found)
        if status.desired_nodes == desired_nodes:
            return
        zones = max(1, len(found.instance_group_urls))
        self._check_size(status, desired_nodes, zones, autoscaled=found.autoscaling.enabled)
        if status.busy:
            raise TransientError(f"gke: {pool}: another resize is under way", code="PoolBusy")
        request = SetNodePoolSizeRequest(name=self._pool_name(pool), node_count=desired_nodes // zones)
        await self._ask(
            "SetNodePoolSize",
            lambda: self._gke.set_node_pool_size(request, retry=None, timeout=self._limits[1]),
            writes=True,
        )

    async def remove_node(self, pool: PoolId, node: NodeName, provider_id: str) -> None:
        """A machine that is not, or no longer, of the pool's instance group in its zone is left as it is."""
        parts = _INSTANCE.fullmatch(provider_id)
        if parts is None:
            raise RefusedError(
                f"gke: {node}: provider id {provider_id!r} names no Compute instance", code="BadProviderId"
            )
        _, zone, instance = parts.groups()
        found = await self._ask(
            "GetNodePool",
            lambda: self._gke.get_node_pool(name=self._pool_name(pool), retry=None, timeout=self._limits[1]),
        )
        group = next((one for one in found.instance_group_urls if f"/zones/{zone}/" in one), None)
        if group is None:
            raise RefusedError(f"gke: {node}: node pool {pool} has no instance group in {zone}", code="OtherPool")
        body = {"instances": [f"zones/{zone}/instances/{instance}"], "skipInstancesOnValidationError": True}
        await self._ask(
            "instanceGroupManagers.deleteInstances",
            lambda: self._rest("POST", group, "/deleteInstances", body),
            writes=True,
        )

    async def close(self) -> None:
        await self._calls.close()
        self._channel.close()
        self._session.close()
        self._token_session.close()

    def _pool_name(self, pool: str) -> str:
        return f"{self._name}/nodePools/{pool}"

    def _check_size(self, status: PoolStatus, desired_nodes: int, zones: int, *, autoscaled: bool) -> None:
        """Raises: RefusedError."""
        place = f"gke: {status.pool}"
        if autoscaled:
            raise RefusedError(f"{place}: GKE's autoscaler owns its size; set `scaling: external`", code="Autoscaled")
        if not status.min_nodes <= desired_nodes <= status.max_nodes:
            span = f"{status.min_nodes}..{status.max_nodes}"
            raise RefusedError(f"{place}: a size of {desired_nodes} nodes is outside {span}", code="OutOfRange")
        if desired_nodes % zones:
            raise RefusedError(
                f"{place}: {desired_nodes} nodes do not spread evenly over its {zones} zones; use a pool in one zone",
                code="Uneven",
            )

    async def _status(self, pool: NodePool) -> PoolStatus:
        groups = await self._groups(pool)
        kind, text = _shortage(pool, groups)
        zones = max(1, len(pool.instance_group_urls))
        scaling = pool.autoscaling
        most = scaling.total_max_node_count or scaling.max_node_count * zones or _MOST_NODES_A_ZONE * zones
        config = pool.config
        specific = ReservationAffinity.Type.SPECIFIC_RESERVATION
        reserved = config.reservation_affinity.consume_reservation_type == specific
        return PoolStatus(
            pool=PoolId(pool.name),
            instance_type=config.machine_type,
            capacity_type=SPOT if config.spot or config.preemptible else RESERVED if reserved else ON_DEMAND,
            min_nodes=scaling.total_min_node_count or scaling.min_node_count * zones,
            max_nodes=most,
            desired_nodes=groups.target,
            labels=tuple(sorted({**config.labels, _POOL_LABEL: pool.name}.items())),
            busy=pool.status in _BUSY,
            shortage=self._shortages.note(pool.name, kind, text),
        )

    async def _groups(self, pool: NodePool) -> _Groups:
        target, stable, error = 0, True, ""
        for url in pool.instance_group_urls:
            group = await self._ask("instanceGroupManagers.get", lambda url=url: self._rest("GET", url))  # type: ignore[misc]
            target += int(group.get("targetSize", 0))
            if not group.get("status", {}).get("isStable", True):
                stable = False
                told = await self._ask(
                    "instanceGroupManagers.listErrors",
                    lambda url=url: self._rest("GET", url, "/listErrors"),  # type: ignore[misc]
                )
                error = error or _newest_error(told.get("items") or [], after=self._clock.now() - _FRESH_SECONDS)
        return _Groups(target, stable, error)

    def _rest(self, method: str, group_url: str, suffix: str = "", body: Mapping[str, Any] | None = None) -> Any:
        """A Compute call on an instance group. Raises: ExternalError, requests' and google-auth's errors."""
        parts = _GROUP.fullmatch(group_url)
        if parts is None:
            raise TransientError(f"gke: {group_url[:200]!r} is no zonal instance group", code="BadGroupUrl")
        project, zone, name = parts.groups()
        url = f"{self._compute}/projects/{project}/zones/{zone}/instanceGroupManagers/{name}{suffix}"
        answer = self._session.request(
            method, url, json=body, timeout=self._limits, max_allowed_time=sum(self._limits), verify=self._verify
        )
        if answer.ok:
            return answer.json()
        text, reason = answer.text[:300], ""
        try:
            error = answer.json()["error"]
            text, reason = error["message"], (error.get("errors") or [{}])[0].get("reason", "")
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            pass  # an answer of a proxy, not of Compute
        header = answer.headers.get("Retry-After", "")
        wait = float(header) if header.isdigit() else None
        place = f"gke: {method} {name}{suffix}: {reason or answer.status_code}"
        raise _typed_error(f"{place}: {text}", reason, answer.status_code, wait)

    async def _ask(self, action: str, function: Callable[[], T], *, writes: bool = False) -> T:
        def call() -> T:
            self._authenticate(action)
            return _translated(action, function, writes=writes)

        return await self._calls.run(action, call, writes=writes)

    def _authenticate(self, action: str) -> None:
        """Fetch a token where one is due. Inside gRPC a refused one would look like an unreachable server."""
        try:
            with self._refreshing:
                if not self._credentials.valid:
                    self._credentials.refresh(self._request)
        except google.auth.exceptions.GoogleAuthError as error:
            raise _auth_failure(action, error) from error


def create(settings: Settings, *, clock: Clock) -> NodePools:
    """The provider. Raises: AuthError for unusable credentials, InvalidObjectError for an unusable `caFile`."""
    if settings.ca_file is not None and not settings.ca_file.is_file():
        raise InvalidObjectError(f"gke: caFile {settings.ca_file}: no such file")
    return NodePools(settings, _credentials(settings), clock=clock)


def _credentials(settings: Settings) -> Any:
    """Raises: AuthError, naming the file."""
    try:
        if settings.credentials_file is None:
            return google.auth.default(scopes=_SCOPES)[0]
        info = json.loads(settings.credentials_file.read_text())
        kinds: dict[str, Callable[..., Any]] = {
            "service_account": google.oauth2.service_account.Credentials.from_service_account_info,
            "authorized_user": google.oauth2.credentials.Credentials.from_authorized_user_info,
            "external_account": google.auth.identity_pool.Credentials.from_info,
        }
        if info.get("type") in kinds:
            return kinds[info["type"]](info, scopes=_SCOPES)
    except (OSError, ValueError, AttributeError, google.auth.exceptions.GoogleAuthError) as error:
        place = settings.credentials_file or "application default credentials"
        raise AuthError(f"gke: {place}: {error}", code="NoCredentials") from error
    raise AuthError(
        f"gke: {settings.credentials_file}: type must be service_account, authorized_user or external_account",
        code="NoCredentials",
    )


def _shortage(pool: NodePool, groups: _Groups) -> tuple[str | None, str]:
    """Kind (capacity, quota, error; None: no shortage) and text."""
    for condition in pool.conditions:
        if condition.code == StatusCondition.Code.GCE_STOCKOUT:
            return "capacity", condition.message
        if condition.code == StatusCondition.Code.GCE_QUOTA_EXCEEDED:
            return "quota", condition.message
    text = groups.error
    if _CAPACITY.search(text):
        return "capacity", text
    if _QUOTA.search(text):
        return "quota", text
    if text:
        return "error", text
    if pool.status in (NodePool.Status.ERROR, NodePool.Status.RUNNING_WITH_ERROR):
        return "error", "; ".join(one.message for one in pool.conditions) or pool.status_message
    return None, ""


def _newest_error(items: Sequence[Mapping[str, Any]], *, after: float) -> str:
    """Code and message of the latest of a group's errors since `after`; "" when there is none."""
    fresh: list[tuple[float, str]] = []
    for item in items:
        try:
            at = datetime.datetime.fromisoformat(str(item["timestamp"])).timestamp()
            fresh.append((at, f"{item['error']['code']}: {item['error']['message']}"))
        except (KeyError, ValueError, TypeError):
            continue  # without a time or a code it cannot be told from an old one
    return max((one for one in fresh if one[0] >= after), default=(0.0, ""))[1]


def _translated(action: str, function: Callable[[], T], *, writes: bool) -> T:
    """What `function` returns, the libraries' errors turned into the taxonomy. Raises: ExternalError."""
    unknown = OutcomeUnknownError if writes else TransientError
    place = f"gke: {action}"
    try:
        return function()
    except google_errors.GoogleAPICallError as error:
        raise _grpc_failure(place, error, unknown) from error
    except google_errors.GoogleAPIError as error:
        raise unknown(f"{place}: {error}", code=type(error).__name__) from error
    except google.auth.exceptions.GoogleAuthError as error:
        raise _auth_failure(action, error) from error
    except (requests.exceptions.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        raise TransientError(f"{place}: {error}", code=type(error).__name__) from error
    except requests.exceptions.RequestException as error:
        raise unknown(f"{place}: {error}", code=type(error).__name__) from error


def _auth_failure(action: str, error: google.auth.exceptions.GoogleAuthError) -> ExternalError:
    transport = isinstance(error, google.auth.exceptions.TransportError)
    kind = TransientError if transport or getattr(error, "retryable", False) else AuthError
    return kind(f"gke: {action}: token: {error.args[0] if error.args else error}", code=type(error).__name__)


def _grpc_failure(place: str, error: google_errors.GoogleAPICallError, unknown: type[ExternalError]) -> ExternalError:
    status = error.grpc_status_code.name if error.grpc_status_code is not None else type(error).__name__
    code = error.reason or status
    text = f"{place}: {code}: {error.message}"
    if status == "DEADLINE_EXCEEDED":
        return unknown(text, code=code)
    if status == "UNAVAILABLE":
        unsent = "failed to connect" in error.message or "Getting metadata from plugin failed" in error.message
        return (TransientError if unsent else unknown)(text, code=code)
    waits = [one.retry_delay.ToTimedelta().total_seconds() for one in error.details if isinstance(one, RetryInfo)]
    # 409: FAILED_PRECONDITION shares 400 with what is plainly wrong, but means "another operation is running".
    http = 409 if status == "FAILED_PRECONDITION" else int(error.code or 500)
    return _typed_error(text, code, http, waits[0] if waits else None)


def _typed_error(text: str, code: str, status: int, retry_after: float | None) -> ExternalError:
    """The error of the taxonomy for Google's reason, message and HTTP status; TransientError for anything else."""
    words = f"{code} {text}"
    if _CAPACITY.search(words):
        return CapacityError(text, code=code)
    if _RATE.search(words):
        return ThrottledError(text, code=code, retry_after_seconds=retry_after)
    if _QUOTA.search(words):
        return QuotaError(text, code=code)
    if status == 429:
        return ThrottledError(text, code=code, retry_after_seconds=retry_after)
    kinds = {400: RefusedError, 401: AuthError, 403: AuthError, 404: NotFoundError}
    return kinds.get(status, TransientError)(text, code=code)
