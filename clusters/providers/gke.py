"""Google GKE: the ClusterManager API (gRPC) tells clusters and pools and resizes them, Compute Engine tells the pools'
sizes and gives back a named node, Resource Manager tells what we may do; all with the same credentials.

A node pool does not say how many nodes it aims at: the target sizes of its managed instance groups do.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, Final, Literal

from google.cloud.container_v1.types import Cluster, NodePool, Operation, SetNodePoolSizeRequest
from pydantic import Field

from clusters.providers import _gke_access as access
from clusters.providers import _gke_reading as reading
from clusters.providers._gke_calls import GoogleCalls, load_credentials
from clusters.providers._gke_errors import status_of
from clusters.providers._gke_resizes import Resizes
from clusters.providers._settings import NearbyPath, ProviderSettings
from clusters.providers._shortages import ShortageLedger
from scheduler.model.cloud import AccessCheck, CloudCluster, ClusterLogin
from scheduler.model.errors import (
    AuthError,
    ExternalError,
    InvalidObjectError,
    NotFoundError,
    RefusedError,
    TransientError,
)
from scheduler.model.ids import NodeName, PoolId
from scheduler.model.ports import Clock, PoolStatus

_FRESH_SECONDS: Final = 900.0
"""Errors of an instance group that are older than this say nothing about now."""
_INSTANCE: Final = re.compile(r"gce://([^/]+)/([^/]+)/([^/]+)")
_NO_OPERATION: Final = "operation-0-access-check"
"""Of no cluster: looked up to see whether that is allowed."""


class Settings(ProviderSettings):
    """Without `credentialsFile`: application default credentials."""

    type: Literal["gke"]
    project: str = Field(min_length=1)
    location: str = Field(min_length=1)
    """Region or zone of the cluster."""
    cluster_name: str = Field(min_length=1)
    endpoint: str = "container.googleapis.com:443"
    compute_endpoint: str = "https://compute.googleapis.com"
    resource_manager_endpoint: str = "https://cloudresourcemanager.googleapis.com"
    ca_file: NearbyPath | None = None
    credentials_file: NearbyPath | None = None


class NodePools:
    """One GKE cluster and its node pools."""

    def __init__(self, settings: Settings, credentials: Any, *, clock: Clock) -> None:
        self._clock = clock
        self._project = settings.project
        self._place = f"projects/{settings.project}/locations/{settings.location}"
        self._name = f"{self._place}/clusters/{settings.cluster_name}"
        self._compute = f"{settings.compute_endpoint.rstrip('/')}/compute/v1"
        self._projects = f"{settings.resource_manager_endpoint.rstrip('/')}/v1/projects"
        self._calls = GoogleCalls(
            f"gke/{settings.cluster_name}",
            credentials,
            endpoint=settings.endpoint,
            ca_file=settings.ca_file,
            limits=(settings.connect_timeout_seconds, settings.read_timeout_seconds),
            call_limit=settings.call_limit_seconds,
        )
        self._once: dict[str, Any] = {"retry": None, "timeout": self._calls.seconds}
        self._shortages = ShortageLedger(clock)
        self._resizes = Resizes(clock)

    # Clusters

    async def list_clusters(self) -> tuple[CloudCluster, ...]:
        """Those of the configured location. TransientError when a zone did not answer."""
        gke = self._calls.gke
        answer = await self._calls.ask("ListClusters", lambda: gke.list_clusters(parent=self._place, **self._once))
        if answer.missing_zones:
            missing = ", ".join(sorted(answer.missing_zones))[:200]
            raise TransientError(f"gke: ListClusters: no answer from {missing}", code="MissingZones")
        return tuple(sorted((reading.cloud_cluster(one) for one in answer.clusters), key=lambda one: one.name))

    async def log_in(self) -> ClusterLogin:
        """RefusedError where it has no endpoint that we could reach; TransientError while it is being created."""
        cluster = await self._cluster()
        server = reading.api_url(cluster)
        if server is None:
            if cluster.status == Cluster.Status.PROVISIONING:
                raise TransientError(f"gke: {cluster.name} is still being created", code="NoEndpoint")
            raise RefusedError(
                f"gke: {cluster.name} has no IP endpoint and no DNS endpoint open to external traffic; enable one",
                code="NoEndpoint",
            )
        authority = reading.api_authority(cluster)
        token, lifetime = await self._calls.fresh_token()
        return ClusterLogin(server, authority, token, lifetime)

    async def check_access(self) -> tuple[AccessCheck, ...]:
        """As `deploy/iam/gke.yaml` names the permissions."""
        cluster: Cluster | None = None
        with contextlib.suppress(ExternalError):  # the checks ask again, and tell what came of it
            cluster = await self._cluster()
        permissions = list(access.NEEDED)
        if cluster is not None and reading.by_name_only(cluster):
            permissions.append(access.CONNECT)
        return await access.check(
            permissions,
            lambda: self._granted(permissions),
            self._probes(cluster),
            project=self._project,
            identity=str(getattr(self._calls.credentials, "service_account_email", None) or "the identity"),
        )

    async def _granted(self, permissions: list[str]) -> frozenset[str]:
        url = f"{self._projects}/{self._project}:testIamPermissions"
        answer = await self._calls.ask(
            "projects.testIamPermissions", lambda: self._calls.rest("POST", url, {"permissions": permissions})
        )
        return frozenset(str(one) for one in answer.get("permissions") or ())

    def _probes(self, cluster: Cluster | None) -> dict[str, access.Probe]:
        """Harmless reads, by the permission that each needs."""
        probes: dict[str, access.Probe] = {
            access.LIST_CLUSTERS: self.list_clusters,
            access.GET_CLUSTER: self._cluster,
            access.GET_OPERATION: lambda: self._operation(self._resizes.any_operation() or _NO_OPERATION),
        }
        urls = [url for pool in cluster.node_pools for url in pool.instance_group_urls] if cluster is not None else []
        if urls:
            probes[access.GET_GROUP] = lambda: self._group("get", urls[0])
        return probes

    # Node pools

    async def list_pools(self) -> tuple[PoolStatus, ...]:
        cluster = await self._cluster()
        pools = sorted(cluster.node_pools, key=lambda one: one.name)
        return tuple([await self._status(pool, autopilot=cluster.autopilot.enabled) for pool in pools])

    async def set_size(self, pool: PoolId, desired_nodes: int) -> None:
        """Nothing is sent when the size is right already; TransientError `PoolBusy` while another resize runs.

        GKE takes sizes per zone: a pool in several zones is resized in multiples of their number only.
        """
        cluster, found = await self._find(pool)
        status = await self._status(found, autopilot=cluster.autopilot.enabled)
        if status.desired_nodes == desired_nodes:
            return
        zones = max(1, len(reading.group_zones(found)))
        _check_size(status, desired_nodes, zones)
        if status.busy:
            raise TransientError(f"gke: {pool}: another resize is under way", code="PoolBusy")
        request = SetNodePoolSizeRequest(name=f"{self._name}/nodePools/{pool}", node_count=desired_nodes // zones)
        operation: Operation = await self._calls.ask(
            "SetNodePoolSize", lambda: self._calls.gke.set_node_pool_size(request, **self._once), writes=True
        )
        self._resizes.begun(pool, operation.name, desired_nodes)

    async def remove_node(self, pool: PoolId, node: NodeName, provider_id: str) -> None:
        """A machine that is not, or no longer, of the pool's instance groups in its zone is left as it is."""
        parts = _INSTANCE.fullmatch(provider_id)
        if parts is None:
            raise RefusedError(
                f"gke: {node}: provider id {provider_id!r} names no Compute instance", code="BadProviderId"
            )
        _, zone, instance = parts.groups()
        cluster, found = await self._find(pool)
        if reading.is_autoscaled(found, autopilot=cluster.autopilot.enabled):
            raise _not_ours(pool)
        urls = [url for url in found.instance_group_urls if reading.group_path(url)[0] == zone]
        if not urls:
            raise RefusedError(f"gke: {node}: node pool {pool} has no instance group in {zone}", code="OtherPool")
        body = {"instances": [f"zones/{zone}/instances/{instance}"], "skipInstancesOnValidationError": True}
        for url in urls:
            await self._group("deleteInstances", url, body)

    async def close(self) -> None:
        await self._calls.close()

    async def _cluster(self) -> Cluster:
        gke = self._calls.gke
        cluster: Cluster = await self._calls.ask("GetCluster", lambda: gke.get_cluster(name=self._name, **self._once))
        return cluster

    async def _find(self, pool: PoolId) -> tuple[Cluster, NodePool]:
        cluster = await self._cluster()
        for found in cluster.node_pools:
            if found.name == pool:
                return cluster, found
        raise NotFoundError(f"gke: {pool}: {cluster.name} has no such node pool", code="NOT_FOUND")

    async def _status(self, pool: NodePool, *, autopilot: bool) -> PoolStatus:
        groups = await self._groups(pool)
        await self._follow(pool.name)
        kind, text = reading.pool_trouble(pool, groups, self._resizes.trouble(pool.name, groups))
        shortage = self._shortages.note(pool.name, kind, text)
        resizing = self._resizes.running(pool.name) is not None
        return reading.pool_status(pool, groups, shortage, autopilot=autopilot, resizing=resizing)

    async def _follow(self, pool: str) -> None:
        """Look up the pool's last resize, where its end has not been seen."""
        name = self._resizes.running(pool)
        if name is None:
            return
        try:
            self._resizes.looked_up(pool, await self._operation(name))
        except (NotFoundError, AuthError) as error:
            if status_of(error) not in (403, 404):
                raise
            # Too old, or not for us to see: the pool tells most of it anyway, and must not become unreadable by this.
            self._resizes.lost(pool)

    async def _operation(self, name: str) -> Operation:
        path = f"{self._place}/operations/{name}"
        gke = self._calls.gke
        found: Operation = await self._calls.ask("GetOperation", lambda: gke.get_operation(name=path, **self._once))
        return found

    async def _groups(self, pool: NodePool) -> reading.Groups:
        target, stable, error = 0, True, ""
        for url in pool.instance_group_urls:
            group = await self._group("get", url)
            target += int(group.get("targetSize", 0))
            if not group.get("status", {}).get("isStable", True):
                stable = False
                told = await self._group("listErrors", url)
                after = self._clock.now() - _FRESH_SECONDS
                error = error or reading.newest_error(told.get("items") or [], after=after)
        return reading.Groups(target, stable, error)

    async def _group(self, verb: str, url: str, body: dict[str, Any] | None = None) -> Any:
        """A Compute call on an instance group; with a `body` it writes."""
        _, path = reading.group_path(url)
        address = f"{self._compute}/{path}" + ("" if verb == "get" else f"/{verb}")
        method = "GET" if body is None else "POST"
        return await self._calls.ask(
            f"instanceGroupManagers.{verb}", lambda: self._calls.rest(method, address, body), writes=body is not None
        )


def create(settings: Settings, *, clock: Clock) -> NodePools:
    """The provider. Raises: AuthError for unusable credentials, InvalidObjectError for an unusable `caFile`."""
    if settings.ca_file is not None and not settings.ca_file.is_file():
        raise InvalidObjectError(f"gke: caFile {settings.ca_file}: no such file")
    return NodePools(settings, load_credentials(settings.credentials_file), clock=clock)


def _check_size(status: PoolStatus, desired_nodes: int, zones: int) -> None:
    """Raises: RefusedError."""
    place = f"gke: {status.pool}"
    if status.autoscaled:
        raise _not_ours(status.pool)
    if not status.min_nodes <= desired_nodes <= status.max_nodes:
        span = f"{status.min_nodes}..{status.max_nodes}"
        raise RefusedError(f"{place}: a size of {desired_nodes} nodes is outside {span}", code="OutOfRange")
    if desired_nodes % zones:
        raise RefusedError(
            f"{place}: {desired_nodes} nodes do not spread evenly over its {zones} zones; use a pool in one zone",
            code="Uneven",
        )


def _not_ours(pool: PoolId) -> RefusedError:
    return RefusedError(f"gke: {pool}: GKE's autoscaler owns its size; set `scaling: external`", code="Autoscaled")
