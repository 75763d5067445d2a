"""Equal gangs counted against budgets and limits on bought nodes, one after another, as `World.commit` counts each.

`Commitments.add` looks at every imagined node of a pool for every gang. Here they are looked at once, and kept in the
order in which the packer would choose them (see `filling`). Only for gangs of one pod set.
"""

from __future__ import annotations

from decimal import Decimal

from scheduler.engine.commitments import ImaginedNode, added_nodes, added_usd, has_room
from scheduler.engine.filling import Line
from scheduler.engine.filters import Ask
from scheduler.engine.packing import make_bin
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.world import World
from scheduler.model.money import Usd
from scheduler.model.resources import Resources


class Tally:
    """Gangs of one class on their way into one bought pool. `allowed` and `commit` in turn; `close` ends it."""

    def __init__(self, world: World, ask: Ask, room: PoolRoom) -> None:
        self._commitments = world.commitments
        self._room = room
        self._pod_set = ask.shape.pod_sets[0]
        self._pods = ask.shape.requests.pods
        self._policy = ask.policy.name
        rule = ask.policy.burst
        self._most_nodes = None if rule is None else rule.max_nodes
        self._accounts = world.budgets.covering(ask.queue, room.pool)
        self._nodes = list(world.commitments.with_room(room))
        self._known = len(self._nodes)
        self._unseen = 0
        """Nodes that are full as soon as they are imagined."""
        self._takes: list[tuple[int, int]] = []
        self._line = Line([node.bin for node in self._nodes], self._pod_set, self._takes)
        fresh = make_bin("fresh", room.node_size, room.pool.labels)
        self._per_new = (
            fresh.room_for(self._pod_set.requests, self._pod_set.count) if fresh.admits(self._pod_set) else 0
        )
        self._next: tuple[list[ImaginedNode], float, Usd] = ([], 0.0, Decimal(0))
        """Nodes that the next gang is on, for how long, and what that adds."""
        self._packed = False
        """Whether it is on them already."""

    def allowed(self, seconds: float, most: int) -> int:
        """How many of the next gangs, `most` at most, may be placed for `seconds` each and share one node, so that only
        the first of them adds to anything; 0: money forbids the next one, and nothing more may be asked."""
        whole = self._line.next_whole()
        if whole is None:
            return self._allowed_spread(seconds)
        index, count = whole
        self._packed = False
        return min(most, count) if self._may_take([self._nodes[index]], seconds) else 0

    def commit(self, count: int) -> None:
        """So many of those that were allowed have been placed."""
        nodes, seconds, usd = self._next
        if not self._packed:
            self._line.fill_whole(count)
        self._takes.clear()
        self._commitments.occupy(nodes, seconds, self._policy)
        for account in self._accounts:
            account.committed += usd

    def close(self) -> None:
        """What was placed counts for everybody else."""
        self._commitments.keep(self._room, self._nodes, len(self._nodes) - self._known + self._unseen)

    def _may_take(self, nodes: list[ImaginedNode], seconds: float) -> bool:
        """Whether no limit is broken by a gang on these nodes. Pools of unknown price do not come this far."""
        usd = added_usd(self._room.pool.price, nodes, seconds) or Decimal(0)
        self._next = nodes, seconds, usd
        if self._most_nodes is not None:
            in_use = self._commitments.nodes_in_use(self._policy)
            if in_use + added_nodes(nodes, self._policy) > self._most_nodes:
                return False
        return all(usd <= account.left for account in self._accounts)

    def _allowed_spread(self, seconds: float) -> int:
        """The next gang is on several nodes, or on a new one: it is packed at once, and taken back if it may not be."""
        self._packed = True
        pod = self._pod_set.requests
        left = self._line.fill(self._pod_set.count) if self._per_new else self._pods
        touched = [self._nodes[index] for index, _ in self._takes]
        fresh = self._opened(left)
        if not self._may_take([*touched, *fresh], seconds):
            for index, pods in self._takes:
                self._nodes[index].bin.take(pod, -pods)
            return 0
        for node in fresh:
            if has_room(self._room, node.bin):
                self._nodes.append(node)
                self._line.append(len(self._nodes) - 1, node.bin)
            else:
                self._unseen += 1
        return 1

    def _opened(self, left: int) -> list[ImaginedNode]:
        """New nodes with so many pods on them; of pods that no node of the pool holds, each takes a whole one."""
        fresh: list[ImaginedNode] = []
        size = self._room.node_size if self._per_new else Resources()
        while left:
            node = ImaginedNode(make_bin("new", size, self._room.pool.labels))
            pods = min(left, self._per_new or 1)
            if self._per_new:
                node.bin.take(self._pod_set.requests, pods)
            left -= pods
            fresh.append(node)
        return fresh
