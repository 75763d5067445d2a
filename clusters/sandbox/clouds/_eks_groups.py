"""Emulated EKS: one cluster, its managed node groups and their updates."""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import Mapping
from typing import Any, Final

from clusters.sandbox.clouds._eks_scaling import scaling_group
from clusters.sandbox.clouds._eks_wire import ACCOUNT, AwsError, page, pool_named, region_of, resize
from clusters.sandbox.clouds.operations import Operation, Operations
from clusters.sandbox.ports import ApiAddress, EmulatedPools, PoolState
from scheduler.model.ports import Clock

_UPDATE_SECONDS: Final = 15.0
"""Virtual time that an update takes; its node group refuses another one meanwhile."""
_VERSION: Final = "1.33"
_CAPACITY_TYPES: Final = {"on-demand": "ON_DEMAND", "spot": "SPOT", "reserved": "CAPACITY_BLOCK"}
_EFFECTS: Final = {"NoSchedule": "NO_SCHEDULE", "NoExecute": "NO_EXECUTE", "PreferNoSchedule": "PREFER_NO_SCHEDULE"}
_POOL_LABEL: Final = "eks.amazonaws.com/nodegroup"
_SHORTAGES: Final = {
    "capacity": "InsufficientInstanceCapacity - We currently do not have sufficient {type} capacity in the"
    " Availability Zone you requested ({zone}). Our system will be working on provisioning additional capacity.",
    "quota": "VcpuLimitExceeded - You have requested more vCPU capacity than your current vCPU limit of 0 allows"
    " for the instance bucket that the specified instance type belongs to.",
}
"""Shortages that EKS tells as an issue of the node group. Any other word for one fails the update, and that alone."""


class Clusters:
    """What EKS tells of the cluster, and does to its node groups."""

    def __init__(self, pools: EmulatedPools, clock: Clock, api: ApiAddress) -> None:
        self._pools = pools
        self._api = api
        self._updates = Operations(clock, lambda: secrets.token_hex(16), least_seconds=_UPDATE_SECONDS)
        self._tokens: dict[str, str] = {}
        """Update id by client request token: a request sent twice is done once."""

    def list_clusters(self, asked: Mapping[str, str], _: Any) -> dict[str, Any]:
        names, token = page([self._pools.cluster], asked)
        return {"clusters": names, "nextToken": token}

    def describe_cluster(self, asked: Mapping[str, str], _: Any) -> dict[str, Any]:
        return {
            "cluster": {
                "name": asked["cluster"],
                "arn": self._arn("cluster"),
                "status": "ACTIVE",
                "version": _VERSION,
                "endpoint": self._api.server,
                "certificateAuthority": {"data": base64.b64encode(self._api.ca_pem).decode()},
                "health": {"issues": []},
            }
        }

    def list_groups(self, asked: Mapping[str, str], _: Any) -> dict[str, Any]:
        names, token = page(sorted(state.spec.name for state in self._pools.pools()), asked)
        return {"nodegroups": names, "nextToken": token}

    def describe_group(self, asked: Mapping[str, str], _: Any) -> dict[str, Any]:
        state = pool_named(self._pools, asked["group"])
        spec = state.spec
        issues = [_issue(state)] if state.shortage in _SHORTAGES else []
        status = "UPDATING" if self._updates.running(state) else "DEGRADED" if issues else "ACTIVE"
        labels = dict(spec.labels)
        labels.pop(_POOL_LABEL, None)  # the kubelet gets it from the group's name, not from its labels
        taints = [{"key": key, "value": value, "effect": _EFFECTS[effect]} for key, value, effect in spec.taints]
        return {
            "nodegroup": {
                "nodegroupName": spec.name,
                "nodegroupArn": f"{self._arn('nodegroup')}/{spec.name}/{uuid.uuid5(uuid.NAMESPACE_DNS, spec.name)}",
                "clusterName": asked["cluster"],
                "version": _VERSION,
                "releaseVersion": f"{_VERSION}.1-20260101",
                "status": status,
                "capacityType": _CAPACITY_TYPES.get(spec.capacity_type, "ON_DEMAND"),
                "scalingConfig": {"minSize": spec.min_nodes, "maxSize": spec.max_nodes, "desiredSize": state.desired},
                "instanceTypes": [spec.instance_type],
                "labels": labels,
                "taints": taints,
                "resources": {"autoScalingGroups": [{"name": scaling_group(spec.name)}]},
                "health": {"issues": issues},
                "tags": {},
            }
        }

    def update_group(self, asked: Mapping[str, str], body: Any) -> dict[str, Any]:
        state = pool_named(self._pools, asked["group"])
        scaling = body.get("scalingConfig")
        token = body.get("clientRequestToken", "")
        before = self._updates.find(self._tokens.get(token, "")) if isinstance(token, str) else None
        if before is not None:
            return {"update": self._update_json(before)}
        if not isinstance(scaling, dict) or not scaling or not all(type(size) is int for size in scaling.values()):
            raise AwsError(400, "InvalidParameterException", "scalingConfig must hold minSize, maxSize or desiredSize")
        if self._updates.running(state):
            message = f"Nodegroup {state.spec.name} already has an update in progress"
            raise AwsError(409, "ResourceInUseException", message)
        low, high = scaling.get("minSize", state.spec.min_nodes), scaling.get("maxSize", state.spec.max_nodes)
        if (low, high) != (state.spec.min_nodes, state.spec.max_nodes):
            raise AwsError(400, "InvalidParameterException", "The sandbox's scenario fixes minSize and maxSize")
        desired = scaling.get("desiredSize", state.desired)
        resize(self._pools, state, desired)
        update = self._updates.begin(state.spec.name, desired)
        self._tokens = {one: known for one, known in self._tokens.items() if self._updates.find(known)}
        if isinstance(token, str) and token:
            self._tokens[token] = update.id
        return {"update": self._update_json(update)}

    def list_updates(self, asked: Mapping[str, str], _: Any) -> dict[str, Any]:
        """Of the node group that is named; the cluster itself is never updated here."""
        wanted = asked.get("nodegroupName")
        if wanted is not None:
            pool_named(self._pools, wanted)
        ids, token = page([one.id for one in reversed(self._updates.all()) if one.pool == wanted], asked)
        return {"updateIds": ids, "nextToken": token}

    def describe_update(self, asked: Mapping[str, str], _: Any) -> dict[str, Any]:
        update = self._updates.find(asked["update"])
        if update is None or asked.get("nodegroupName") != update.pool:
            raise AwsError(404, "ResourceNotFoundException", f"No update found for ID: {asked['update']}")
        return {"update": self._update_json(update)}

    def _update_json(self, update: Operation) -> dict[str, Any]:
        state = pool_named(self._pools, update.pool)
        running = self._updates.runs(update, state)
        errors = []
        if state.shortage is not None and state.shortage not in _SHORTAGES and self._updates.failed(update, state):
            message = f"Instances failed to join the kubernetes cluster: no free {state.shortage} in their subnet"
            errors = [{"errorCode": "NodeCreationFailure", "errorMessage": message, "resourceIds": [update.pool]}]
        return {
            "id": update.id,
            "status": "InProgress" if running else "Failed" if errors else "Successful",
            "type": "ConfigUpdate",
            "params": [{"type": "DesiredSize", "value": str(update.desired)}],
            "createdAt": update.started,
            "errors": errors,
        }

    def _arn(self, sort: str) -> str:
        return f"arn:aws:eks:{region_of(self._pools)}:{ACCOUNT}:{sort}/{self._pools.cluster}"


def _issue(state: PoolState) -> dict[str, Any]:
    text = _SHORTAGES[state.shortage or "capacity"].format(type=state.spec.instance_type, zone=state.spec.zone)
    kind = "Spot" if state.spec.capacity_type == "spot" else "On-Demand"
    return {
        "code": "AsgInstanceLaunchFailures",
        "message": f"Could not launch {kind} Instances. {text} Launching EC2 instance failed.",
        "resourceIds": [scaling_group(state.spec.name)],
    }
