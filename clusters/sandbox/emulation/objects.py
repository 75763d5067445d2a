"""Readers and writers of raw Kubernetes objects, as the emulated controllers need them."""

from __future__ import annotations

import calendar
import math
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant
from scheduler.model.ports import RawObject
from scheduler.model.resources import Resources, quantity_units

RUN_SECONDS: Final = "sandbox.overspill.dev/run-seconds"
"""On a pod: how long its containers run."""
STEPS_PER_SECOND: Final = "sandbox.overspill.dev/steps-per-second"
"""On a pod: it counts so many steps a second in `training_steps_total`."""
CHECKPOINT_SECONDS: Final = "sandbox.overspill.dev/checkpoint-seconds"
"""On a Job's pod: it saves its work so often; the pods after it have only the rest to run."""
EXIT_CODE: Final = "sandbox.overspill.dev/exit-code"
STARTUP_SECONDS: Final = "sandbox.overspill.dev/startup-seconds"
INSTANCE_FINALIZER: Final = "sandbox.overspill.dev/instance"
"""On a Node: held until its machine is gone."""

_GPU: Final = "nvidia.com/gpu"


def key_of(obj: RawObject) -> str:
    """ "namespace/name", or "name" for a cluster-scoped object."""
    metadata = obj["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def split_key(key: str) -> tuple[str, str]:
    """(namespace, name); namespace "" for a cluster-scoped key."""
    namespace, _, name = key.rpartition("/")
    return namespace, name


@lru_cache(maxsize=4096)
def _format_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


def format_time(instant: Instant) -> str:
    """RFC 3339 in whole seconds, as metav1.Time is written."""
    return _format_second(int(instant))


def format_micro_time(instant: Instant) -> str:
    """RFC 3339 with microseconds, as metav1.MicroTime is written."""
    return f"{_format_second(int(instant))[:-1]}.{int(instant % 1 * 1e6):06d}Z"


@lru_cache(maxsize=4096)
def parse_time(text: str) -> Instant:
    """Raises: InvalidObjectError when it is no RFC 3339 time in UTC."""
    head, _, fraction = text.rstrip("Z").partition(".")
    try:
        whole = calendar.timegm(time.strptime(head, "%Y-%m-%dT%H:%M:%S"))
        return whole + (float(f"0.{fraction}") if fraction else 0.0)
    except ValueError as error:
        raise InvalidObjectError(f"{text[:40]!r} is not a time; write for example 2026-01-02T03:04:05Z") from error


def controller_of(obj: RawObject) -> Mapping[str, Any] | None:
    """The owner reference of the controlling owner."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return dict(reference)
    return None


def controller_uid(obj: RawObject) -> str | None:
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference["uid"])
    return None


def owner_reference(owner: RawObject, api_version: str, kind: str) -> dict[str, Any]:
    metadata = owner["metadata"]
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def is_deleting(obj: RawObject) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def phase(pod: RawObject) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def is_terminal(pod: RawObject) -> bool:
    return phase(pod) in ("Succeeded", "Failed")


def is_active(pod: RawObject) -> bool:
    """Neither finished nor on its way out."""
    return not is_deleting(pod) and not is_terminal(pod)


def condition(obj: RawObject, kind: str) -> Mapping[str, Any] | None:
    for item in (obj.get("status") or {}).get("conditions") or ():
        if item.get("type") == kind:
            return dict(item)
    return None


def condition_true(obj: RawObject, kind: str) -> bool:
    found = condition(obj, kind)
    return found is not None and found.get("status") == "True"


def with_condition(conditions: Iterable[Mapping[str, Any]], new: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The list with `new` in it; its old transition time stays when the status does not change."""
    result, done = [], False
    for item in conditions:
        if item.get("type") != new["type"]:
            result.append(item)
            continue
        done = True
        same = item.get("status") == new["status"]
        kept = {"lastTransitionTime": item["lastTransitionTime"]} if same and "lastTransitionTime" in item else {}
        result.append({**new, **kept})
    return result if done else [*result, new]


@lru_cache(maxsize=8192)
def _units(text: str, milli: bool) -> int:
    return quantity_units(text, milli=milli)


def resources(amounts: Mapping[str, Any], *, pods: int | None = None) -> Resources:
    """A requests or allocatable map, exact. `pods` None: as the map says."""
    extended = tuple(
        sorted(
            (name, _units(str(amount), False))
            for name, amount in amounts.items()
            if name not in ("cpu", "memory", "pods", _GPU)
        )
    )
    return Resources(
        cpu_milli=_units(str(amounts.get("cpu", 0)), True),
        memory_bytes=_units(str(amounts.get("memory", 0)), False),
        gpus=_units(str(amounts.get(_GPU, 0)), False),
        pods=_units(str(amounts.get("pods", 0)), False) if pods is None else pods,
        extended=extended,
    )


def pod_requests(spec: Mapping[str, Any]) -> Resources:
    """What a pod asks of its node: the sum over containers or the largest init container, plus overhead."""
    total, first = Resources(), Resources()
    for container in spec.get("containers") or ():
        total = total + _container_requests(container)
    for container in spec.get("initContainers") or ():
        asked = _container_requests(container)
        if container.get("restartPolicy") == "Always":
            total = total + asked
        first = _largest(first, asked)
    overhead = resources(spec["overhead"], pods=0) if spec.get("overhead") else Resources()
    return _largest(total, first) + overhead + Resources(pods=1)


def _container_requests(container: Mapping[str, Any]) -> Resources:
    asked = container.get("resources") or {}
    return resources({**(asked.get("limits") or {}), **(asked.get("requests") or {})}, pods=0)


def _largest(left: Resources, right: Resources) -> Resources:
    names = {name for name, _ in left.extended} | {name for name, _ in right.extended}
    return Resources(
        max(left.cpu_milli, right.cpu_milli),
        max(left.memory_bytes, right.memory_bytes),
        max(left.gpus, right.gpus),
        0,
        tuple(sorted((name, max(left.amount(name), right.amount(name))) for name in names)),
    )


def number_annotation(obj: RawObject, name: str) -> float | None:
    """A number of an annotation; None when it is absent or no number (the pod then runs as if it were absent)."""
    text = (obj["metadata"].get("annotations") or {}).get(name)
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None
