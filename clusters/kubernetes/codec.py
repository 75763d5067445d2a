"""Nodes, pods, times and quantities read from raw Kubernetes JSON into small frozen facts. Pure.

Missing fields take the API's defaults; a field of the wrong type raises InvalidObjectError with the object's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from scheduler.model.cluster import Taint
from scheduler.model.contract import (
    ANNOTATION_CLOSED,
    ANNOTATION_DO_NOT_DISRUPT,
    ANNOTATION_REMEDIATION,
    ANNOTATION_REQUEST_DONE,
    GPU_RESOURCES,
    LABEL_ORIGIN_UID,
    LABEL_PART,
)
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant, NodeName, Uid, owner_uid
from scheduler.model.ports import RawObject
from scheduler.model.remediation import Mark
from scheduler.model.resources import Resources, quantity_units

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_NOT_SCHEDULED_ON: Final = frozenset({"ephemeral-storage"})
"""Node disks: no pool is described by them, so a request for some must not make a workload unplaceable."""
_MALFORMED: Final = (KeyError, TypeError, AttributeError, ValueError, IndexError, ArithmeticError)
"""What reading a field of the wrong type raises."""
_LARGEST_AMOUNT: Final = 2**53 - 1
"""More is taken for so much (the API server caps at 2^63 - 1): 9 PB of memory, and JSON's largest exact number."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    name: NodeName
    uid: str
    labels: tuple[tuple[str, str], ...]
    taints: tuple[Taint, ...]
    allocatable: Resources
    ready: bool
    unschedulable: bool
    deleting: bool
    created_at: Instant
    deleted_at: Instant | None
    provider_id: str
    do_not_disrupt: bool
    mark: Mark | None = None
    """What a remedy of ours, or of another federation's, did to it last."""
    request_done: str = ""
    """The last request that the site's agent says it has carried out."""
    closed: bool = False
    """Whether Overspill has made it unschedulable to move what is on it."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    namespace: str
    name: str
    uid: str
    node: NodeName | None
    requests: Resources
    """As the Kubernetes scheduler counts them; `pods` is 1."""
    terminal: bool
    """Succeeded or failed: uses nothing any more."""
    origin_uid: Uid | None
    """UID of the hub object whose copy it belongs to."""
    daemon_or_static: bool
    created_at: Instant
    deleting: bool
    priority: int
    ready: bool = False
    part: str = ""
    """Of a service that is divided: which part."""

    @property
    def owner(self) -> Uid | None:
        """Whose pods it is counted with: those of its copy."""
        return None if self.origin_uid is None else owner_uid(self.origin_uid, self.part)


@lru_cache(maxsize=16384)
def parse_time(text: str) -> Instant:
    """Seconds since the epoch of an RFC 3339 time. Raises: InvalidObjectError."""
    if isinstance(text, str) and _RFC3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper()).timestamp()
        except (ValueError, OverflowError):
            pass
    raise InvalidObjectError(f"{str(text)[:40]!r} is not an RFC 3339 time; write for example 2026-01-31T12:00:00Z")


def format_time(instant: Instant, *, micro: bool = False) -> str:
    """RFC 3339 in UTC: whole seconds (rounded down, as metav1.Time) or microseconds (metav1.MicroTime)."""
    try:
        moment = datetime.fromtimestamp(instant, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidObjectError(f"{instant!r} is not a point in time ({error})") from error
    text = moment.isoformat(timespec="microseconds" if micro else "seconds")
    return text.removesuffix("+00:00") + "Z"


@lru_cache(maxsize=8192)
def _units(said: str | int | float) -> int:
    return min(quantity_units(said), _LARGEST_AMOUNT)


@lru_cache(maxsize=8192)
def _milli(said: str | int | float) -> int:
    return min(quantity_units(said, milli=True), _LARGEST_AMOUNT)


def parse_resources(quantities: Mapping[str, Any], *, pods: int | None = None) -> Resources:
    """Resources from a map of Kubernetes resource names to quantities; `pods` overrides that entry.

    Raises: InvalidObjectError for a wrong quantity.
    """
    return _resources(_amounts(quantities), pods)


def pod_requests(spec: Mapping[str, Any]) -> Resources:
    """What a pod of this spec asks for: the larger of its containers together and its init containers one by one,
    sidecars counted throughout, plus overhead; a limit stands in for a missing request.

    Source: the Kubernetes documentation, "Sidecar Containers", resource sharing within containers; pod-level
    `resources` (KEP-2837) override what they name. Raises: InvalidObjectError for a wrong quantity.
    """
    total: dict[str, int] = {}
    for container in spec.get("containers") or ():
        _add(total, _container(container))
    if inits := spec.get("initContainers"):
        total = _with_inits(total, inits)
    if (pod_level := spec.get("resources")) and (
        named := {**_part(pod_level, "limits"), **_part(pod_level, "requests")}
    ):
        total.update(_amounts(named))
    if overhead := spec.get("overhead"):
        _add(total, _amounts(overhead))
    return _resources(total, 1)


def parse_node(obj: RawObject) -> NodeFacts:
    """Raises: InvalidObjectError naming the node."""
    try:
        meta = obj["metadata"]
        spec, status = obj.get("spec") or {}, obj.get("status") or {}
        deleted = meta.get("deletionTimestamp")
        return NodeFacts(
            name=NodeName(required(meta, "name")),
            uid=required(meta, "uid"),
            labels=texts(meta, "labels"),
            taints=tuple(
                sorted(Taint(required(t, "key"), text(t, "value"), text(t, "effect")) for t in spec.get("taints") or ())
            ),
            allocatable=parse_resources(status.get("allocatable") or {}),
            ready=any(
                condition.get("type") == "Ready" and condition.get("status") == "True"
                for condition in status.get("conditions") or ()
            ),
            unschedulable=bool(spec.get("unschedulable")),
            deleting=deleted is not None,
            created_at=parse_time(meta["creationTimestamp"]),
            deleted_at=parse_time(deleted) if deleted is not None else None,
            provider_id=str(spec.get("providerID") or ""),
            do_not_disrupt=(meta.get("annotations") or {}).get(ANNOTATION_DO_NOT_DISRUPT) == "true",
            mark=parse_mark((meta.get("annotations") or {}).get(ANNOTATION_REMEDIATION)),
            closed=bool(spec.get("unschedulable")) and ANNOTATION_CLOSED in (meta.get("annotations") or {}),
            request_done=str((meta.get("annotations") or {}).get(ANNOTATION_REQUEST_DONE) or ""),
        )
    except (*_MALFORMED, InvalidObjectError) as error:
        raise InvalidObjectError(f"node {object_name(obj)}: {explain(error)}") from error


def parse_mark(said: object) -> Mark | None:
    """What an annotation says of a remedy; None when there is none. One that cannot be read is another's: whoever wrote
    it has a hand on the node."""
    if not said:
        return None
    try:
        mark = json.loads(str(said))
        by, incident, signal, action = (str(mark[name])[:253] for name in ("by", "incident", "signal", "action"))
        return Mark(by, incident, signal, action, parse_time(mark["since"]))
    except (*_MALFORMED, InvalidObjectError):
        return Mark("unknown", "", "", "", since=0.0)


def format_mark(mark: Mark) -> str:
    """What `parse_mark` reads; whole seconds."""
    words = {"by": mark.by, "incident": mark.incident, "signal": mark.signal, "action": mark.action}
    return json.dumps({**words, "since": format_time(mark.since)})


def parse_pod(obj: RawObject) -> PodFacts:
    """Raises: InvalidObjectError naming the pod."""
    try:
        meta, spec = obj["metadata"], obj["spec"]
        origin = text(meta.get("labels") or {}, LABEL_ORIGIN_UID)
        node = text(spec, "nodeName")
        return PodFacts(
            namespace=required(meta, "namespace"),
            name=required(meta, "name"),
            uid=required(meta, "uid"),
            node=NodeName(node) if node else None,
            requests=pod_requests(spec),
            terminal=(obj.get("status") or {}).get("phase") in ("Succeeded", "Failed"),
            origin_uid=Uid(origin) if origin else None,
            daemon_or_static=_by_node(meta.get("ownerReferences") or ()),
            created_at=parse_time(meta["creationTimestamp"]),
            deleting="deletionTimestamp" in meta,
            priority=int(spec.get("priority") or 0),
            ready=_is_ready(obj.get("status")),
            part=text(meta.get("labels") or {}, LABEL_PART),
        )
    except (*_MALFORMED, InvalidObjectError) as error:
        raise InvalidObjectError(f"pod {object_name(obj)}: {explain(error)}") from error


def _is_ready(status: object) -> bool:
    listed = status.get("conditions") if isinstance(status, Mapping) else None
    return isinstance(listed, list) and any(
        isinstance(one, Mapping) and one.get("type") == "Ready" and one.get("status") == "True" for one in listed
    )


def object_name(obj: object) -> str:
    """namespace/name of an object, however malformed, for messages."""
    meta = obj.get("metadata") if isinstance(obj, Mapping) else None
    if not isinstance(meta, Mapping):
        return "(without metadata)"
    name, namespace = str(meta.get("name") or "(without name)"), str(meta.get("namespace") or "")
    return (f"{namespace}/{name}" if namespace else name)[:200]


def explain(error: BaseException) -> str:
    """One line for a field that is missing or of the wrong type."""
    if isinstance(error, KeyError):
        return f"field {error.args[0]} is missing"
    if isinstance(error, InvalidObjectError):
        return str(error)
    return f"a field has the wrong type ({error})"


def text(fields: Mapping[str, Any], name: str) -> str:
    """A field that is a string; empty when it is absent. Raises: InvalidObjectError for any other type."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidObjectError(f"{name[:80]!r} is {str(value)[:40]!r}, which is no text")
    return value


def required(fields: Mapping[str, Any], name: str) -> str:
    """A field that must be a string. Raises: KeyError, InvalidObjectError."""
    value = text(fields, name)
    if not value:
        raise KeyError(name)
    return value


def texts(fields: Mapping[str, Any], name: str) -> tuple[tuple[str, str], ...]:
    """A map of strings such as labels, sorted. Raises: InvalidObjectError for anything else."""
    found = fields.get(name)
    if found is None:
        return ()
    if not isinstance(found, Mapping):
        raise InvalidObjectError(f"{name} is {str(found)[:40]!r}, which is no map")
    return tuple(sorted((key, text(found, key)) for key in found))


def _by_node(owners: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the pod belongs to its node: a DaemonSet's, or the mirror of a static one (owned by the Node)."""
    return any(owner["kind"] in ("DaemonSet", "Node") for owner in owners)


def _part(resources: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return resources.get(name) or {}


def _container(container: Mapping[str, Any]) -> dict[str, int]:
    resources = container.get("resources")
    if not resources:
        return {}
    limits, requests = resources.get("limits"), resources.get("requests")
    if not limits:
        return _amounts(requests or {})
    return _amounts({**limits, **requests} if requests else limits)


def _amounts(quantities: Mapping[str, Any]) -> dict[str, int]:
    amounts = {name: (_milli(said) if name == "cpu" else _units(said)) for name, said in quantities.items()}
    for name, amount in amounts.items():
        if amount < 0:
            raise InvalidObjectError(f"{name} is {str(quantities[name])[:40]}, and there is no less than nothing")
    return amounts


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _with_inits(containers: dict[str, int], inits: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for init in inits:
        asked = _container(init)
        if init.get("restartPolicy") == "Always":
            _add(sidecars, asked)
            during = sidecars
        else:
            during = dict(sidecars)
            _add(during, asked)
        for name, amount in during.items():
            peak[name] = max(peak.get(name, 0), amount)
    total = dict(containers)
    _add(total, sidecars)
    return {name: max(total.get(name, 0), peak.get(name, 0)) for name in total.keys() | peak.keys()}


def _resources(amounts: Mapping[str, int], pods: int | None) -> Resources:
    gpus = 0
    extended: list[tuple[str, int]] = []
    for name, amount in amounts.items():
        if name in ("cpu", "memory", "pods"):
            continue
        if name in GPU_RESOURCES:
            gpus += amount
        elif amount and name not in _NOT_SCHEDULED_ON:
            extended.append((name, amount))
    return Resources(
        amounts.get("cpu", 0),
        amounts.get("memory", 0),
        gpus,
        amounts.get("pods", 0) if pods is None else pods,
        tuple(sorted(extended)),
    )
