"""AKS's role definition, and the permission that each request needs.

Source: Azure's list of resource provider operations, "Azure permissions for Containers" and "... for Management and
governance", which names the operation that each REST call is authorised by.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

PRICES: Final[frozenset[str]] = frozenset()
"""Azure Retail Prices is public."""

_ROLE: Final = Path(__file__).parents[3] / "deploy" / "iam" / "aks.json"
_CLUSTERS: Final = "Microsoft.ContainerService/managedClusters"
_NEEDED: Final[dict[str, str | None]] = {
    "GET managedClusters": f"{_CLUSTERS}/read",
    "GET managedClusters/{cluster}": f"{_CLUSTERS}/read",
    "POST listClusterUserCredential": f"{_CLUSTERS}/listClusterUserCredential/action",
    "GET agentPools": f"{_CLUSTERS}/agentPools/read",
    "GET agentPools/{pool}": f"{_CLUSTERS}/agentPools/read",
    "PUT agentPools/{pool}": f"{_CLUSTERS}/agentPools/write",
    "POST agentPools/{pool}/deleteMachines": f"{_CLUSTERS}/agentPools/deleteMachines/action",
    "GET machines/{machine}": f"{_CLUSTERS}/agentPools/machines/read",
    "GET operations": "Microsoft.ContainerService/locations/operations/read",
    "GET permissions": "Microsoft.Authorization/permissions/read",
}


def granted() -> frozenset[str]:
    role = json.loads(_ROLE.read_text())
    assert {"Name", "IsCustom", "Description", "Actions", "NotActions", "AssignableScopes"} <= set(role), (
        "as `az role definition create` wants"
    )
    assert not any("*" in action for action in role["Actions"]), "each permission by its name"
    assert not role["NotActions"]
    assert not role["DataActions"], "what may be done inside the cluster is for Kubernetes' RBAC"
    return frozenset(role["Actions"])


def needed(action: str) -> str | None:
    return _NEEDED[action]
