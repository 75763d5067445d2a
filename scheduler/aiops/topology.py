"""Where things are and what runs on them: what incidents are grouped by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Final

from scheduler.aiops.findings import Subject
from scheduler.model.ids import Instant

NODE: Final = "node"
WORKLOAD: Final = "workload"
RACK: Final = "rack"
ZONE: Final = "zone"
POOL: Final = "pool"
CLUSTER: Final = "cluster"
PROVIDER: Final = "provider"
PATH: Final = "path"
NETWORK: Final = "network"
"""The network of a place: all paths that begin or end there."""

NodeKey = tuple[str, str]
"""Cluster and node."""


@dataclass(frozen=True, slots=True, order=True)
class NodePlace:
    cluster: str
    node: str
    pool: str = ""
    rack: str = ""
    zone: str = ""
    provider: str = ""
    gpus: int = 0
    usd_per_hour: Decimal | None = None
    """None: not known."""


@dataclass(frozen=True, slots=True)
class Run:
    """A workload that runs."""

    workload: str
    nodes: tuple[NodeKey, ...]
    gpus: int
    checkpoint_at: Instant | None = None
    """Work since then is lost when it is stopped. None: not known."""
    deadline: Instant | None = None
    finish_forecast: Instant | None = None


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """A part of the fleet that may be the common cause of what its members show."""

    kind: str
    name: str
    """node: cluster/node; workload: its UID; rack, zone and pool: cluster/name; cluster; provider; path: from>to;
    network: where the paths meet."""


@dataclass(frozen=True)
class Topology:
    """The fleet now. Unknown places are "": such a node is in no scope of that kind."""

    nodes: tuple[NodePlace, ...] = ()
    runs: tuple[Run, ...] = ()
    paths: tuple[str, ...] = ()
    """Network paths that are probed, "from>to"."""

    @cached_property
    def place_of(self) -> dict[NodeKey, NodePlace]:
        return {(place.cluster, place.node): place for place in self.nodes}

    @cached_property
    def run_of(self) -> dict[str, Run]:
        return {run.workload: run for run in self.runs}

    @cached_property
    def workloads_on(self) -> dict[NodeKey, tuple[str, ...]]:
        found: dict[NodeKey, list[str]] = defaultdict(list)
        for run in self.runs:
            for key in run.nodes:
                found[key].append(run.workload)
        return {key: tuple(sorted(names)) for key, names in found.items()}

    @cached_property
    def members(self) -> dict[Scope, frozenset[NodeKey]]:
        """Nodes of each scope; of a network its paths."""
        found: dict[Scope, set[NodeKey]] = defaultdict(set)
        for place in self.nodes:
            for scope in _scopes(place):
                found[scope].add((place.cluster, place.node))
        for run in self.runs:
            found[Scope(WORKLOAD, run.workload)].update(run.nodes)
        for path in self.paths:
            for end in ends(path):
                found[Scope(NETWORK, end)].add((path.partition(">")[0], path))
        return {scope: frozenset(keys) for scope, keys in found.items()}

    def scopes_of(self, key: NodeKey) -> tuple[Scope, ...]:
        """Every scope that a node is in, but itself."""
        place = self.place_of.get(key)
        places = _scopes(place)[1:] if place is not None else ()
        return (*places, *(Scope(WORKLOAD, name) for name in self.workloads_on.get(key, ())))

    def nodes_of(self, subject: Subject) -> frozenset[NodeKey]:
        """The nodes that a subject is on, a path as one of its own; empty when that is not known."""
        if subject.node:
            return frozenset({(subject.cluster, subject.node)})
        if subject.workload:
            return self.members.get(Scope(WORKLOAD, subject.workload), frozenset())
        if subject.path:
            return frozenset({(subject.cluster, subject.path)})
        if subject.pool:
            return self.members.get(Scope(POOL, f"{subject.cluster}/{subject.pool}"), frozenset())
        return self.members.get(Scope(CLUSTER, subject.cluster), frozenset())


def ends(path: str) -> tuple[str, ...]:
    """Where a network path begins and ends."""
    first, _, last = path.partition(">")
    return (first, last) if last else (first,)


def _scopes(place: NodePlace) -> tuple[Scope, ...]:
    """From the narrowest to the widest."""
    named = (
        (NODE, f"{place.cluster}/{place.node}"),
        (RACK, f"{place.cluster}/{place.rack}" if place.rack else ""),
        (ZONE, f"{place.cluster}/{place.zone}" if place.zone else ""),
        (POOL, f"{place.cluster}/{place.pool}" if place.pool else ""),
        (CLUSTER, place.cluster),
        (PROVIDER, place.provider),
    )
    return tuple(Scope(kind, name) for kind, name in named if name)


def topology(nodes: Sequence[NodePlace], runs: Sequence[Run]) -> Topology:
    """The same for any order of the input."""
    return Topology(tuple(sorted(nodes)), tuple(sorted(runs, key=lambda run: run.workload)))
