"""AWS: the IAM policy `deploy/iam/eks.json`, and the IAM action behind each action of the emulated services."""

from __future__ import annotations

import json
from pathlib import Path

PRICES = frozenset({"ec2:DescribeSpotPriceHistory", "pricing:GetProducts"})

_POLICY = Path(__file__).parents[3] / "deploy" / "iam" / "eks.json"
_SERVICES = {
    "ListClusters": "eks",
    "DescribeCluster": "eks",
    "ListNodegroups": "eks",
    "DescribeNodegroup": "eks",
    "UpdateNodegroupConfig": "eks",
    "ListUpdates": "eks",
    "DescribeUpdate": "eks",
    "DescribeAutoScalingGroups": "autoscaling",
    "DescribeAutoScalingInstances": "autoscaling",
    "TerminateInstanceInAutoScalingGroup": "autoscaling",
    "DescribeInstanceTypes": "ec2",
    "SimulatePrincipalPolicy": "iam",
}
"""The IAM action has the name of the API's operation for all of these (Service Authorization Reference)."""


def granted() -> frozenset[str]:
    statements = json.loads(_POLICY.read_text())["Statement"]
    assert all(one["Effect"] == "Allow" for one in statements)
    return frozenset(action for one in statements for action in one["Action"])


def needed(action: str) -> str | None:
    """STS answers GetCallerIdentity to anyone whose signature is good."""
    if action == "GetCallerIdentity":
        return None
    return f"{_SERVICES[action]}:{action}"
