"""Gang-aware bin packing on the free capacity of nodes.

A `Bin` is the room left on one node; it is changed in place within one cycle and `undo` takes a packing back. Identical
pods are placed in bulk, so that the cost is one look at each bin per pod set, not per pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from scheduler.model.cluster import Taint
from scheduler.model.contract import TOPOLOGY_NODE
from scheduler.model.resources import Resources
from scheduler.model.workload import PodSet, Toleration, Workload

DEFAULT_PODS_PER_NODE: Final = 110
"""The kubelet's default; taken for a pool whose description does not say (pods: 0)."""
REFUSING_EFFECTS: Final = ("NoSchedule", "NoExecute")


@dataclass(slots=True, eq=False)
class Bin:
    """Room left on one node. `key` is the node's name, or a number for one that does not exist yet."""

    key: str
    cpu_milli: int
    memory_bytes: int
    gpus: int
    pods: int
    extended: dict[str, int] = field(default_factory=dict)
    labels: frozenset[tuple[str, str]] = frozenset()
    taints: tuple[Taint, ...] = ()
    """Those that a pod must tolerate by itself."""
    taken: int = 0
    """Pods assumed onto it in this cycle."""
    cluster: str = ""
    """Of a node that exists."""
    kept_for: int = 0
    """For how many reservations room of it is kept; a copy is kept for none."""

    def copy(self) -> Bin:
        """Another one with the same room. By hand: `dataclasses.replace` is five times slower, and looking ahead copies
        every node of a pool again and again."""
        return Bin(
            self.key,
            self.cpu_milli,
            self.memory_bytes,
            self.gpus,
            self.pods,
            dict(self.extended),
            self.labels,
            self.taints,
            self.taken,
            self.cluster,
        )

    def room_for(self, pod: Resources, limit: int) -> int:
        """How many such pods fit, at most `limit`; never negative."""
        # Comparisons instead of min(): this is the innermost loop of a cycle.
        count = limit if limit < self.pods else self.pods
        if pod.gpus and (most := self.gpus // pod.gpus) < count:
            count = most
        if pod.cpu_milli and (most := self.cpu_milli // pod.cpu_milli) < count:
            count = most
        if pod.memory_bytes and (most := self.memory_bytes // pod.memory_bytes) < count:
            count = most
        for name, amount in pod.extended:
            if amount > 0 and (most := self.extended.get(name, 0) // amount) < count:
                count = most
        return count if count > 0 else 0

    def take(self, pod: Resources, count: int) -> None:
        """Assume `count` pods onto it; a negative count takes them back."""
        self.cpu_milli -= pod.cpu_milli * count
        self.memory_bytes -= pod.memory_bytes * count
        self.gpus -= pod.gpus * count
        self.pods -= count
        for name, amount in pod.extended:
            self.extended[name] = self.extended.get(name, 0) - amount * count
        self.taken += count

    def admits(self, pod_set: PodSet) -> bool:
        """Whether its labels and taints let the pods in, and nobody keeps them off."""
        if pod_set.node_selector and not self.labels.issuperset(pod_set.node_selector):
            missing = set(pod_set.node_selector) - self.labels
            if any(key != TOPOLOGY_NODE or domain_of(self, key) != value for key, value in missing):
                return False
        if pod_set.excluded_nodes and (self.cluster, self.key) in pod_set.excluded_nodes:
            return False
        return not self.taints or all(tolerated(taint, pod_set.tolerations) for taint in self.taints)


class Take(NamedTuple):
    """`pods` pods of a pod set put on a bin."""

    bin: Bin
    pod: Resources
    pods: int


def make_bin(
    key: str,
    free: Resources,
    labels: Iterable[tuple[str, str]] = (),
    taints: Iterable[Taint] = (),
    cluster: str = "",
) -> Bin:
    return Bin(
        key,
        free.cpu_milli,
        free.memory_bytes,
        free.gpus,
        free.pods,
        dict(free.extended),
        frozenset(labels),
        tuple(taint for taint in taints if taint.effect in REFUSING_EFFECTS),
        cluster=cluster,
    )


def tolerated(taint: Taint, tolerations: Sequence[Toleration]) -> bool:
    """As the Kubernetes scheduler decides it (k8s.io/api ToleratesTaint)."""
    for toleration in tolerations:
        if toleration.effect and toleration.effect != taint.effect:
            continue
        if toleration.key and toleration.key != taint.key:
            continue
        if toleration.operator == "Exists" or (toleration.key and toleration.value == taint.value):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Shape:
    """What a workload asks for, in packing order: big pods first. Equal shapes have equal numbers in one cycle."""

    number: int
    pod_sets: tuple[PodSet, ...]
    requests: Resources
    """Of all pods together."""
    gpu_models: tuple[frozenset[str], ...]
    """The accepted GPU models of each pod set that names some."""

    @property
    def gpus(self) -> int:
        return self.requests.gpus


def make_shape(number: int, workload: Workload) -> Shape:
    sets = tuple(sorted((s for s in workload.pod_sets if s.count > 0), key=_size, reverse=True))
    models = tuple(frozenset(s.gpu_models) for s in sets if s.gpu_models and s.requests.gpus)
    return Shape(number, sets, workload.requests, models)


def _size(pod_set: PodSet) -> tuple[int, int, int, tuple[tuple[str, int], ...], str]:
    pod = pod_set.requests
    return pod.gpus, pod.cpu_milli, pod.memory_bytes, pod.extended, pod_set.name


class Opener:
    """Makes empty nodes of a pool while packing, up to a limit."""

    __slots__ = ("labels", "limit", "opened", "start", "template")

    def __init__(self, template: Resources, labels: tuple[tuple[str, str], ...], limit: int, start: int = 0) -> None:
        self.template = template
        self.labels = frozenset(labels)
        self.limit = limit
        self.start = start
        self.opened: list[Bin] = []

    def open(self) -> Bin | None:
        """Another empty node; None when the limit is reached."""
        if len(self.opened) >= self.limit:
            return None
        size, key = self.template, f"new-{self.start + len(self.opened):05d}"
        extended = dict(size.extended)
        fresh = Bin(key, size.cpu_milli, size.memory_bytes, size.gpus, size.pods, extended, self.labels)
        self.opened.append(fresh)
        return fresh


def pack(
    pod_sets: Sequence[PodSet], stages: Sequence[Sequence[Bin]], opener: Opener | None = None
) -> list[Take] | None:
    """Put every pod of the gang on a bin; earlier stages are filled first, new nodes are opened last.

    Within a stage: the fewest bins, and of those the tightest, so that whole nodes stay whole. All in one domain where
    the pod sets ask for a topology. Returns what was taken
    (already assumed on the bins), or None, with every bin as it was, when the gang does not fit whole. Deterministic:
    ties go to the earlier bin.
    """
    if pod_sets and pod_sets[0].topology:
        return _pack_in_one(pod_sets[0].topology, pod_sets, stages, opener)
    return _pack_anywhere(pod_sets, stages, opener)


def domain_of(bin_: Bin, topology: str) -> str | None:
    """The value of the label on that node, of an unlabelled one its name where the label names nodes; None: it is in no
    domain that anybody knows."""
    value = next((value for key, value in bin_.labels if key == topology), None)
    return bin_.key if value is None and topology == TOPOLOGY_NODE else value


def _pack_in_one(
    topology: str, pod_sets: Sequence[PodSet], stages: Sequence[Sequence[Bin]], opener: Opener | None
) -> list[Take] | None:
    """Within one domain: with as few of the stages as do, in the one that has least room left; else on new nodes."""
    domains: dict[str, list[list[Bin]]] = {}
    for number, stage in enumerate(stages):
        for bin_ in stage:
            value = domain_of(bin_, topology)
            if value is not None:
                domains.setdefault(value, [[] for _ in stages])[number].append(bin_)
    for depth in range(1, len(stages) + 1):
        for value in sorted(domains, key=lambda each: _room_in(domains[each], each)):
            takes = _pack_anywhere(pod_sets, domains[value][:depth])
            if takes is not None:
                return takes
    if opener is None:
        return None
    if topology == TOPOLOGY_NODE:
        fresh = opener.open()
        return None if fresh is None else _pack_anywhere(pod_sets, ([fresh],))
    ours = next((value for key, value in opener.labels if key == topology), None)
    return None if ours is None else _pack_anywhere(pod_sets, domains.get(ours, ()), opener)


def _room_in(stages: Sequence[Sequence[Bin]], name: str) -> tuple[int, int, str]:
    bins = [bin_ for stage in stages for bin_ in stage]
    return sum(bin_.gpus for bin_ in bins), sum(bin_.cpu_milli for bin_ in bins), name


def _pack_anywhere(
    pod_sets: Sequence[PodSet], stages: Sequence[Sequence[Bin]], opener: Opener | None = None
) -> list[Take] | None:
    takes: list[Take] = []
    for pod_set in pod_sets:
        left = pod_set.count
        for stage in stages:
            if left:
                left = _fill(pod_set, left, stage, takes)
        if left and opener is not None:
            left = _fill(pod_set, left, opener.opened, takes)
            left = _open(pod_set, left, opener, takes)
        if left:
            undo(takes)
            return None
    return takes


def undo(takes: Iterable[Take]) -> None:
    """Give back what `pack` took."""
    for bin_, pod, pods in takes:
        bin_.take(pod, -pods)


def _fill(pod_set: PodSet, left: int, bins: Sequence[Bin], takes: list[Take]) -> int:
    """Put as many of `left` pods as fit on `bins`; how many are still left."""
    pod = pod_set.requests
    rooms = [
        (room, bin_.gpus, bin_.cpu_milli, index)
        for index, bin_ in enumerate(bins)
        if (room := bin_.room_for(pod, left)) and bin_.admits(pod_set)
    ]
    # Tightest first; the last one is the roomiest.
    rooms.sort()
    while left and rooms:
        enough = next((entry for entry in rooms if entry[0] >= left), None)
        chosen = enough if enough is not None else rooms[-1]
        rooms.remove(chosen)
        count = min(left, chosen[0])
        bin_ = bins[chosen[3]]
        bin_.take(pod, count)
        takes.append(Take(bin_, pod, count))
        left -= count
    return left


def _open(pod_set: PodSet, left: int, opener: Opener, takes: list[Take]) -> int:
    while left:
        fresh = opener.open()
        if fresh is None:
            return left
        count = fresh.room_for(pod_set.requests, left)
        if not count or not fresh.admits(pod_set):
            return left
        fresh.take(pod_set.requests, count)
        takes.append(Take(fresh, pod_set.requests, count))
        left -= count
    return 0
