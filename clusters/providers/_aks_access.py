"""What Azure's role assignments let the configured identity do, evaluated as Azure does.

Source: Azure RBAC's documentation, "Understand Azure role definitions": what a role grants is its Actions less its own
NotActions, what an identity may do is the sum over its roles; names are compared without case, `*` stands for anything.
The list `Microsoft.Authorization/permissions` of a scope has one entry for each role that is assigned there or above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from scheduler.model.cloud import AccessCheck

PERMISSIONS_READ: Final = "Microsoft.Authorization/permissions/read"
CLUSTER_READ: Final = "Microsoft.ContainerService/managedClusters/read"
POOLS_READ: Final = "Microsoft.ContainerService/managedClusters/agentPools/read"
NEEDED: Final = (
    CLUSTER_READ,
    "Microsoft.ContainerService/managedClusters/listClusterUserCredential/action",
    POOLS_READ,
    "Microsoft.ContainerService/managedClusters/agentPools/write",
    "Microsoft.ContainerService/managedClusters/agentPools/deleteMachines/action",
    "Microsoft.ContainerService/managedClusters/agentPools/machines/read",
    "Microsoft.ContainerService/locations/operations/read",
    PERMISSIONS_READ,
)
"""In the order in which they are told; `deploy/iam/aks.json` grants these."""
API_VERSION: Final = "2022-04-01"


@dataclass(frozen=True, slots=True)
class Scope:
    """The cluster in ARM's words, and whom the remedy is about."""

    cluster: str
    """Resource id."""
    group: str
    identity: str


def permissions_path(scope: Scope) -> str:
    return f"{scope.cluster}/providers/Microsoft.Authorization/permissions?api-version={API_VERSION}"


def checks(scope: Scope, roles: Sequence[Any]) -> tuple[AccessCheck, ...]:
    """What the entries of the permissions list say of each action that Overspill needs."""
    return tuple(_check(scope, action, roles) for action in NEEDED)


def unasked(scope: Scope, tried: dict[str, tuple[bool | None, str]]) -> tuple[AccessCheck, ...]:
    """Where the permissions list itself is denied: what harmless reads showed (`tried`), and None for the rest."""
    untold = (None, f"not told without {PERMISSIONS_READ}")
    found = {action: tried.get(action, untold) for action in NEEDED}
    return tuple(
        AccessCheck(action, allowed, detail, "" if allowed else _remedy(scope))
        for action, (allowed, detail) in found.items()
    )


def matches(pattern: str, action: str) -> bool:
    """Whether `action` is one that `pattern` means. Linear in the pattern, whatever stands in it."""
    first, *rest = pattern.lower().split("*")
    left = action.lower()
    if not rest:
        return left == first
    if not left.startswith(first) or len(left) < len(first) + len(rest[-1]) or not left.endswith(rest[-1]):
        return False
    left = left[len(first) : len(left) - len(rest[-1])]
    for part in rest[:-1]:
        found = left.find(part)
        if found < 0:
            return False
        left = left[found + len(part) :]
    return True


def _check(scope: Scope, action: str, roles: Sequence[Any]) -> AccessCheck:
    granting = [role for role in roles if isinstance(role, dict) and _grants(role, action)]
    if any(not role.get("condition") for role in granting):
        return AccessCheck(action, True, f"granted at {scope.cluster}")
    if granting:
        return AccessCheck(action, None, "granted under a condition, which Azure tells only when it is done")
    return AccessCheck(action, False, f"no role that is assigned at or above {scope.cluster} grants it", _remedy(scope))


def _grants(role: dict[Any, Any], action: str) -> bool:
    return _listed(role, "actions", action) and not _listed(role, "notActions", action)


def _listed(role: dict[Any, Any], key: str, action: str) -> bool:
    patterns = role.get(key)
    return isinstance(patterns, list) and any(isinstance(one, str) and matches(one, action) for one in patterns)


def _remedy(scope: Scope) -> str:
    return (
        "make the role of deploy/iam/aks.json and assign it: az role assignment create --role Overspill "
        f"--assignee {scope.identity} --scope {scope.group}"
    )
