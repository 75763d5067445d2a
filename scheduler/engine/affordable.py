"""Which offerings budgets and limits on bought nodes forbid for a class, all at once.

As `Weigher` reckons it one by one, exactly. While no limit is near nobody has to reckon: a gang costs at most a new
node for each of its pods.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.engine.budgets import Account
from scheduler.engine.candidates import Weighed
from scheduler.engine.commitments import ImaginedNode, added_nodes, added_usd
from scheduler.engine.filters import Ask, Offer, burst_limit
from scheduler.engine.table import Flags, Indices, RoomTable
from scheduler.engine.world import World
from scheduler.model.ids import QueueId
from scheduler.model.money import Usd, cost_usd
from scheduler.model.verdict import Reason


class ReasonCodes:
    """Numbers for what a room is refused for, so that arrays can hold them; 0: nothing."""

    def __init__(self) -> None:
        self.reasons: list[tuple[Reason, ...]] = [()]
        """By number."""
        self._code_of: dict[tuple[Reason, ...], int] = {(): 0}

    def of(self, reasons: tuple[Reason, ...]) -> int:
        code = self._code_of.get(reasons)
        if code is None:
            code = self._code_of[reasons] = len(self.reasons)
            self.reasons.append(reasons)
        return code


@dataclass(slots=True, eq=False)
class _Charges:
    """What placing one gang of a class would add in each of the J rooms, where anybody has asked."""

    version: Indices
    """(J,) of the room, when it was reckoned."""
    seconds: npt.NDArray[np.float64]
    """(J,) for which it was reckoned."""
    usd: npt.NDArray[np.object_]
    """(J,) exact."""
    nodes: Indices
    """(J,) that no workload of the policy is on yet."""


class Affordable:
    """Made once a cycle, where money is tracked."""

    def __init__(self, world: World, table: RoomTable, codes: ReasonCodes) -> None:
        self._world = world
        self._table = table
        self._codes = codes
        self._accounts: dict[QueueId, list[tuple[Account, Flags]]] = {}
        self._bounds: dict[int, tuple[float, Usd]] = {}
        self._charges: dict[int, _Charges] = {}
        self._touched: dict[tuple[int, int], tuple[int, tuple[ImaginedNode, ...]]] = {}

    def refused(self, ask: Ask, weighed: Weighed, members: Indices) -> Indices | None:
        """(members,) codes of why each of these rooms, all like the one in `weighed`, is refused, 0: it is not; None:
        none is."""
        if not weighed.room.pool.bought:
            return None
        seconds, bound = self._bound(ask, weighed)
        near = [each for each in self._accounts_of(ask.queue) if bound > each[0].left]
        rule, in_use = ask.policy.burst, self._world.commitments.nodes_in_use(ask.policy.name)
        most = None if rule is None else rule.max_nodes
        full = most is not None and in_use + _most_nodes(ask) > most
        if not full and not any(covered[members].any() for _, covered in near):
            return None
        charges = self._charge(ask, seconds, members)
        usd, codes = charges.usd[members], np.zeros(len(members), dtype=np.int64)
        for account, covered in reversed(near):
            over = covered[members] & (usd > account.left).astype(bool)
            if over.any():
                codes[over] = self._codes.of((account.over,))
        if most is not None and full:
            over = in_use + charges.nodes[members] > most
            if over.any():
                # Its words are the same for all.
                reason = burst_limit(ask, Offer(weighed.room, False, policy_nodes=most + 1))
                assert reason is not None
                codes[over] = self._codes.of((reason,))
        return codes if codes.any() else None

    def _bound(self, ask: Ask, weighed: Weighed) -> tuple[float, Usd]:
        """For how long a gang keeps its nodes paid for, and what that costs at most."""
        # The weighings are all kept, so that no two have one id.
        known = self._bounds.get(id(weighed))
        if known is None:
            price = weighed.room.pool.price
            assert price is not None, "bought pools of unknown price are refused before"
            seconds = self._world.busy_seconds(ask.workload, weighed.room, weighed.prediction)
            known = seconds, cost_usd(price.usd_per_hour, seconds) * _most_nodes(ask)
            self._bounds[id(weighed)] = known
        return known

    def _accounts_of(self, queue: QueueId) -> list[tuple[Account, Flags]]:
        """The budgets that count what the queue costs, each with (J,) where."""
        known = self._accounts.get(queue)
        if known is None:
            pools = [room.pool for room in self._table.rooms]
            known = self._accounts[queue] = [
                (each, np.array([each.covers_place(one.ref.cluster, one.capacity_type) for one in pools], dtype=bool))
                for each in self._world.budgets.accounts
                if each.covers_queue(queue)
            ]
        return known

    def _charge(self, ask: Ask, seconds: float, members: Indices) -> _Charges:
        """The charges of the class, with those of `members` as they are now."""
        known = self._charges.get(ask.number)
        if known is None:
            many = len(self._table.rooms)
            known = self._charges[ask.number] = _Charges(
                np.full(many, -1, dtype=np.int64),
                np.zeros(many),
                np.full(many, None, dtype=np.object_),
                np.zeros(many, dtype=np.int64),
            )
        versions = self._table.versions[members]
        stale = members[(known.version[members] != versions) | (known.seconds[members] != seconds)]
        for number in stale.tolist():
            nodes = self._nodes(ask, number)
            known.usd[number] = added_usd(self._table.rooms[number].pool.price, nodes, seconds)
            known.nodes[number] = added_nodes(nodes, ask.policy.name)
        known.version[members], known.seconds[members] = versions, seconds
        return known

    def _nodes(self, ask: Ask, number: int) -> tuple[ImaginedNode, ...]:
        """The imagined nodes that a gang would be on."""
        room, key = self._table.rooms[number], (ask.shape.number, number)
        known = self._touched.get(key)
        if known is None or known[0] != room.version:
            nodes = tuple(self._world.commitments.touched(room, ask.shape))
            known = self._touched[key] = room.version, nodes
        return known[1]


def _most_nodes(ask: Ask) -> int:
    """That a gang of one pod set takes: one for each pod."""
    return max(ask.shape.pod_sets[0].count, ask.shape.requests.pods)
