"""The room that each node pool has in this cycle: nodes that are there, nodes that are on their way, nodes to buy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from scheduler.engine.packing import (
    DEFAULT_PODS_PER_NODE,
    REFUSING_EFFECTS,
    Bin,
    Opener,
    Shape,
    Take,
    domain_of,
    make_bin,
    pack,
    undo,
)
from scheduler.model.cluster import Cluster, Node, NodePool, Taint
from scheduler.model.contract import TAINT_DRAINING, TOPOLOGY_NODE
from scheduler.model.ids import Instant, NodeName
from scheduler.model.resources import Resources
from scheduler.model.snapshot import Backoff
from scheduler.model.verdict import Reason
from scheduler.model.workload import PodSet

DEFAULT_PROVISIONING_SECONDS: Final = 600.0
"""Taken for a pool whose provisioning time nobody knows, where a deadline is needed."""
OVERDUE_FACTOR: Final = 3.0
"""A machine that is not there after so many provisioning times is not counted on any more."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a gang fits into a pool. `new_nodes` are those to buy beyond what the provider already aims at."""

    now: bool
    """On nodes that are there and ready."""
    new_nodes: int
    share: Fraction
    """Of existing or coming nodes, by the dominant resource, in nodes."""


class PoolRoom:
    """One pool's bins, changed in place as workloads are assumed onto it; `version` counts the changes."""

    def __init__(
        self, cluster: Cluster, pool: NodePool, nodes: Sequence[Node], now: Instant, backoff: Backoff | None
    ) -> None:
        """`nodes`: those of the pool, by name."""
        self.cluster = cluster
        self.pool = pool
        self.backoff = backoff if backoff is not None and backoff.until > now else None
        self.version = 0
        self.arrays: tuple[int, npt.NDArray[np.float64], npt.NDArray[np.float64], bool] | None = None
        """What the bins have free and whether any has taints, as `table` reads it, and of which version."""
        self.static: dict[int, tuple[Reason, ...]] = {}
        """Why the pool, as it is, is not for such workloads; see `candidates.Weigher.static_reasons`."""
        self.nodes = tuple(nodes)
        young = [node for node in self.nodes if self._boots(node, float("-inf"))]
        self.timeless = not young
        """Whether the passing of time alone leaves it as it is."""
        self.booting = {node.name for node in young if self._boots(node, now)}
        usable = [
            node for node in self.nodes if node.usable and not is_draining(node) and node.name not in self.booting
        ]
        self.node_size = _true_size(_with_pods(pool.node_resources), usable)
        """What an empty node of it holds."""
        self.idle_nodes = any(node.idle_since is not None and not node.workload_pods for node in self.nodes)
        self.closed = tuple(node for node in self.nodes if node.closed)
        # A bought node is cordoned when it is given back; one that somebody else cordoned or its cloud takes back holds
        # nothing new either.
        going = [node for node in self.nodes if node.leaving or is_draining(node)]
        self.staying = len(self.nodes) - len(going)
        """Nodes that are there and not on their way out."""
        self.base = max(pool.desired_nodes or 0, self.staying)
        """The size that the provider aims at (or has already passed)."""
        declared = set(pool.taints)
        self.ready = [_bin_of(node, declared, pool.ref.cluster) for node in usable]
        self.booked: list[Bin] = []
        """Machines that have been asked for and have no node yet."""
        if pool.scaling == "managed" and pool.desired_nodes is not None:
            # Once its machine is given back, a node that lingers is not ready; until then it counts in the size.
            leaving = sum(node.ready and not node.deleting for node in going)
            missing = max(0, pool.desired_nodes - self.staying - leaving)
            self.booked = [make_bin(f"booked-{index:05d}", self.node_size, pool.labels) for index in range(missing)]
        self.coming = [
            *(
                make_bin(n.name, self.node_size, {*n.labels, *pool.labels})
                for n in self.nodes
                if n.name in self.booting
            ),
            *self.booked,
        ]
        """Nodes that can be counted on, but not yet used."""
        self.opened: list[Bin] = []
        """Nodes to be bought, by what this cycle has assumed."""
        self.kept_nodes = 0
        """Nodes that may be bought, but are kept for a reservation."""
        self.domain: tuple[str, str] | None = None
        """What the gang that was assumed last is to be held to, if anything."""
        self.kept_off: tuple[NodeName, ...] = ()
        """Nodes that it is to be kept off."""
        self.reserved: set[str] = set()
        """Nodes that reservations and guarded gangs are to use, those too of which nothing has to be kept free."""
        self._fits: dict[tuple[int, bool], tuple[int, Fit | None]] = {}
        real = {_key(node.allocatable): node.allocatable for node in usable if node.workload_pods}
        self.sizes = (self.node_size, *(real[key] for key in sorted(real)))
        """Of an empty node: as described, and as the real ones that are in use."""

    def begin_again(self, cluster: Cluster, now: Instant, backoff: Backoff | None) -> None:
        """For another cycle, in which the pool and its nodes are as they were; nothing may be assumed yet."""
        if cluster is not self.cluster:
            if replace(cluster, nodes=(), pools=()) != replace(self.cluster, nodes=(), pools=()):
                self.static = {}
            self.cluster = cluster
        self.backoff = backoff if backoff is not None and backoff.until > now else None
        self._fits.clear()

    @property
    def growable(self) -> bool:
        return self.pool.scaling == "managed" and self.pool.desired_nodes is not None

    @property
    def can_open(self) -> int:
        """How many more nodes may be bought."""
        return max(0, self.pool.max_nodes - self.base - len(self.opened) - self.kept_nodes) if self.growable else 0

    @property
    def provisioning_seconds(self) -> float:
        known = self.pool.provisioning_seconds
        return DEFAULT_PROVISIONING_SECONDS if known is None else known

    def _boots(self, node: Node, now: Instant) -> bool:
        """Whether the node is young and not yet all that it will be: not ready, or (where Overspill bought it) still
        without its GPUs, or still with the taints that keep pods off until its agents run."""
        young = now < node.created_at + max(60.0, OVERDUE_FACTOR * self.provisioning_seconds)
        if not young or node.leaving or is_draining(node):
            return False
        if not node.ready:
            return True
        missing_gpus = node.allocatable.gpus < self.pool.node_resources.gpus
        starting_up = any(taint.effect in REFUSING_EFFECTS and taint not in self.pool.taints for taint in node.taints)
        return self.pool.scaling == "managed" and (missing_gpus or starting_up)

    def holds_one(self, pod: Resources) -> bool:
        """Whether an empty node of the pool, as described or as any real one, holds such a pod."""
        return any(pod.fits_in(size) for size in self.sizes)

    def fit(self, shape: Shape, *, grow: bool) -> Fit | None:
        """How the gang would fit; nothing is assumed. With `grow`, nodes to come and to buy count too."""
        known = self._fits.get((shape.number, grow))
        if known is not None and known[0] == self.version:
            return known[1]
        opener = self._opener(self.can_open) if grow else None
        stages = (self.ready, self.coming, self.opened) if grow else (self.ready,)
        takes = self._pack(shape.pod_sets, stages, opener)
        fit = None
        if takes is not None:
            undo(takes)
            fit = self._describe(takes, opener)
        self._fits[shape.number, grow] = (self.version, fit)
        return fit

    def assume(
        self, pod_sets: Sequence[PodSet], *, coming: bool = False, buy: bool = False, guarded: bool = False
    ) -> bool:
        """Put the whole gang on ready nodes, with `coming` also on those on their way, with `buy` also on nodes to
        buy; False when it does not fit (nothing is assumed then). `guarded`: whoever is placed after it in this cycle
        is kept off its nodes, as the member might bind that one there first."""
        opener = self._opener(self.can_open) if buy else None
        stages = (self.ready, self.coming, self.opened) if coming or buy else (self.ready,)
        takes = self._pack(pod_sets, stages, opener)
        if takes is None:
            return False
        self._hold(pod_sets, takes)
        if guarded:
            self.reserved.update(take.bin.key for take in takes)
        self.version += 1
        if opener is not None:
            self.opened += [bin_ for bin_ in opener.opened if bin_.taken]
        return True

    def assume_what_fits(self, pod_sets: Sequence[PodSet], *, buy: bool, guarded: bool) -> tuple[PodSet, ...]:
        """Assume as many pods as fit, and say which do not: for a started workload, whose member binds what it can."""
        stranded: list[PodSet] = []
        for pod_set in pod_sets:
            left = pod_set.count
            while left:
                count = left
                while count:
                    some = replace(pod_set, count=count)
                    if self.assume((some,), coming=True, buy=buy, guarded=guarded):
                        break
                    count //= 2
                if not count:
                    break
                left -= count
            if left:
                stranded.append(replace(pod_set, count=left))
        return tuple(stranded)

    def fresh_bin(self) -> Bin:
        """An empty node of the pool."""
        return make_bin("new", self.node_size, self.pool.labels)

    def _pack(
        self, pod_sets: Sequence[PodSet], stages: Sequence[Sequence[Bin]], opener: Opener | None
    ) -> list[Take] | None:
        """As `pack`, beside the nodes on which room is kept. The member binds pods to whatever nodes it is let, so a
        gang on several nodes has none of these; what is left on one is for a gang that it holds whole."""
        if not self.reserved:
            return pack(pod_sets, stages, opener)
        takes = pack(pod_sets, [[bin_ for bin_ in stage if not bin_.kept_for] for stage in stages], opener)
        if takes is not None or not pod_sets:
            return takes
        pod = pod_sets[0].requests
        beside = [bin_ for bin_ in self.ready if bin_.kept_for and bin_.room_for(pod, 1)]
        beside.sort(key=lambda each: (each.gpus, each.cpu_milli, each.key))
        return next((found for bin_ in beside if (found := pack(pod_sets, ([bin_],)))), None)

    def _hold(self, pod_sets: Sequence[PodSet], takes: Sequence[Take]) -> None:
        """Note where the gang may be bound, so that it takes no room that is kept."""
        beside = next((take.bin for take in takes if take.bin.kept_for), None)
        if beside is not None:
            value = domain_of(beside, TOPOLOGY_NODE)
            assert value is not None
            self.domain, self.kept_off = (TOPOLOGY_NODE, value), ()
            return
        self.domain = domain_taken(pod_sets, takes)
        if self.reserved:
            off = self.reserved - {take.bin.key for take in takes}
            self.kept_off = tuple(node.name for node in self.nodes if node.name in off)

    def _opener(self, limit: int) -> Opener:
        return Opener(self.node_size, self.pool.labels, limit, len(self.opened))

    def _describe(self, takes: Sequence[Take], opener: Opener | None) -> Fit:
        fresh = {id(bin_) for bin_ in opener.opened} if opener is not None else set()
        ready = {id(bin_) for bin_ in self.ready}
        new = {id(take.bin) for take in takes if id(take.bin) in fresh}
        share = Fraction(0)
        counts: dict[int, tuple[Resources, int]] = {}
        for bin_, pod, pods in takes:
            if id(bin_) not in fresh:
                counts[id(pod)] = (pod, counts.get(id(pod), (pod, 0))[1] + pods)
        for pod, pods in counts.values():
            share += dominant_part(pod, self.node_size) * pods
        return Fit(all(id(take.bin) in ready for take in takes), len(new), share)


def domain_taken(pod_sets: Sequence[PodSet], takes: Sequence[Take]) -> tuple[str, str] | None:
    """Label and value of the domain that the gang was packed into; None: it asks for none."""
    topology = pod_sets[0].topology if pod_sets else ""
    value = domain_of(takes[0].bin, topology) if topology and takes else None
    return None if value is None else (topology, value)


def _bin_of(node: Node, declared: set[Taint], cluster: str) -> Bin:
    """What is free on a node. Written out for the plain ones, which are nearly all: every cycle makes many."""
    there, used = node.allocatable, node.used
    if node.taints or there.extended or used.extended:
        taints = (each for each in node.taints if each not in declared)
        return make_bin(node.name, there - used, node.labels, taints, cluster)
    return Bin(
        node.name,
        there.cpu_milli - used.cpu_milli,
        there.memory_bytes - used.memory_bytes,
        there.gpus - used.gpus,
        there.pods - used.pods,
        {},
        frozenset(node.labels),
        cluster=cluster,
    )


def is_draining(node: Node) -> bool:
    """Whether Overspill is giving the node back."""
    return bool(node.taints) and any(taint.key == TAINT_DRAINING for taint in node.taints)


def dominant_part(pod: Resources, node: Resources) -> Fraction:
    """The largest fraction of any of cpu, memory and GPUs of a node that the pod asks for, at most 1."""
    parts = [
        Fraction(asked, there)
        for asked, there in (
            (pod.gpus, node.gpus),
            (pod.cpu_milli, node.cpu_milli),
            (pod.memory_bytes, node.memory_bytes),
        )
        if asked > 0 and there > 0
    ]
    return min(Fraction(1), max(parts, default=Fraction(0)))


def _true_size(described: Resources, usable: Sequence[Node]) -> Resources:
    """What a node really has for workloads: no more than was described, nor than the emptiest idle one there has (its
    DaemonSets take their part), so that nodes are not bought again and again for a pod that none can hold."""
    idle = [node.allocatable - node.used for node in usable if not node.workload_pods]
    if not idle:
        return described
    return replace(
        described,
        cpu_milli=min(described.cpu_milli, max(free.cpu_milli for free in idle)),
        memory_bytes=min(described.memory_bytes, max(free.memory_bytes for free in idle)),
        gpus=min(described.gpus, max(free.gpus for free in idle)),
        pods=min(described.pods, max(free.pods for free in idle)),
    )


def _with_pods(size: Resources) -> Resources:
    return size if size.pods else replace(size, pods=DEFAULT_PODS_PER_NODE)


def _key(size: Resources) -> tuple[int, int, int, int, tuple[tuple[str, int], ...]]:
    return size.gpus, size.cpu_milli, size.memory_bytes, size.pods, size.extended
