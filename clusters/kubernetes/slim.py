"""Nodes and pods cut down to what is read of them (`codec`, `reclaim`): what one replica tells another. Pure.

`parse_node`, `parse_pod` and `node_notices` of the cut object are those of the whole one; what does not change them is
gone, heartbeats and the list of images above all, so that most updates of a node or a pod need not be told at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from scheduler.model.contract import (
    ANNOTATION_CLOSED,
    ANNOTATION_DO_NOT_DISRUPT,
    ANNOTATION_REMEDIATION,
    ANNOTATION_REQUEST_DONE,
    LABEL_ORIGIN_UID,
)
from scheduler.model.ports import RawObject

_META: Final = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp")
_NODE_ANNOTATIONS: Final = (
    ANNOTATION_CLOSED,
    ANNOTATION_DO_NOT_DISRUPT,
    ANNOTATION_REMEDIATION,
    ANNOTATION_REQUEST_DONE,
)
_CONDITION: Final = ("type", "status", "message", "lastTransitionTime")
_CONTAINER: Final = ("resources", "restartPolicy")


def slim_node(raw: RawObject) -> RawObject:
    """Raises what reading fields of the wrong type raises: such a node is told whole, and refused where it is read."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    kept = _only(meta, _META) | {"labels": meta.get("labels")}
    kept["annotations"] = _only(meta.get("annotations") or {}, _NODE_ANNOTATIONS)
    conditions = [_only(each, _CONDITION) for each in status.get("conditions") or ()]
    return {
        "metadata": kept,
        "spec": _only(spec, ("taints", "unschedulable", "providerID")),
        "status": {"allocatable": status.get("allocatable"), "conditions": conditions},
    }


def slim_pod(raw: RawObject) -> RawObject:
    """Raises as `slim_node`."""
    meta, spec = raw["metadata"], raw["spec"]
    kept = _only(meta, _META) | {"labels": _only(meta.get("labels") or {}, (LABEL_ORIGIN_UID,))}
    kept["ownerReferences"] = [_only(owner, ("kind",)) for owner in meta.get("ownerReferences") or ()]
    short = _only(spec, ("nodeName", "priority", "overhead", "resources"))
    for name in ("containers", "initContainers"):
        short[name] = [_only(each, _CONTAINER) for each in spec.get(name) or ()]
    status = raw.get("status") or {}
    # Of the phase only whether it is an end.
    ended = {"phase": status["phase"]} if status.get("phase") in ("Succeeded", "Failed") else {}
    ready = [_only(one, ("type", "status")) for one in status.get("conditions") or () if one.get("type") == "Ready"]
    return {"metadata": kept, "spec": short, "status": {**ended, "conditions": ready}}


def _only(fields: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: fields[name] for name in names if name in fields}
