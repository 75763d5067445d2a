"""What an observer of the Kubernetes APIs knows of hub objects, copies, pods and nodes. Pure: JSON in, values out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from scheduler.model.contract import (
    ANNOTATION_PLACEMENT,
    CONDITION_PLACED,
    GPU_RESOURCES,
    LABEL_ORIGIN_UID,
    LABEL_PART,
    LABEL_QUEUE,
    TAINT_DRAINING,
)
from scheduler.model.ids import Instant
from scheduler.model.ports import RawObject
from scheduler.model.resources import Resources, quantity_units

_AT_ONCE_SECONDS: Final = 60.0
"""Of the federation's time: a job placed within this did not wait for anything."""

TERMINAL: Final = ("Succeeded", "Failed")


@dataclass(slots=True)
class HubRecord:
    """A hub object that opted in. `asked`: successful completions that its user wants (0: runs until deleted)."""

    uid: str
    kind: str
    namespace: str
    name: str
    queue: str
    created_at: Instant
    asked: int
    complete: bool = False
    failed: bool = False
    gone: bool = False
    reason: str = ""
    message: str = ""
    """Of its Overspill condition."""


@dataclass(slots=True)
class CopyRecord:
    """A copy on a member, by its own UID."""

    cluster: str
    uid: str
    plural: str
    namespace: str
    name: str
    origin: str
    pods_wanted: int
    asked: int
    is_job: bool
    part: bool = False
    """Of a service that is divided, which may have many copies at once."""
    complete: bool = False
    finished: bool = False
    suspended: bool = False
    deleting: bool = False
    gone: bool = False
    was_whole: bool = False
    partial_since: Instant | None = None
    orphan_since: Instant | None = None
    succeeded: set[str] = field(default_factory=set)
    """UIDs of its pods that succeeded."""

    @property
    def alive(self) -> bool:
        """May still run pods."""
        return not (self.finished or self.deleting or self.gone)


@dataclass(slots=True)
class PodRecord:
    cluster: str
    uid: str
    origin: str
    copy: str
    """UID of the copy that it belongs to; empty when not told."""
    node: str
    requests: Resources
    phase: str
    deleting: bool
    started_at: Instant | None

    @property
    def holds(self) -> bool:
        """Whether it takes up its node."""
        return bool(self.node) and self.phase not in TERMINAL


@dataclass(slots=True)
class NodeRecord:
    cluster: str
    name: str
    allocatable: Resources
    labels: Mapping[str, str]
    draining: bool


def read_hub(obj: RawObject) -> HubRecord | None:
    """None when it did not opt in."""
    meta = obj["metadata"]
    queue = (meta.get("labels") or {}).get(LABEL_QUEUE)
    if not queue:
        return None
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    placed = condition(status, CONDITION_PLACED) or {}
    is_job = obj.get("kind", "Job") == "Job"
    return HubRecord(
        uid=meta["uid"],
        kind="job" if is_job else "federatedworkload",
        namespace=meta.get("namespace", ""),
        name=meta["name"],
        queue=queue,
        created_at=instant(meta.get("creationTimestamp")) or 0.0,
        asked=int(spec.get("completions") or spec.get("parallelism") or 1) if is_job else 0,
        complete=is_true(status, "Complete"),
        failed=is_true(status, "Failed"),
        reason=str(placed.get("reason", "")),
        message=str(placed.get("message", "")),
    )


def waits(obj: RawObject) -> bool:
    """Whether a hub object says that it is held, that machines are being bought for it, or that it was placed long
    after it came (a hold that ends soon is not written on the object)."""
    placed = condition(obj.get("status") or {}, CONDITION_PLACED)
    if placed is not None and placed.get("status") == "False":
        return True
    text = (obj["metadata"].get("annotations") or {}).get(ANNOTATION_PLACEMENT)
    try:
        placement = json.loads(text) if text else None
    except ValueError:
        return False
    if not isinstance(placement, dict):
        return False
    created, decided = instant(obj["metadata"].get("creationTimestamp")), instant(placement.get("decidedAt"))
    late = created is not None and decided is not None and decided - created > _AT_ONCE_SECONDS
    return late or placement.get("state") == "reserved"


def read_copy(obj: RawObject, cluster: str, plural: str) -> CopyRecord | None:
    """None when it is no copy of ours."""
    meta = obj["metadata"]
    origin = (meta.get("labels") or {}).get(LABEL_ORIGIN_UID)
    if not origin:
        return None
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    is_job = plural == "jobs"
    asked = int(spec.get("completions") or spec.get("parallelism") or 1) if is_job else 0
    parallel = int(spec.get("parallelism", 1)) if is_job else int(spec.get("replicas", 1))
    complete = is_job and is_true(status, "Complete")
    return CopyRecord(
        cluster=cluster,
        uid=meta["uid"],
        plural=plural,
        namespace=meta.get("namespace", ""),
        name=meta["name"],
        origin=origin,
        pods_wanted=min(parallel, asked) if is_job else parallel,
        asked=asked,
        is_job=is_job,
        part=LABEL_PART in meta["labels"],
        complete=complete,
        finished=complete or (is_job and is_true(status, "Failed")),
        suspended=bool(spec.get("suspend")),
        deleting="deletionTimestamp" in meta,
    )


def read_pod(obj: RawObject, cluster: str) -> PodRecord:
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    owners = [owner for owner in meta.get("ownerReferences") or () if owner.get("controller")]
    return PodRecord(
        cluster=cluster,
        uid=meta["uid"],
        origin=(meta.get("labels") or {}).get(LABEL_ORIGIN_UID, ""),
        copy=owners[0].get("uid", "") if owners else "",
        node=spec.get("nodeName") or "",
        requests=pod_requests(spec),
        phase=status.get("phase") or "Pending",
        deleting="deletionTimestamp" in meta,
        started_at=_running_since(status),
    )


def read_node(obj: RawObject, cluster: str) -> NodeRecord:
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    return NodeRecord(
        cluster=cluster,
        name=meta["name"],
        allocatable=_resources(status.get("allocatable") or {}),
        labels=dict(meta.get("labels") or {}),
        draining=any(taint.get("key") == TAINT_DRAINING for taint in spec.get("taints") or ()),
    )


def pod_requests(spec: Mapping[str, Any]) -> Resources:
    """What a pod takes of its node: the sum over its containers, at least the largest init container, plus overhead.

    A limit stands in for a request that is not given. Source: Kubernetes documentation, "Resource sharing within
    containers" (restartable init containers, which the demo has none of, are left out).
    """
    total = Resources(pods=1)
    for container in spec.get("containers") or ():
        total = total + _container_requests(container)
    for container in spec.get("initContainers") or ():
        total = _at_least(total, _container_requests(container))
    return total + _resources(spec.get("overhead") or {})


def _container_requests(container: Mapping[str, Any]) -> Resources:
    resources = container.get("resources") or {}
    amounts = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return _resources({name: amount for name, amount in amounts.items() if name != "pods"})


def _at_least(left: Resources, right: Resources) -> Resources:
    return Resources(
        max(left.cpu_milli, right.cpu_milli), max(left.memory_bytes, right.memory_bytes), max(left.gpus, right.gpus), 1
    )


def _resources(amounts: Mapping[str, Any]) -> Resources:
    return Resources(
        cpu_milli=quantity_units(amounts.get("cpu", 0), milli=True),
        memory_bytes=quantity_units(amounts.get("memory", 0)),
        gpus=sum(quantity_units(amounts.get(name, 0)) for name in GPU_RESOURCES),
        pods=quantity_units(amounts.get("pods", 0)),
    )


def condition(status: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The condition of that type; None when it is not there."""
    return next((one for one in status.get("conditions") or () if one.get("type") == name), None)


def is_true(status: Mapping[str, Any], name: str) -> bool:
    found = condition(status, name)
    return found is not None and found.get("status") == "True"


def _running_since(status: Mapping[str, Any]) -> Instant | None:
    """When the pod's containers began to run; None while they have not."""
    if status.get("phase") not in ("Running", *TERMINAL):
        return None
    states = [container.get("state") or {} for container in status.get("containerStatuses") or ()]
    begun = [
        instant((state.get(kind) or {}).get("startedAt")) for state in states for kind in ("running", "terminated")
    ]
    known = [at for at in begun if at is not None]
    return max(known) if known else instant(status.get("startTime"))


def instant(text: Any) -> Instant | None:
    """Of an RFC 3339 time; None when there is none."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
