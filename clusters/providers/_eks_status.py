"""Node groups as EKS, Auto Scaling and EC2 describe them, read into `PoolStatus`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clusters.providers._eks_errors import one_line, shortage
from clusters.providers._eks_machines import Gpus
from clusters.providers._eks_updates import Failure
from clusters.providers._shortages import ShortageLedger
from scheduler.model.cloud import CloudCluster
from scheduler.model.cluster import ON_DEMAND, RESERVED, SPOT, Taint
from scheduler.model.ids import PoolId
from scheduler.model.ports import PoolStatus

_POOL_LABEL: Final = "eks.amazonaws.com/nodegroup"
_CAPACITY_TYPES: Final = {"ON_DEMAND": ON_DEMAND, "SPOT": SPOT, "CAPACITY_BLOCK": RESERVED}
_EFFECTS: Final = {"NO_SCHEDULE": "NoSchedule", "NO_EXECUTE": "NoExecute", "PREFER_NO_SCHEDULE": "PreferNoSchedule"}
_BUSY: Final = frozenset({"CREATING", "UPDATING", "DELETING"})
_AUTOSCALER_TAG: Final = "k8s.io/cluster-autoscaler/enabled"
_OWNER_TAGS: Final = ("karpenter.sh/nodepool", "karpenter.sh/managed-by")


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """All that is known of one node group."""

    group: Mapping[str, Any]
    """As DescribeNodegroup tells it."""
    scaling: tuple[Mapping[str, Any], ...]
    """Its Auto Scaling groups, those that are to be seen."""
    updating: bool = False
    target: int | None = None
    """The size that a running update will bring; None: none is known to run."""
    autoscaler_tags: bool = False
    """Whether the tag of the cluster-autoscaler's auto-discovery counts."""

    @property
    def name(self) -> str:
        return str(self.group["nodegroupName"])

    @property
    def desired_nodes(self) -> int:
        """The Auto Scaling groups know better than the node group, which follows them; a running update knows best."""
        if self.target is not None:
            return self.target
        if self.scaling:
            return sum(one["DesiredCapacity"] for one in self.scaling)
        return int(self.group.get("scalingConfig", {}).get("desiredSize", 0))

    @property
    def running_nodes(self) -> int | None:
        """Machines in service; None: not to be seen."""
        if not self.scaling:
            return None
        machines = [machine for one in self.scaling for machine in one.get("Instances") or []]
        return sum(1 for machine in machines if machine.get("LifecycleState") == "InService")

    @property
    def instance_types(self) -> tuple[str, ...]:
        """Those of the node group; with a launch template that names them, those of its Auto Scaling groups."""
        named = self.group.get("instanceTypes") or [
            told["InstanceType"]
            for one in self.scaling
            for told in [*_overrides(one), *(one.get("Instances") or [])]
            if told.get("InstanceType")
        ]
        return tuple(dict.fromkeys(named))

    @property
    def busy(self) -> bool:
        return self.updating or self.group.get("status") in _BUSY

    @property
    def owner_tag(self) -> str | None:
        """The tag that says that another autoscaler owns the size; None: nobody else does."""
        keys = {tag.get("Key") for one in self.scaling for tag in one.get("Tags") or []}
        keys |= set(self.group.get("tags") or {})
        wanted = (*_OWNER_TAGS, _AUTOSCALER_TAG) if self.autoscaler_tags else _OWNER_TAGS
        return next((tag for tag in wanted if tag in keys), None)


def scaling_groups(group: Mapping[str, Any]) -> list[str]:
    """Names of the Auto Scaling groups behind a node group."""
    return [one["name"] for one in (group.get("resources") or {}).get("autoScalingGroups") or []]


def pool_status(
    facts: GroupFacts, gpus: Mapping[str, Gpus], failure: Failure | None, shortages: ShortageLedger
) -> PoolStatus:
    """The pool as its provider reports it, the way its last update ended included."""
    group = facts.group
    issues: list[Mapping[str, Any]] = list((group.get("health") or {}).get("issues") or [])
    failed = [{"code": code, "message": message} for code, message in (failure.errors if failure else ())]
    kind, text = shortage([*issues, *failed])
    scaling = group.get("scalingConfig", {})
    model, count = _gpus([gpus.get(one) for one in facts.instance_types])
    return PoolStatus(
        pool=PoolId(facts.name),
        instance_type=next(iter(facts.instance_types), ""),
        capacity_type=_CAPACITY_TYPES.get(group.get("capacityType", "ON_DEMAND"), ON_DEMAND),
        min_nodes=scaling.get("minSize", 0),
        max_nodes=scaling.get("maxSize", 0),
        desired_nodes=facts.desired_nodes,
        labels=tuple(sorted({**(group.get("labels") or {}), _POOL_LABEL: facts.name}.items())),
        busy=facts.busy,
        shortage=shortages.note(facts.name, kind, text),
        gpu_model=model,
        gpus=count,
        taints=tuple(sorted(_taint(one) for one in group.get("taints") or [])),
        zones=tuple(sorted({zone for one in facts.scaling for zone in one.get("AvailabilityZones") or []})),
        version=_version(group),
        health=(*_lines(issues), *(f"update failed: {line}" for line in _lines(failed))),
        autoscaled=facts.owner_tag is not None,
    )


def cloud_cluster(told: Mapping[str, Any], region: str) -> CloudCluster:
    """A cluster as DescribeCluster tells it."""
    return CloudCluster(
        name=told["name"],
        region=region,
        version=told.get("version"),
        endpoint=told.get("endpoint") or None,
        status=told.get("status", ""),
        health=_lines((told.get("health") or {}).get("issues") or []),
    )


def _overrides(scaling: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    template = (scaling.get("MixedInstancesPolicy") or {}).get("LaunchTemplate") or {}
    found: Sequence[Mapping[str, Any]] = template.get("Overrides") or []
    return found


def _gpus(machines: Sequence[Gpus | None]) -> tuple[str | None, int | None]:
    """Model and number, where all instance types of the group agree on them."""
    known = set(machines)
    if len(known) != 1:
        return None, None
    (only,) = known
    return (None, None) if only is None else (only.model, only.count)


def _taint(told: Mapping[str, Any]) -> Taint:
    effect = told.get("effect", "")
    return Taint(told.get("key", ""), told.get("value") or "", _EFFECTS.get(effect, effect))


def _version(group: Mapping[str, Any]) -> str | None:
    """Of Kubernetes. A release such as "1.33.1-20250801" begins with it; a custom image's is the image's id."""
    found = re.match(r"\d+\.\d+", group.get("version") or group.get("releaseVersion") or "")
    return found[0] if found else None


def _lines(issues: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(one_line(f"{one.get('code', '')}: {one.get('message', '')}") for one in issues)
