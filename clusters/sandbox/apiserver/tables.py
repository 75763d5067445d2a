"""The Table form of lists that kubectl prints: columns per kind, ages by the sandbox's own clock."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from clusters.sandbox.apiserver.failures import Json
from clusters.sandbox.apiserver.kinds import Column, Kind
from clusters.sandbox.apiserver.selectors import read_path
from clusters.sandbox.apiserver.store import Entry

_Object = Mapping[str, Any]
_NONE: Final = "<none>"
_UNKNOWN: Final = "<unknown>"


def table(kind: Kind, entries: Sequence[Entry], meta: Json, now: str, include: str) -> Json:
    """A meta.k8s.io/v1 Table of `entries`. `include`: Object, None, or (default) Metadata."""
    columns = _columns(kind)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": _definitions(columns),
        "rows": [_row(columns, entry, now, include) for entry in entries],
    }


def _definitions(columns: tuple[Column, ...]) -> list[Json]:
    names = {"name": "Name", "type": "string", "format": "name", "description": "Name of the object.", "priority": 0}
    return [
        names,
        *(
            {
                "name": column.name,
                "type": "string" if column.type == "date" else column.type,
                "format": column.format,
                "description": column.description or column.name,
                "priority": column.priority,
            }
            for column in columns
        ),
    ]


def _row(columns: tuple[Column, ...], entry: Entry, now: str, include: str) -> Json:
    cells = [entry.name]
    for column in columns:
        value = column.read(entry.obj)
        cells.append(age(value, now) if column.type == "date" else value)
    if include == "None":
        return {"cells": cells}
    if include == "Object":
        return {"cells": cells, "object": orjson.Fragment(entry.encoded)}
    partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": entry.obj["metadata"]}
    return {"cells": cells, "object": partial}


def age(since: Any, now: str) -> str:
    """Time from `since` to `now` as kubectl shows it: 45s, 12m, 3h20m, 5d."""
    if not isinstance(since, str):
        return _UNKNOWN
    try:
        seconds = int((datetime.fromisoformat(now) - datetime.fromisoformat(since)).total_seconds())
    except (ValueError, TypeError):
        return _UNKNOWN
    return human_duration(seconds)


def human_duration(seconds: int) -> str:
    if seconds < 0:
        return "0s" if seconds >= -1 else "<invalid>"
    if seconds < 120:
        return f"{seconds}s"
    minutes = seconds // 60
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours = seconds // 3600
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d" if days < 730 else f"{days // 365}y"


# Columns of the builtin kinds --------------------------------------------------------------------------------------


def _status(obj: _Object) -> Mapping[str, Any]:
    return obj.get("status") or {}


def _spec(obj: _Object) -> Mapping[str, Any]:
    return obj.get("spec") or {}


def _true_condition(obj: _Object, kind: str) -> str:
    found = next((c for c in _status(obj).get("conditions") or () if c.get("type") == kind), None)
    return str(found.get("status")) if found else ""


def _pod_ready(obj: _Object) -> str:
    states = _status(obj).get("containerStatuses") or []
    return f"{sum(bool(s.get('ready')) for s in states)}/{len(_spec(obj).get('containers') or ())}"


def _pod_status(obj: _Object) -> str:
    status = _status(obj)
    word = str(status.get("reason") or status.get("phase") or "Unknown")
    for state in status.get("containerStatuses") or ():
        inner = state.get("state") or {}
        for key in ("waiting", "terminated"):
            if reason := (inner.get(key) or {}).get("reason"):
                word = reason
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    return word


def _pod_restarts(obj: _Object) -> str:
    return str(sum(int(s.get("restartCount") or 0) for s in _status(obj).get("containerStatuses") or ()))


def _node_status(obj: _Object) -> str:
    ready = {"True": "Ready", "": "Unknown"}.get(_true_condition(obj, "Ready"), "NotReady")
    return ready + (",SchedulingDisabled" if _spec(obj).get("unschedulable") else "")


def _node_roles(obj: _Object) -> str:
    prefix = "node-role.kubernetes.io/"
    roles = sorted(key.removeprefix(prefix) for key in obj["metadata"].get("labels") or {} if key.startswith(prefix))
    return ",".join(roles) or _NONE


def _job_status(obj: _Object) -> str:
    for kind, word in (("Complete", "Complete"), ("Failed", "Failed")):
        if _true_condition(obj, kind) == "True":
            return word
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for kind in ("SuccessCriteriaMet", "FailureTarget", "Suspended"):
        if _true_condition(obj, kind) == "True":
            return kind
    return "Running"


def _job_completions(obj: _Object) -> str:
    wanted, done = _spec(obj).get("completions"), _status(obj).get("succeeded") or 0
    if wanted is not None:
        return f"{done}/{wanted}"
    parallel = _spec(obj).get("parallelism") or 0
    return f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"


def _job_duration(obj: _Object) -> Any:
    status = _status(obj)
    start, end = status.get("startTime"), status.get("completionTime")
    return age(start, end) if start and end else None


def _of(path: str, default: Any = _NONE) -> Any:
    keys = path.split(".")

    def read(obj: _Object) -> Any:
        value: Any = obj
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return default if value is None else value

    return read


def _ready_of(wanted: str, ready: str) -> Any:
    return lambda obj: f"{_of(ready, 0)(obj)}/{_of(wanted, 0)(obj)}"


def _images(obj: _Object) -> str:
    spec = _spec(obj).get("template", {}).get("spec") or {}
    return ",".join(str(container.get("image")) for container in spec.get("containers") or ())


def _selector(obj: _Object) -> str:
    labels = (_spec(obj).get("selector") or {}).get("matchLabels") or {}
    return ",".join(f"{key}={value}" for key, value in labels.items()) or _NONE


def _ports(obj: _Object) -> str:
    return ",".join(f"{p.get('port')}/{p.get('protocol')}" for p in _spec(obj).get("ports") or ()) or _NONE


def _event_object(obj: _Object) -> str:
    involved = obj.get("involvedObject") or obj.get("regarding") or {}
    return f"{str(involved.get('kind')).lower()}/{involved.get('name')}"


_created: Final = read_path("metadata.creationTimestamp")
_AGE: Final = Column("Age", _created, "date")
_BUILTIN: Final[dict[tuple[str, str], tuple[Column, ...]]] = {
    ("", "pods"): (
        Column("Ready", _pod_ready),
        Column("Status", _pod_status),
        Column("Restarts", _pod_restarts),
        _AGE,
        Column("IP", _of("status.podIP"), priority=1),
        Column("Node", _of("spec.nodeName"), priority=1),
    ),
    ("", "nodes"): (
        Column("Status", _node_status),
        Column("Roles", _node_roles),
        _AGE,
        Column("Version", _of("status.nodeInfo.kubeletVersion", "")),
    ),
    ("", "namespaces"): (Column("Status", _of("status.phase")), _AGE),
    ("", "events"): (
        Column("Last Seen", lambda o: o.get("lastTimestamp") or o.get("eventTime") or _created(o), "date"),
        Column("Type", _of("type")),
        Column("Reason", _of("reason")),
        Column("Object", _event_object),
        Column("Message", _of("message", "")),
    ),
    ("", "configmaps"): (
        Column("Data", lambda o: len(o.get("data") or ()) + len(o.get("binaryData") or ())),
        _AGE,
    ),
    ("", "secrets"): (Column("Type", _of("type")), Column("Data", lambda o: len(o.get("data") or ())), _AGE),
    ("", "services"): (
        Column("Type", _of("spec.type")),
        Column("Cluster-IP", _of("spec.clusterIP")),
        Column("External-IP", lambda _: _NONE),
        Column("Port(s)", _ports),
        _AGE,
    ),
    ("", "persistentvolumeclaims"): (
        Column("Status", _of("status.phase")),
        Column("Volume", _of("spec.volumeName", "")),
        _AGE,
    ),
    ("batch", "jobs"): (
        Column("Status", _job_status),
        Column("Completions", _job_completions),
        Column("Duration", _job_duration),
        _AGE,
        Column("Images", _images, priority=1),
        Column("Selector", _selector, priority=1),
    ),
    ("batch", "cronjobs"): (
        Column("Schedule", _of("spec.schedule")),
        Column("Suspend", lambda o: str(bool(_spec(o).get("suspend")))),
        Column("Active", lambda o: len(_status(o).get("active") or ())),
        Column("Last Schedule", _of("status.lastScheduleTime", None), "date"),
        _AGE,
    ),
    ("apps", "deployments"): (
        Column("Ready", _ready_of("spec.replicas", "status.readyReplicas")),
        Column("Up-to-date", _of("status.updatedReplicas", 0)),
        Column("Available", _of("status.availableReplicas", 0)),
        _AGE,
        Column("Images", _images, priority=1),
        Column("Selector", _selector, priority=1),
    ),
    ("apps", "replicasets"): (
        Column("Desired", _of("spec.replicas", 0)),
        Column("Current", _of("status.replicas", 0)),
        Column("Ready", _of("status.readyReplicas", 0)),
        _AGE,
    ),
    ("apps", "statefulsets"): (Column("Ready", _ready_of("spec.replicas", "status.readyReplicas")), _AGE),
    ("apps", "daemonsets"): (
        Column("Desired", _of("status.desiredNumberScheduled", 0)),
        Column("Ready", _of("status.numberReady", 0)),
        _AGE,
    ),
    ("policy", "poddisruptionbudgets"): (
        Column("Min Available", _of("spec.minAvailable", "N/A")),
        Column("Max Unavailable", _of("spec.maxUnavailable", "N/A")),
        Column("Allowed Disruptions", _of("status.disruptionsAllowed", 0)),
        _AGE,
    ),
    ("coordination.k8s.io", "leases"): (Column("Holder", _of("spec.holderIdentity", "")), _AGE),
    ("scheduling.k8s.io", "priorityclasses"): (
        Column("Value", _of("value", 0)),
        Column("Global-Default", lambda o: bool(o.get("globalDefault"))),
        _AGE,
    ),
    ("storage.k8s.io", "storageclasses"): (Column("Provisioner", _of("provisioner")), _AGE),
    ("apiextensions.k8s.io", "customresourcedefinitions"): (Column("Created At", _created),),
}


@functools.lru_cache(maxsize=256)
def _columns(kind: Kind) -> tuple[Column, ...]:
    if kind.columns:
        return kind.columns
    return _BUILTIN.get(kind.key, (_AGE,))
