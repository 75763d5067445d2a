"""What could be the cause of several signals at once: a workload, a place, a network; and what stands alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from scheduler.aiops.findings import (
    ANOMALY,
    APPLICATION,
    CRITICAL,
    HARDWARE,
    HIGH,
    INFO,
    INFRASTRUCTURE,
    SYMPTOM,
    family,
)
from scheduler.aiops.incidents import OPEN, Signal, SignalKey
from scheduler.aiops.open_incidents import OpenIncidents, Settings
from scheduler.aiops.scoping import GPU, PLACES, scope_of
from scheduler.aiops.topology import CLUSTER, NETWORK, NODE, WORKLOAD, NodeKey, Scope, ends

SHARED: Final = ("gpu.throttle.power-brake", "gpu.throttle.thermal")
"""Kinds of a GPU that come of power or cooling, which nodes share."""


def widest(
    kinds: Sequence[str], loose: Mapping[SignalKey, Signal], book: OpenIncidents
) -> tuple[Scope, frozenset[SignalKey], frozenset[str]] | None:
    """The scope that explains the most nodes (the narrowest of such), its loose signals, and the young incidents
    that become part of it. None: no scope explains anything that is not explained already."""
    offers: dict[tuple[Scope, str], dict[NodeKey | str, set[SignalKey]]] = defaultdict(lambda: defaultdict(set))
    part_of: dict[SignalKey, str] = {}
    urgent: set[SignalKey] = set()
    for signal, name in _candidates(loose, book):
        if name:
            part_of[signal.key] = name
        # One odd thing is not yet its workload's affair; of two or more nodes it is.
        if signal.severity != INFO and not (signal.kind.startswith(ANOMALY) and signal.subject.node):
            urgent.add(signal.key)
        for scope, reason in _explanations(signal, book):
            if scope.kind not in kinds:
                continue
            for node in book.fleet.nodes_of(signal.subject) or {(signal.subject.cluster, "")}:
                offers[scope, reason][node].add(signal.key)
    best: tuple[tuple[int, int, Scope, str], tuple[Scope, frozenset[SignalKey], frozenset[str]]] | None = None
    for (scope, reason), nodes in offers.items():
        keys = frozenset[SignalKey]().union(*nodes.values())
        members = book.fleet.members.get(scope, frozenset())
        order = (-len(nodes), len(members), scope, reason)
        if best is not None and order >= best[0]:
            continue
        if not _explains(book.settings, scope, len(nodes), len(members), bool(keys & urgent)):
            continue
        parts = frozenset(part_of[key] for key in keys & part_of.keys())
        parts = frozenset(name for name in parts if _inside(name, scope, members, book))
        free = keys - part_of.keys()
        if free or len(parts) > 1:
            best = order, (scope, free, parts)
    return best[1] if best else None


def _candidates(loose: Mapping[SignalKey, Signal], book: OpenIncidents) -> Iterable[tuple[Signal, str]]:
    for key in sorted(loose):
        yield loose[key], ""
    for name in sorted(book.open):
        one = book.open[name]
        if one.state == OPEN and book.now - one.opened_at <= book.settings.window_seconds:
            for signal in book.members(name).values():
                yield signal, name


def _explanations(signal: Signal, book: OpenIncidents) -> Iterable[tuple[Scope, str]]:
    """Scopes that could be the cause, with what must be alike."""
    if signal.origin in (APPLICATION, SYMPTOM):
        for workload in book.workloads(signal):
            yield Scope(WORKLOAD, workload), ""
    if signal.subject.path:
        for end in ends(signal.subject.path):
            yield Scope(NETWORK, end), signal.kind
        return
    if signal.kind.startswith(ANOMALY) and signal.subject.node:
        # Half of a cluster at once is the monitor's or the cluster's affair.
        yield Scope(CLUSTER, signal.subject.cluster), signal.kind
    shared = signal.origin == INFRASTRUCTURE or signal.kind.startswith("node.") or signal.kind in SHARED
    if shared and signal.subject.node and signal.severity != INFO:
        for scope in book.fleet.scopes_of((signal.subject.cluster, signal.subject.node)):
            if scope.kind in PLACES:
                yield scope, family(signal.kind)


def _explains(settings: Settings, scope: Scope, nodes: int, size: int, urgent: bool) -> bool:
    if scope.kind == WORKLOAD:
        return nodes >= settings.least_share * max(size, 1) and (urgent or nodes >= 2)
    return nodes >= settings.least_nodes and nodes >= settings.least_share * size


def _inside(name: str, scope: Scope, members: frozenset[NodeKey], book: OpenIncidents) -> bool:
    """Whether a young incident is of the scope's members alone, and of the scope's kind of trouble."""
    incident = book.open[name]
    if scope == incident.scope:
        return True
    signals = book.members(name).values()
    if scope.kind == WORKLOAD:
        # A fault of the hardware stays what it is: the workload's symptoms join it.
        return all(one.origin in (APPLICATION, SYMPTOM) for one in signals)
    return all(book.fleet.nodes_of(one.subject) <= members for one in signals)


def singles(loose: Mapping[SignalKey, Signal], *, local: bool) -> list[tuple[Scope, list[Signal]]]:
    """What no scope explains, by GPU, node or whatever it is about; `local`: only urgent faults of one GPU."""
    groups: dict[Scope, list[Signal]] = defaultdict(list)
    for key in sorted(loose):
        signal = loose[key]
        subject = signal.subject
        fault = signal.origin == HARDWARE and subject.gpu and signal.kind not in SHARED
        if local and not (fault and signal.severity in (CRITICAL, HIGH)):
            continue
        node = Scope(NODE, f"{subject.cluster}/{subject.node}") if subject.node else scope_of(signal)
        groups[node].append(signal)
    found = []
    for scope, signals in sorted(groups.items()):
        if all(one.severity == INFO for one in signals):
            continue
        gpus = {one.subject.gpu for one in signals}
        if scope.kind == NODE and len(gpus) == 1 and "" not in gpus:
            found.append((Scope(GPU, f"{scope.name}/{gpus.pop()}"), signals))
        else:
            found.append((scope, signals))
    return found
