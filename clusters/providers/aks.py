"""Azure AKS agent pools and clusters by the Container Service management SDK.

A pool's count is read, changed and put back under its ETag; a named machine is deleted, and AKS lowers the count.

Nothing waits for a long-running operation: the pool's provisioning state tells when it is over, and for one that
failed the operation itself is asked, once, with what it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from azure.core import MatchConditions
from azure.mgmt.containerservice.models import AgentPool, AgentPoolDeleteMachinesParameter

from clusters.providers import _aks_access as access
from clusters.providers import _aks_login as login
from clusters.providers import _aks_reading as reading
from clusters.providers._aks_arm import RenewableCredential, client_of, credential_of, get_json, get_list, whole
from clusters.providers._aks_errors import DENIED, translated
from clusters.providers._aks_operations import BegunOperations
from clusters.providers._aks_settings import Settings
from clusters.providers._blocking import BlockingCalls
from clusters.providers._shortages import ShortageLedger
from scheduler.model.cloud import AccessCheck, CloudCluster, ClusterLogin
from scheduler.model.errors import (
    AuthError,
    ExternalError,
    InvalidObjectError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    TransientError,
)
from scheduler.model.ids import NodeName, PoolId
from scheduler.model.ports import Clock, PoolStatus

__all__ = ["AgentPools", "Settings", "create"]

T = TypeVar("T")


class AgentPools:
    """The agent pools of one AKS cluster."""

    def __init__(self, settings: Settings, *, clock: Clock) -> None:
        self._settings = settings
        self._group = settings.resource_group
        self._cluster = settings.cluster_name
        self._credential = RenewableCredential(lambda: credential_of(settings))
        self._client = client_of(settings, self._credential)
        self._calls = BlockingCalls(f"aks/{self._cluster}", limit_seconds=settings.call_limit_seconds)
        self._shortages = ShortageLedger(clock)
        self._begun = BegunOperations(settings.endpoint)
        self._region: str | None = None

    async def list_pools(self) -> tuple[PoolStatus, ...]:
        name = "agentPools.list"
        found = await self._ask(name, lambda: whole(name, self._client.agent_pools.list(self._group, self._cluster)))
        region = await self._region_of_cluster()
        return tuple([await self._status(pool, region) for pool in sorted(found, key=lambda one: str(one.name))])

    async def set_size(self, pool: PoolId, desired_nodes: int) -> None:
        """Nothing is sent when the size is right already; TransientError `PoolBusy` while another operation runs;
        ConflictError when the pool changed since it was read."""
        found = await self._get(pool)
        status = reading.read_pool(found, "", None)
        if status.desired_nodes == desired_nodes:
            return
        if status.autoscaled:
            text = f"aks: {pool}: AKS's own autoscaler owns its size; set `scaling: external`"
            raise RefusedError(text, code="Autoscaled")
        if not status.min_nodes <= desired_nodes <= status.max_nodes:
            span = f"{status.min_nodes}..{status.max_nodes}"
            raise RefusedError(f"aks: {pool}: a count of {desired_nodes} nodes is outside {span}", code="OutOfRange")
        if status.busy:
            raise TransientError(f"aks: {pool}: another operation is under way", code="PoolBusy")
        found.count = desired_nodes
        tag: dict[str, Any] = {"raw_response_hook": self._begun.noting(pool)}
        if found.e_tag:
            tag |= {"etag": found.e_tag, "match_condition": MatchConditions.IfNotModified}
        await self._begin(
            "agentPools.createOrUpdate",
            pool,
            lambda: self._client.agent_pools.begin_create_or_update(
                self._group, self._cluster, pool, found, polling=False, **tag
            ),
        )

    async def remove_node(self, pool: PoolId, node: NodeName, provider_id: str) -> None:
        if not reading.MACHINE.fullmatch(provider_id):
            text = f"aks: {node}: provider id {provider_id!r} names no Azure virtual machine"
            raise RefusedError(text, code="BadProviderId")
        try:
            await self._ask("machines.get", lambda: self._client.machines.get(self._group, self._cluster, pool, node))
        except NotFoundError:
            await self._get(pool)  # the pool is there, so it is the machine that is gone
            return
        await self._begin(
            "agentPools.deleteMachines",
            pool,
            lambda: self._client.agent_pools.begin_delete_machines(
                self._group,
                self._cluster,
                pool,
                AgentPoolDeleteMachinesParameter(machine_names=[node]),
                polling=False,
                raw_response_hook=self._begun.noting(pool),
            ),
        )

    async def list_clusters(self) -> tuple[CloudCluster, ...]:
        """Those of the resource group."""
        name = "managedClusters.listByResourceGroup"
        found = await self._ask(
            name, lambda: whole(name, self._client.managed_clusters.list_by_resource_group(self._group))
        )
        return tuple(sorted((reading.read_cluster(one) for one in found), key=lambda one: one.name))

    async def log_in(self) -> ClusterLogin:
        """By Entra ID where the cluster is integrated with it or `login` says so, else by its local account's token."""
        how = self._settings.login
        if how == "auto":
            how = "entra" if (await self._get_cluster()).aad_profile is not None else "local"
        name = "managedClusters.listClusterUserCredentials"
        config = await self._ask(name, lambda: self._kubeconfig(f"aks: {name}"))
        if how == "local":
            return login.local_login(f"aks: {self._cluster}", config)
        return login.entra_login(f"aks: {self._cluster}", config, await self._ask("token", self._cluster_token))

    async def check_access(self) -> tuple[AccessCheck, ...]:
        """By the list of what role assignments at the cluster's scope grant; where even that is denied, by reads."""
        scope, name = self._scope(), "permissions.list"
        path = access.permissions_path(scope)
        try:
            roles = await self._ask(name, lambda: get_list(self._client, f"aks: {name}", path))
        except AuthError as error:
            if error.code != DENIED:
                raise
            tried = {
                access.PERMISSIONS_READ: (False, str(error)),
                access.CLUSTER_READ: await self._try(self._get_cluster),
                access.POOLS_READ: await self._try(self.list_pools),
            }
            return access.unasked(scope, tried)
        return access.checks(scope, roles)

    async def close(self) -> None:
        await self._calls.close()
        self._client.close()
        self._credential.close()

    async def _get(self, pool: str) -> AgentPool:
        return await self._ask("agentPools.get", lambda: self._client.agent_pools.get(self._group, self._cluster, pool))

    async def _get_cluster(self) -> Any:
        return await self._ask(
            "managedClusters.get", lambda: self._client.managed_clusters.get(self._group, self._cluster)
        )

    async def _region_of_cluster(self) -> str:
        if self._region is None:  # it never changes
            self._region = str((await self._get_cluster()).location or "")
        return self._region

    async def _status(self, pool: AgentPool, region: str) -> PoolStatus:
        name = str(pool.name)
        kind, text = reading.shortage_of(pool, await self._end_of_operation(pool))
        return reading.read_pool(pool, region, self._shortages.note(name, kind, text))

    async def _end_of_operation(self, pool: AgentPool) -> Mapping[str, Any] | None:
        """The error of our last operation on a pool that failed; None: there is none, or it is not known yet."""
        name = str(pool.name)
        if pool.provisioning_state == "Succeeded":
            self._begun.forget(name)
        url = self._begun.url(name)
        if pool.provisioning_state == reading.FAILED and url is not None:
            try:
                self._begun.learn(name, await self._ask("operations.get", lambda: get_json(self._client, url)))
            except (NotFoundError, AuthError):
                self._begun.forget(name)  # ARM has forgotten it too, or we may not ask
            except ExternalError:
                pass  # the next listing asks again
        return self._begun.error(name)

    def _kubeconfig(self, place: str) -> login.Kubeconfig:
        try:
            answer = self._client.managed_clusters.list_cluster_user_credentials(self._group, self._cluster)
            content = answer.kubeconfigs[0].value if answer.kubeconfigs else None
        except (AttributeError, TypeError, LookupError, ValueError):
            content = None  # nonsense, whose text may have secrets in it
        return login.read_kubeconfig(place, content)

    def _cluster_token(self) -> Any:
        # By a credential of its own: a token that the cluster has refused would be kept by the other one to its end.
        credential = credential_of(self._settings)
        try:
            return credential.get_token(self._settings.login_scope)
        finally:
            credential.close()

    def _scope(self) -> access.Scope:
        group = f"/subscriptions/{self._settings.subscription_id}/resourceGroups/{self._group}"
        cluster = f"{group}/providers/Microsoft.ContainerService/managedClusters/{self._cluster}"
        return access.Scope(cluster, group, self._settings.client_id or "THE-IDENTITY")

    async def _try(self, read: Callable[[], Any]) -> tuple[bool | None, str]:
        """Whether a harmless read is allowed, and what was said of it."""
        try:
            await read()
        except AuthError as error:
            if error.code != DENIED:
                raise
            return False, str(error)
        except ExternalError as error:
            return None, str(error)
        return True, "it was read"

    async def _begin(self, action: str, pool: str, function: Callable[[], object]) -> None:
        """Begin a long operation."""
        try:
            await self._ask(action, function, writes=True)
        except OutcomeUnknownError:
            self._begun.forget(pool)  # what the one before ended with may not be what this one ends with
            raise

    async def _ask(self, action: str, function: Callable[[], T], *, writes: bool = False) -> T:
        def asked() -> T:
            try:
                return translated(f"aks: {action}", function, writes=writes)
            except AuthError:
                self._credential.renew()
                raise

        return await self._calls.run(action, asked, writes=writes)


def create(settings: Settings, *, clock: Clock) -> AgentPools:
    """The provider. Raises: AuthError for unusable credential files, InvalidObjectError for other unusable settings."""
    if settings.ca_file is not None and not settings.ca_file.is_file():
        raise InvalidObjectError(f"aks: caFile {settings.ca_file}: no such file")
    try:
        return AgentPools(settings, clock=clock)
    except ValueError as error:  # an authority that is no https address, a malformed tenant
        raise InvalidObjectError(f"aks: {error}") from error
