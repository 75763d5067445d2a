"""The nodes of a replay: owned ones, and bought ones that are ordered, come, are reclaimed and go back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from scheduler.model.cluster import Node, NodePool, Shortage
from scheduler.model.contract import TOPOLOGY_NODE
from scheduler.model.ids import Instant, NodeName, PoolRef
from scheduler.model.resources import Resources
from scheduler.model.workload import Placement
from scheduler.simulate.assumptions import DEFAULT_PROVISIONING_SECONDS, Assumptions, draw, exponential, normal


@dataclass(slots=True, eq=False)
class Machine:
    """One node. `node` is what a snapshot shows of it, made anew only when something changed."""

    pool: PoolRef
    name: NodeName
    size: Resources
    created_at: Instant
    reclaimed_at: Instant | None
    free: Resources
    pods: int = 0
    idle_since: Instant | None = None
    closed: bool = False
    """To new pods."""
    _labels: tuple[tuple[str, str], ...] = ()
    _node: Node | None = None

    @property
    def node(self) -> Node:
        if self._node is None:
            self._node = Node(
                name=self.name,
                uid=self.name,
                pool=self.pool.pool,
                allocatable=self.size,
                used=self.size - self.free,
                workload_pods=self.pods,
                labels=self._labels,
                taints=(),
                ready=True,
                unschedulable=self.closed,
                closed=self.closed,
                deleting=False,
                created_at=self.created_at,
                idle_since=self.idle_since,
            )
        return self._node

    def use(self, pod: Resources, count: int, now: Instant) -> None:
        """Bind `count` pods; a negative count takes them off."""
        self.free = self.free - pod.times(count)
        self.pods += count
        self.idle_since = now if self.pods == 0 else None
        self._node = None

    def is_open_to(self, placement: Placement) -> bool:
        """Whether pods of a workload so placed may be bound to it; an unlabelled one is named by its name."""
        if self.name in placement.kept_off:
            return False
        if placement.domain is None:
            return True
        key, value = placement.domain
        return dict(self._labels).get(key, self.name if key == TOPOLOGY_NODE else None) == value

    def set_closed(self, *, closed: bool) -> None:
        self.closed = closed
        self._node = None

    def room_for(self, pod: Resources, most: int) -> int:
        """How many such pods fit, at most `most`."""
        if self.closed:
            return 0
        free = self.free
        for asked, there in (
            (pod.gpus, free.gpus),
            (pod.cpu_milli, free.cpu_milli),
            (pod.memory_bytes, free.memory_bytes),
            (pod.pods, free.pods),
        ):
            if asked > 0:
                most = min(most, there // asked)
        for name, asked in pod.extended:
            if asked > 0:
                most = min(most, dict(free.extended).get(name, 0) // asked)
        return max(0, most)


@dataclass(slots=True, eq=False)
class MachinePool:
    """A node pool while it is replayed."""

    template: NodePool
    assumptions: Assumptions
    machines: dict[NodeName, Machine] = field(default_factory=dict)
    arriving: dict[int, Instant] = field(default_factory=dict)
    """Number -> when it comes, of machines that are ordered."""
    desired: int = 0
    made: int = 0
    short_until: Instant = float("-inf")
    _shown: NodePool | None = None

    @property
    def ref(self) -> PoolRef:
        return self.template.ref

    def shown(self, now: Instant) -> NodePool:
        """As a snapshot tells it."""
        short = now < self.short_until
        if self._shown is None or (self._shown.shortage is not None) != short:
            since = self.short_until - self.assumptions.shortage_seconds
            shortage = Shortage("capacity", "no such machine just now", since) if short else None
            desired = self.desired if self.template.scaling == "managed" else None
            self._shown = replace(self.template, desired_nodes=desired, shortage=shortage)
        return self._shown

    def own(self, count: int, now: Instant) -> None:
        """Machines that are there from the start."""
        for _ in range(count):
            self._add(now, self._number(), reclaimed_at=None)
        self.desired = len(self.machines)

    def resize(self, desired: int, now: Instant) -> bool:
        """Order machines, or cancel orders. False: the pool cannot deliver now."""
        more = desired - self.desired
        self._shown = None
        for _ in range(-more):
            if self.arriving:
                del self.arriving[max(self.arriving, key=lambda number: (self.arriving[number], number))]
                self.desired -= 1
        for _ in range(more):
            number = self._number()
            if draw(self.assumptions.seed, "shortage", self.ref, number) < self.assumptions.shortage_chance:
                self.short_until = now + self.assumptions.shortage_seconds
                return False
            self.arriving[number] = now + self._provisioning_seconds(number)
            self.desired += 1
        return True

    def arrive(self, number: int) -> Machine | None:
        """The machine that was ordered under that number; None when it was cancelled."""
        at = self.arriving.pop(number, None)
        return None if at is None else self._add(at, number, self._reclaim_at(at, number))

    def remove(self, name: NodeName) -> Machine:
        """Give back or lose a machine."""
        self.desired -= 1
        self._shown = None
        return self.machines.pop(name)

    def _number(self) -> int:
        self.made += 1
        return self.made

    def _add(self, at: Instant, number: int, reclaimed_at: Instant | None) -> Machine:
        name = NodeName(f"{self.ref}/{number:05d}")
        size = self.template.node_resources
        machine = Machine(self.ref, name, size, at, reclaimed_at, size, idle_since=at, _labels=self.template.labels)
        self.machines[name] = machine
        return machine

    def _provisioning_seconds(self, number: int) -> float:
        known = self.template.provisioning_seconds
        middle = DEFAULT_PROVISIONING_SECONDS if known is None else known
        seed, spread = self.assumptions.seed, self.assumptions.provisioning_spread
        z = normal(draw(seed, "late", self.ref, number), draw(seed, "later", self.ref, number))
        return middle * math.exp(spread * max(-3.0, min(3.0, z)))

    def _reclaim_at(self, at: Instant, number: int) -> Instant | None:
        rate = self.assumptions.reclaims_per_hour(self.template)
        if rate <= 0:
            return None
        return at + exponential(3600.0 / rate, uniform=draw(self.assumptions.seed, "reclaim", self.ref, number))
