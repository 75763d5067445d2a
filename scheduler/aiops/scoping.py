"""What a signal or an incident is about, and what it is called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from scheduler.aiops.findings import ANOMALY, Subject, family
from scheduler.aiops.incidents import Incident, Signal
from scheduler.aiops.topology import CLUSTER, NODE, PATH, POOL, PROVIDER, WORKLOAD, ZONE, Scope
from scheduler.model.ids import Instant

GPU: Final = "gpu"
PLACES: Final = ("rack", ZONE, POOL, CLUSTER, PROVIDER)
_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME: Final = 180


def named(kind: str, scope: Scope, nodes: int) -> str:
    """The kind of an incident: of a whole place it is the place's, of a workload that fails on many nodes a crash."""
    if scope.kind in PLACES and nodes > 1 and not kind.startswith(ANOMALY):
        return f"{scope.kind}.outage" if kind == "node.not-ready" else f"{scope.kind}.{kind.split('.', 1)[-1]}"
    if scope.kind == WORKLOAD and kind.startswith("gpu.xid."):
        return "workload.crash"
    return kind


def subject_of(scope: Scope, signals: Sequence[Signal], now: Subject) -> Subject:
    """What the incident is about, as narrow as its scope."""
    first = min(signals, key=lambda one: (one.first_at, one.key)).subject
    match scope.kind:
        case "gpu":
            return now
        case "node":
            cluster, _, node = scope.name.partition("/")
            return Subject(cluster=cluster, node=node, pool=now.pool)
        case "workload":
            # Of one that waits, the pool that could be enlarged for it.
            return Subject(first.cluster, first.pool if first.about == WORKLOAD else "", workload=scope.name)
        case "pool":
            cluster, _, pool = scope.name.partition("/")
            return Subject(cluster=cluster, pool=pool)
        case "rack" | "zone":
            return Subject(cluster=scope.name.partition("/")[0])
        case "cluster" | "network":
            return Subject(cluster=scope.name)
    return now if scope.kind == PATH else Subject()


def scope_of(signal: Signal) -> Scope:
    """What it is about. Of what is about nothing in particular only the same kind belongs together."""
    subject = signal.subject
    if subject == Subject():
        return Scope("kind", signal.kind)
    match subject.about:
        case "gpu":
            return Scope(GPU, f"{subject.cluster}/{subject.node}/{subject.gpu}")
        case "node":
            return Scope(NODE, f"{subject.cluster}/{subject.node}")
        case "workload":
            return Scope(WORKLOAD, subject.workload)
        case "path":
            return Scope(PATH, subject.path)
        case "pool":
            return Scope(POOL, f"{subject.cluster}/{subject.pool}")
    return Scope(CLUSTER, subject.cluster)


def spot(signal: Signal) -> str:
    """Where an incident is looked up that is about neither a node nor a workload."""
    scope = scope_of(signal)
    return f"{scope.kind}:{scope.name}"


def is_kin(one: str, other: str) -> bool:
    """Whether two kinds are of the same trouble."""
    return family(one) == family(other) or (one.startswith("node.") and other.startswith("node."))


def id_of(kind: str, scope: Scope, now: Instant, taken: Mapping[str, Incident]) -> str:
    # As a key of a ConfigMap (`overspill incidents approve`) and a path of the read API may be.
    said = _UNFIT.sub(".", f"{kind}-{scope.name}")[:_LONGEST_NAME]
    base = f"{said}-{int(now)}"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name
