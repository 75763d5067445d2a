"""What is committed on bought capacity: which nodes the placed workloads keep busy, and for how long.

The snapshot does not say which pod is on which node, so the placed workloads of a bought pool are packed, in the order
in which they were placed, onto imagined nodes of it. Each node costs its price until its longest workload ends and the
node has then been idle long enough to be given back; a workload's charge is what it adds to that (so charges add up
exactly). A duration that nobody knows counts as one hour ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from scheduler.engine.packing import Bin, Opener, Shape, Take, make_bin, pack, undo
from scheduler.engine.rooms import PoolRoom
from scheduler.model.ids import PoolRef
from scheduler.model.money import Price, Usd, cost_usd
from scheduler.model.resources import Resources

UNKNOWN_RUN_SECONDS: Final = 3600.0
_NO_LIMIT: Final = 1_000_000


@dataclass(slots=True, eq=False)
class ImaginedNode:
    bin: Bin
    busy_seconds: float = 0.0
    policies: set[str] = field(default_factory=set)


class Commitments:
    """The imagined nodes of every bought pool, changed in place as workloads are placed."""

    def __init__(self) -> None:
        self._with_room: dict[PoolRef, list[ImaginedNode]] = {}
        self._counts: dict[PoolRef, int] = {}
        self._per_policy: dict[str, int] = {}
        self.version = 0

    def nodes_in_use(self, policy: str) -> int:
        """Bought nodes that workloads of the policy are on."""
        return self._per_policy.get(policy, 0)

    def charge(self, room: PoolRoom, shape: Shape, seconds: float, policy: str) -> tuple[Usd | None, int]:
        """What placing the gang for `seconds` would add: (USD, or None when the price is unknown; nodes in use more
        by workloads of `policy`). Nothing changes."""
        touched = self.touched(room, shape)
        return added_usd(room.pool.price, touched, seconds), added_nodes(touched, policy)

    def add(self, room: PoolRoom, shape: Shape, seconds: float, policy: str) -> Usd | None:
        """Place the gang for `seconds`; what that adds in USD, None when no price was ever known."""
        _, touched = self._pack(room, shape)
        usd = added_usd(room.pool.reckoned_price, touched, seconds)
        self.occupy(touched, seconds, policy)
        known = self.with_room(room)
        fresh = [node for node in touched if node not in known]
        self.keep(room, (*known, *fresh), len(fresh))
        return usd

    def with_room(self, room: PoolRoom) -> Sequence[ImaginedNode]:
        """The pool's nodes that still take something, in order."""
        return self._with_room.get(room.pool.ref, ())

    def occupy(self, nodes: Iterable[ImaginedNode], seconds: float, policy: str) -> None:
        """Workloads of the policy are on these nodes for so long."""
        for node in nodes:
            if policy not in node.policies:
                node.policies.add(policy)
                self._per_policy[policy] = self._per_policy.get(policy, 0) + 1
            node.busy_seconds = max(node.busy_seconds, seconds)

    def keep(self, room: PoolRoom, nodes: Iterable[ImaginedNode], fresh: int) -> None:
        """The pool's nodes after something was placed there, `fresh` of all it has had being new."""
        self._counts[room.pool.ref] = self._counts.get(room.pool.ref, 0) + fresh
        # Full nodes take nobody any more; forgetting them keeps packing cheap.
        self._with_room[room.pool.ref] = [node for node in nodes if has_room(room, node.bin)]
        self.version += 1

    def touched(self, room: PoolRoom, shape: Shape) -> Sequence[ImaginedNode]:
        """The nodes that the gang would be on if it were placed now; nothing changes."""
        takes, touched = self._pack(room, shape)
        undo(takes)
        return touched

    def add_idle(self, room: PoolRoom, seconds: float) -> Usd | None:
        """Count the pool's nodes that are there beyond those that workloads need: they are paid for `seconds` more,
        and are there to be used. To be called once, after all placed workloads are added."""
        ref = room.pool.ref
        extra = max(0, room.staying - self._counts.get(ref, 0))
        idle = [ImaginedNode(make_bin("idle", room.node_size, room.pool.labels), seconds) for _ in range(extra)]
        self._with_room[ref] = [*self._with_room.get(ref, []), *idle]
        self._counts[ref] = self._counts.get(ref, 0) + extra
        self.version += 1
        price = room.pool.reckoned_price
        return None if price is None else cost_usd(price.usd_per_hour, seconds) * extra

    def _pack(self, room: PoolRoom, shape: Shape) -> tuple[list[Take], list[ImaginedNode]]:
        """The gang taken onto imagined nodes, and those nodes in order."""
        known = self.with_room(room)
        opener = Opener(room.node_size, room.pool.labels, _NO_LIMIT)
        takes = pack(shape.pod_sets, (tuple(node.bin for node in known),), opener)
        if takes is None:
            # Some pod is larger than the pool's described node: one whole node for each pod.
            full = make_bin("full", Resources())
            return [], [ImaginedNode(full) for _ in range(shape.requests.pods)]
        taken = {id(take.bin) for take in takes}
        touched = [node for node in known if id(node.bin) in taken]
        touched += [ImaginedNode(bin_) for bin_ in opener.opened if id(bin_) in taken]
        return takes, touched


def added_nodes(touched: Iterable[ImaginedNode], policy: str) -> int:
    """How many of these nodes no workload of the policy has been on."""
    return sum(policy not in node.policies for node in touched)


def added_usd(price: Price | None, touched: Iterable[ImaginedNode], seconds: float) -> Usd | None:
    """What keeping these nodes busy for so long adds; None: nobody knows the price."""
    if price is None:
        return None
    rate = price.usd_per_hour
    return sum((cost_usd(rate, max(0.0, seconds - node.busy_seconds)) for node in touched), Decimal(0))


def has_room(room: PoolRoom, bin_: Bin) -> bool:
    """Whether an imagined node of the pool is worth remembering."""
    return bin_.gpus > 0 if room.node_size.gpus else bin_.cpu_milli > 0
