"""Whether a signal belongs to an incident that is open already."""

from __future__ import annotations

from typing import Final

from scheduler.aiops.findings import ANOMALY, APPLICATION, SYMPTOM, severity_rank
from scheduler.aiops.incidents import Incident, Signal
from scheduler.aiops.open_incidents import OpenIncidents
from scheduler.aiops.scoping import GPU, is_kin, scope_of, spot
from scheduler.aiops.topology import NETWORK, NODE, WORKLOAD, NodeKey, ends

_CAUSE_SECONDS: Final = 300.0
"""Within which a hardware fault may have been the cause of a crash that was seen first."""


def home_of(signal: Signal, book: OpenIncidents) -> str | None:
    """The incident that a signal belongs to: the one that began last before it, else the first after."""
    keys: list[NodeKey | str] = [*book.fleet.nodes_of(signal.subject), *book.workloads(signal), spot(signal)]
    names = {name for key in keys for name in book.near.get(key, ())}
    fit = [name for name in names if _belongs(signal, book.open[name], book)]
    if not fit:
        return None
    return min(fit, key=lambda name: (abs(signal.first_at - book.open[name].opened_at), name))


def _belongs(signal: Signal, incident: Incident, book: OpenIncidents) -> bool:
    age = signal.first_at - incident.opened_at
    lately = abs(age) <= book.settings.window_seconds
    kin = (
        lately
        or signal.kind.startswith(ANOMALY)
        or any(is_kin(signal.kind, one.kind) for one in book.members(incident.id).values())
    )
    scope, nodes = incident.scope, book.fleet.nodes_of(signal.subject)
    follows = signal.origin in (SYMPTOM, APPLICATION)
    if scope.kind in (GPU, NODE):
        if signal.subject.node and (incident.subject.cluster, incident.subject.node) in nodes:
            same = scope.kind == NODE or signal.subject.gpu in ("", incident.subject.gpu) or lately
            return kin and same
        return follows and lately and bool(book.workloads(signal) & book.hit(incident))
    if scope.kind == WORKLOAD:
        if scope.name not in book.workloads(signal):
            return False
        return kin if follows else abs(age) <= _CAUSE_SECONDS and severity_rank(signal.severity) <= 1
    if scope.kind == NETWORK:
        return kin and bool(signal.subject.path) and scope.name in ends(signal.subject.path)
    if not (signal.subject.node or signal.subject.workload):
        return kin and scope_of(signal) == scope
    if not any(one.subject.node for one in book.members(incident.id).values()):
        return False
    if signal.subject.node and nodes <= book.fleet.members.get(scope, frozenset()) and kin:
        return True
    return follows and lately and bool(book.workloads(signal) & book.hit(incident))
