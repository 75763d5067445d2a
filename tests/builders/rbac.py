"""The sandbox under the roles of `deploy/rbac`: who the daemon is there, and what it asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clusters.sandbox.apiserver.authorization import Attributes, User
from clusters.sandbox.apiserver.server import kubeconfig
from clusters.sandbox.federation import Sandbox
from clusters.sandbox.federation_file import dump, write_private
from scheduler.daemon.deployed import documents
from scheduler.daemon.permissions import EXAMPLE_LEASE, Permission, role_file
from scheduler.model.contract import CONFIG_MAPS, NAMESPACES
from scheduler.model.errors import AlreadyExistsError
from scheduler.model.ports import KubeApi, Resource

ACCOUNT = User("system:serviceaccount:overspill:overspill")
LEASE = "overspill-sandbox"
RBAC = "rbac.authorization.k8s.io"
RESOURCES = {
    "Namespace": NAMESPACES,
    "ConfigMap": CONFIG_MAPS,
    "ServiceAccount": Resource("", "v1", "serviceaccounts", "ServiceAccount"),
    "ClusterRole": Resource(RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
    "ClusterRoleBinding": Resource(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    "Role": Resource(RBAC, "v1", "roles", "Role"),
    "RoleBinding": Resource(RBAC, "v1", "rolebindings", "RoleBinding"),
}


@dataclass
class Asked:
    """What the daemon's account asked of each cluster."""

    of: dict[str, set[Attributes]] = field(default_factory=dict)

    def listener(self, cluster: str) -> Any:
        seen = self.of.setdefault(cluster, set())

        def audit(user: User, asked: Attributes) -> None:
            if user == ACCOUNT and not asked.path and not asked.resource.startswith("selfsubject"):
                seen.add(asked)

        return audit


def manifests(place: str, *, shadow: bool = False) -> list[dict[str, Any]]:
    """The documents of the role file, for the sandbox's federation."""
    return [_named(one) for one in documents("rbac", role_file(place, shadow=shadow))]


def page_manifests() -> list[dict[str, Any]]:
    """The documents of hub-page.yaml, for the sandbox's federation."""
    return [_named(one) for one in documents("rbac", "hub-page.yaml")]


async def apply(api: KubeApi, made: list[dict[str, Any]]) -> None:
    for one in made:
        namespace = str(one["metadata"].get("namespace") or "")
        try:
            await api.create(RESOURCES[one["kind"]], namespace, one)
        except AlreadyExistsError:
            continue


def shard_manifests() -> list[dict[str, Any]]:
    """The documents of hub-shards.yaml, for the sandbox's federation."""
    return [_named(one) for one in documents("rbac", "hub-shards.yaml")]


async def restrict(
    sandbox: Sandbox,
    *,
    shadow: bool = False,
    roles: Mapping[str, list[dict[str, Any]]] | None = None,
) -> Asked:
    """From now on the kubeconfigs of the sandbox are those of Overspill's own account, with the roles of deploy/rbac
    (or, for a cluster in `roles`, with those)."""
    asked = Asked()
    for name, server in sandbox.servers.items():
        place = "hub" if name == sandbox.scenario.hub.name else "member"
        made = (roles or {}).get(name)
        await apply(server.local, manifests(place, shadow=shadow) if made is None else made)
        token = f"account-token-of-{name}"
        server.enroll(token, ACCOUNT)
        server.cloud_user = User("sandbox-cloud-identity", ("overspill",))
        server.audit = asked.listener(name)
        document = kubeconfig(server)
        document["users"][0]["user"]["token"] = token
        write_private(sandbox.kubeconfigs[name], dump(document))
    return asked


def permits(permission: Permission, asked: Attributes) -> bool:
    return (
        (permission.verb, permission.group, permission.resource) == (asked.verb, asked.group, asked.resource)
        and permission.namespace in ("", asked.namespace)
        and permission.name in ("", asked.name)
    )


def _named(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _named(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_named(value) for value in document]
    if isinstance(document, str) and document.startswith(f"{EXAMPLE_LEASE}-shard-"):
        return document.replace(EXAMPLE_LEASE, LEASE)
    return LEASE if document == EXAMPLE_LEASE else document
