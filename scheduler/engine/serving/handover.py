"""From what runs to where it is to go, make before break: what is asked for now, by pool and revision.

What is missing is asked for at once. What is too much goes in small steps, the dearest first, and only while what is
ready without it carries the need. A cluster that does not answer serves nobody: nothing is waited for there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from scheduler.engine.serving.capacity import Rated, carried
from scheduler.engine.serving.question import ROUNDING, Question
from scheduler.engine.serving.slots import Slot, SlotCounts, by_pool
from scheduler.model.ids import ClusterId, PoolRef


@dataclass(frozen=True, slots=True)
class Handover:
    asked: dict[Slot, int]
    waiting: tuple[ClusterId, ...]
    """Clusters where replicas stay until others are ready."""


def hand_over(
    question: Question, target: SlotCounts, have: SlotCounts, ready: SlotCounts, need: float, counted: Collection[str]
) -> Handover:
    """Replicas to ask for now. `have`: asked for until now; `ready`: ready and warm; `need`: requests per second that
    must be carried all the time; `counted`: the revisions on which that may rest."""
    rated = {one.offer.pool: one for one in question.rated}
    asked = {slot: _at_first(slot, rated, target, have, ready) for slot in sorted({*have, *target})}
    counting = _Counting(question, ready, counted)
    steps = max(1, int(question.slo.scaling.down_step * sum(ready.values())))
    waiting: set[ClusterId] = set()
    too_many = (slot for slot in asked if asked[slot] > target.get(slot, 0))
    for slot in sorted(too_many, key=lambda slot: _order(question, rated, slot, counting)):
        unwanted = not counting.counts(slot)
        while asked[slot] > target.get(slot, 0) and (unwanted or steps > 0):
            fewer = {**asked, slot: asked[slot] - 1}
            if not counting.enough(fewer, asked, need, unwanted=unwanted):
                waiting.add(slot.pool.cluster)
                break
            asked, steps = fewer, steps if unwanted else steps - 1
    _make_room(question, asked, target)
    return Handover({slot: count for slot, count in asked.items() if count > 0}, tuple(sorted(waiting)))


def beside_leaving(question: Question, handover: Handover, target: SlotCounts, leaving: SlotCounts) -> Handover:
    """With one more for each replica that is to stay and whose node is being taken back, so that it starts before the
    other ends: its own controller would start one only then. As far as there is room."""
    asked = dict(handover.asked)
    top = question.slo.scaling.max_replicas
    for slot, count in sorted(leaving.items()):
        room = sum(max(0, one.offer.most_replicas) for one in question.rated if one.offer.pool == slot.pool)
        room -= sum(number for other, number in asked.items() if other.pool == slot.pool)
        if top is not None:
            room = min(room, top - sum(asked.values()))
        wanted = target.get(slot, 0)
        more = min(wanted + count - asked.get(slot, 0), room) if wanted > 0 else 0
        if more > 0:
            asked[slot] = asked.get(slot, 0) + more
    return replace(handover, asked=asked)


def _make_room(question: Question, asked: dict[Slot, int], target: SlotCounts) -> None:
    """A pool that is full takes nothing new before something old has gone: there make before break cannot be."""
    for one in question.rated:
        here = sorted(slot for slot in asked if slot.pool == one.offer.pool)
        over = sum(asked[slot] for slot in here) - max(0, one.offer.most_replicas)
        for slot in here:
            gone = min(max(0, over), asked[slot] - target.get(slot, 0))
            if gone > 0 and one.offer.open:
                asked[slot] -= gone
                over -= gone


def _at_first(
    slot: Slot, rated: Mapping[PoolRef, Rated], target: SlotCounts, have: SlotCounts, ready: SlotCounts
) -> int:
    """What is missing, and of what is too much only what is ready: the rest serves nobody."""
    one, wanted = rated.get(slot.pool), target.get(slot, 0)
    if one is not None and not one.offer.reachable:
        return wanted
    return max(wanted, min(have.get(slot, 0), ready.get(slot, 0)))


@dataclass(frozen=True, slots=True)
class _Counting:
    question: Question
    ready: SlotCounts
    revisions: Collection[str]

    def counts(self, slot: Slot) -> bool:
        """Whether its replicas count as capacity: not where nothing may be added, nor those of other revisions."""
        if slot.revision not in self.revisions:
            return False
        return any(one.offer.pool == slot.pool and one.offer.open for one in self.question.rated)

    def enough(self, asked: SlotCounts, before: SlotCounts, need: float, *, unwanted: bool) -> bool:
        """Whether what is ready and stays carries the need (or, of what counts, as much as it did), and no failure
        domain is emptied."""
        left, now = self._serving(asked), self._serving(before)
        carries = carried(self.question.rated, left)
        if carries + ROUNDING < need and (unwanted or carries + ROUNDING < carried(self.question.rated, now)):
            return False
        count = sum(left.values())
        if count < self.question.least_replicas and (unwanted or count < sum(now.values())):
            return False
        return self.question.domains_short(left) <= self.question.domains_short(now)

    def _serving(self, asked: SlotCounts) -> dict[PoolRef, int]:
        """Ready replicas that stay, and count."""
        found = {slot: min(count, asked.get(slot, 0)) for slot, count in self.ready.items() if self.counts(slot)}
        return {pool: count for pool, count in by_pool(found).items() if count > 0}


def _order(
    question: Question, rated: Mapping[PoolRef, Rated], slot: Slot, counting: _Counting
) -> tuple[int, float, Slot]:
    """Those on which nobody counts first, then the dearest for what they carry."""
    one = rated.get(slot.pool)
    if one is None or not counting.counts(slot):
        return 0, 0.0, slot
    return 1, -question.usd_per_hour(one) / question.weight(one), slot
