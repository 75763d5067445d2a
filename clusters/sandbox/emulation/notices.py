"""How each cloud's own agents say that a spot machine is taken back, in their own words. Pure.

Sources as in `clusters.kubernetes.reclaim`, which reads them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from clusters.sandbox.emulation.objects import format_time
from scheduler.model.ids import Instant
from scheduler.model.ports import RawObject


@dataclass(frozen=True, slots=True)
class Announcement:
    """What is put on the Node, and the Event that is written about it."""

    taint: dict[str, str]
    event: dict[str, Any]
    condition: dict[str, str] | None = None


def of(provider: str, node: RawObject, now: Instant, end: Instant) -> Announcement:
    """The notice given `now` that the node's machine goes at `end`."""
    uid = str(node["metadata"]["uid"])
    match provider:
        case "eks":
            return _aws(node, now, end, hashlib.sha256(uid.encode()).hexdigest())
        case "gke":
            taint = {"key": "cloud.google.com/impending-node-termination", "effect": "NoSchedule"}
            text = "Shutdown manager detected shutdown event"
            return Announcement(taint, _event(node, now, "Normal", "Shutdown", text, "kubelet"))
        case "aks":
            return _azure(node, now, end, uid)
    taint = {"key": "sandbox.overspill.dev/reclaim", "effect": "NoSchedule"}
    text = "The machine is taken back by its provider"
    return Announcement(taint, _event(node, now, "Warning", "Reclaimed", text, "sandbox"))


def _aws(node: RawObject, now: Instant, end: Instant, digest: str) -> Announcement:
    """aws-node-termination-handler in its DaemonSet form, with taintNode and emitKubernetesEvents."""
    agent = "aws-node-termination-handler"
    text = f"Spot ITN received. Instance will be interrupted at {format_time(end)} \n"
    return Announcement(
        {"key": f"{agent}/spot-itn", "value": f"spot-itn-{digest}"[:63], "effect": "NoSchedule"},
        _event(node, now, "Warning", "SpotInterruption", text, agent),
    )


def _azure(node: RawObject, now: Instant, end: Instant, uid: str) -> Announcement:
    """node-problem-detector's condition and Event, and the taint of node auto-drain."""
    text = (
        f"Preempt Scheduled: {formatdate(end, usegmt=True)}. DurationInSeconds: -1. "
        f"For more information, see https://aka.ms/aks/scheduledevents EventId: {uid.upper()}"
    )
    moment = format_time(now)
    condition = {
        "type": "VMEventScheduled",
        "status": "True",
        "reason": "VMEventScheduled",
        "message": text,
        "lastHeartbeatTime": moment,
        "lastTransitionTime": moment,
    }
    said = f'Node condition VMEventScheduled is now: True, reason: VMEventScheduled, message: "{text}"'
    monitor = "custom-scheduledevents-consolidated-condition-plugin-monitor"
    return Announcement(
        {"key": "remediator.kubernetes.azure.com/unschedulable", "effect": "NoSchedule"},
        # It knows its node by name only, and writes that for the UID.
        _event(node, now, "Warning", "VMEventScheduled", said, monitor, uid=str(node["metadata"]["name"])),
        condition,
    )


def _event(
    node: RawObject, now: Instant, kind: str, reason: str, message: str, component: str, *, uid: str = ""
) -> dict[str, Any]:
    name, moment = str(node["metadata"]["name"]), format_time(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{node['metadata']['uid'][:8]}.reclaim", "namespace": "default"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Node",
            "name": name,
            "uid": uid or node["metadata"]["uid"],
        },
        "type": kind,
        "reason": reason,
        "message": message,
        "source": {"component": component, "host": name},
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }
