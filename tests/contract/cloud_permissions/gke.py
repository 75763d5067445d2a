"""GKE's custom role, and the permission that each request needs.

Sources: GKE's "API permissions" page (node pools are read with clusters.get and resized with clusters.update); the
reference of each `instanceGroupManagers` method; that of Resource Manager's `projects.testIamPermissions`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

PRICES: Final[frozenset[str]] = frozenset()

_ROLE: Final = Path(__file__).parents[3] / "deploy" / "iam" / "gke.yaml"
_NEEDED: Final[dict[str, str | None]] = {
    "ListClusters": "container.clusters.list",
    "GetCluster": "container.clusters.get",
    "ListNodePools": "container.clusters.get",
    "GetNodePool": "container.clusters.get",
    "SetNodePoolSize": "container.clusters.update",
    "GetOperation": "container.operations.get",
    "ListOperations": "container.operations.list",
    "instanceGroupManagers.get": "compute.instanceGroupManagers.get",
    "instanceGroupManagers.listErrors": "compute.instanceGroupManagers.get",
    "instanceGroupManagers.deleteInstances": "compute.instanceGroupManagers.update",
    "projects.testIamPermissions": None,
}


def granted() -> frozenset[str]:
    role = yaml.safe_load(_ROLE.read_text())
    assert set(role) == {"title", "description", "stage", "includedPermissions"}, "as `gcloud iam roles create` wants"
    return frozenset(role["includedPermissions"])


def needed(action: str) -> str | None:
    return _NEEDED[action]
