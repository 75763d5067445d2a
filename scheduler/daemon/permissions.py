"""What Overspill may do on Kubernetes clusters: the rules of `deploy/rbac/`, one permission at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from scheduler.daemon.deployed import documents

HUB: Final = "hub"
MEMBER: Final = "member"
EXAMPLE_LEASE: Final = "overspill-example"
"""In place of the federation's own Lease, which is named after it."""


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    verb: str
    group: str
    resource: str
    """Plural; with a subresource "jobs/status"."""
    namespace: str = ""
    """Empty: cluster-scoped, or in all namespaces."""
    name: str = ""
    """Empty: any."""

    def __str__(self) -> str:
        qualified = f"{self.resource}.{self.group}" if self.group else self.resource
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {qualified}{' ' + self.name if self.name else ''}{where}"


def role_file(place: str, *, shadow: bool) -> str:
    """The file's name, for `place` hub or member."""
    return f"shadow-{place}.yaml" if shadow else f"{place}.yaml"


def dependents_file(place: str) -> str:
    """The file that lets objects follow workloads, for `place` hub or member."""
    return f"{place}-dependents.yaml"


def traffic_file(place: str) -> str:
    """The file that lets requests be steered, for `place` hub or member."""
    return f"{place}-traffic.yaml"


def granted_traffic(place: str) -> tuple[Permission, ...]:
    """What that file grants, sorted."""
    return tuple(sorted(permissions_of(documents("rbac", traffic_file(place)))))


def granted_dependents(place: str, kinds: Iterable[str]) -> tuple[Permission, ...]:
    """What that file grants for these kinds of objects, sorted."""
    resources = {f"{kind.lower()}s" for kind in kinds}
    found = permissions_of(documents("rbac", dependents_file(place)))
    return tuple(sorted(one for one in found if one.resource in resources))


SHARDS_FILE: Final = "hub-shards.yaml"


def granted_shards(leases: Iterable[str]) -> tuple[Permission, ...]:
    """What that file grants for the Leases of the shards, sorted."""
    names = tuple(leases)
    found = permissions_of(documents("rbac", SHARDS_FILE))
    return tuple(sorted({replace(one, name=name) for one in found for name in names}))


def granted(place: str, *, shadow: bool, lease: str) -> tuple[Permission, ...]:
    """What the file of `deploy/rbac/` grants, sorted; `lease` is the name of the federation's own."""
    found = permissions_of(documents("rbac", role_file(place, shadow=shadow)))
    return tuple(sorted(replace(one, name=lease) if one.name == EXAMPLE_LEASE else one for one in found))


def permissions_of(manifests: Iterable[Mapping[str, Any]]) -> frozenset[Permission]:
    """Of the Roles and ClusterRoles among them."""
    return frozenset(
        Permission(verb, group, resource, str((role["metadata"]).get("namespace") or ""), name)
        for role in manifests
        if role.get("kind") in ("Role", "ClusterRole")
        for rule in role.get("rules") or ()
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or ("",)
    )
