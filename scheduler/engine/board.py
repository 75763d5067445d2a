"""All offerings weighed for a class of workloads at once, by arrays; says what `Weigher.weigh` says one by one.

Rooms of one kind (see `table`) into which a gang fits equally cost the same, so one of them is priced and scored for
all. An objective therefore may not look at an offering's name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from scheduler.engine import filters
from scheduler.engine.affordable import Affordable, ReasonCodes
from scheduler.engine.candidates import DEADLINE_MISSED, Weighed, Weigher, described, expected_end
from scheduler.engine.explain import MAX_ALTERNATIVES, MAX_REFUSED
from scheduler.engine.filling import Way
from scheduler.engine.filters import Ask, Offer
from scheduler.engine.rooms import Fit, dominant_part
from scheduler.engine.table import Flags, Indices, RoomTable, Space, coded, countable
from scheduler.engine.transfer import transfer
from scheduler.engine.world import World
from scheduler.model.ids import Instant
from scheduler.model.plan import Candidate
from scheduler.model.verdict import Reason
from scheduler.model.workload import DataSet

Order = tuple[object, ...]
_SPAN = 1 << 20
"""More pods than a gang has, and more nodes than are bought for one."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rooms into which a gang of the class fits equally and at equal cost, in order of their names."""

    order: Order
    """Of the first of them; see `Weighed.order`."""
    weighed: Weighed
    """Of one of them."""
    members: Indices


@dataclass(frozen=True, slots=True)
class View:
    """The offerings as they are now for one class."""

    groups: tuple[Group, ...]
    """Best first."""
    codes: Indices
    """(J,) why each room is refused: a number for `Board.reasons`; 0: it is not."""
    space: Space
    fitting: int


class Board:
    """One for a cycle. Only for classes whose shape is `countable`."""

    def __init__(self, world: World, weigher: Weigher, table: RoomTable) -> None:
        self._world = world
        self._weigher = weigher
        self.table = table
        self._codes = ReasonCodes()
        self.reasons = self._codes.reasons
        self._static: dict[tuple[object, ...], Indices] = {}
        self._static_of: dict[int, Indices] = {}
        self._priced: dict[tuple[int, int], Weighed] = {}
        self._kind_for: dict[tuple[DataSet, ...], Indices] = {}
        self._named: dict[tuple[int, int], Candidate] = {}
        self._refused: dict[tuple[int, int, int], Candidate] = {}
        self._refused_at: dict[tuple[int, int, int], Candidate] = {}
        self._last: tuple[tuple[int, int, int], View] | None = None
        self._affordable = Affordable(world, table, self._codes) if world.tracks_money else None

    @staticmethod
    def suits(ask: Ask) -> bool:
        """Whether arrays can speak for the class."""
        return countable(ask.shape)

    def suitable(self, ask: Ask) -> Flags:
        """(J,) the rooms that, as they are, may be for the class, whatever they have free."""
        suitable: Flags = self._static_codes(ask) == 0
        return suitable

    def view(self, ask: Ask) -> View:
        """Every room weighed for the class, as it is now."""
        # Who has just been told that nothing fits asks once more for the reasons.
        stamp = ask.number, self.table.changes, self._world.commitments.version
        if self._last is None or self._last[0] != stamp:
            self._last = stamp, self._weighed(ask)
        return self._last[1]

    def _weighed(self, ask: Ask) -> View:
        space = self.table.space(ask.shape)
        codes = self._room_codes(ask, space, self._static_codes(ask))
        fitting = np.flatnonzero(codes == 0)
        likes = (self.kind(ask)[fitting] * _SPAN + space.new[fitting]) * _SPAN + space.existing[fitting]
        likes = 2 * likes + space.now[fitting]
        groups: list[Group] = []
        for like in dict.fromkeys(likes.tolist()):
            members = fitting[likes == like]
            weighed = self._price_like(ask, like, int(members[0]))
            if weighed.fit is None:
                codes[members] = self._codes.of(weighed.candidate.refused)
                continue
            refused = None if self._affordable is None else self._affordable.refused(ask, weighed, members)
            if refused is not None:
                codes[members] = refused
                members = members[refused == 0]
                if not len(members):
                    continue
            groups.append(Group(self.order(weighed, int(members[0])), weighed, members))
        groups.sort(key=lambda group: group.order)
        return View(tuple(groups), codes, space, sum(len(group.members) for group in groups))

    def ends(self, ask: Ask, view: View) -> tuple[Instant | None, ...]:
        """By when a gang in each group will surely be done; None: nobody knows."""
        return tuple(expected_end(group.weighed, ask, self._world.now) for group in view.groups)

    def in_time(self, view: View, ends: tuple[Instant | None, ...], deadline: Instant) -> View:
        """As `candidates.in_time`: without the groups that miss the deadline, where another one meets it."""
        if not any(end is not None and end <= deadline for end in ends):
            return view
        late = [group for group, end in zip(view.groups, ends, strict=True) if end is not None and end > deadline]
        if not late:
            return view
        codes, missed = view.codes.copy(), self._codes.of((DEADLINE_MISSED,))
        for group in late:
            codes[group.members] = missed
        kept = tuple(group for group, end in zip(view.groups, ends, strict=True) if end is None or end <= deadline)
        return View(kept, codes, view.space, sum(len(group.members) for group in kept))

    def price(self, ask: Ask, number: int, way: Way) -> Weighed:
        """What placing the gang so would be, whatever budgets are left; refused when its cost alone forbids it. Equal
        for rooms of one kind but for the name, which is that of whichever was asked for first."""
        kind = self.table.kinds[number] if not ask.workload.hints.data else int(self.kind(ask)[number])
        like = (kind * _SPAN + way.new_nodes) * _SPAN + way.existing
        return self._price_like(ask, 2 * like + way.now, number)

    def kind(self, ask: Ask) -> Indices:
        """(J,) rooms of one kind to the class: those of the table, apart by how far from its data they lie."""
        data = ask.workload.hints.data
        if not data:
            return self.table.kind
        known = self._kind_for.get(data)
        if known is None:
            moved = {each.id: transfer(data, each) for each in self._world.clusters}
            rooms = zip(self.table.kinds, self.table.rooms, strict=True)
            known = self._kind_for[data] = coded((kind, moved[room.cluster.id]) for kind, room in rooms)
        return known

    def _price_like(self, ask: Ask, like: int, number: int) -> Weighed:
        known = self._priced.get((ask.number, like))
        if known is None:
            rest, existing = divmod(like // 2, _SPAN)
            part = dominant_part(ask.shape.pod_sets[0].requests, self.table.rooms[number].node_size)
            fit = Fit(bool(like % 2), rest % _SPAN, part * existing)
            offer = Offer(self.table.rooms[number], self._world.snapshot.bursting_paused, fit)
            known = self._priced[ask.number, like] = self._weigher.accepted(ask, offer)
        return known

    def order(self, weighed: Weighed, number: int) -> Order:
        """`Weighed.order` of the room, of which `weighed` is like."""
        return (*weighed.order[:4], self.table.rooms[number].pool.ref)

    def forbidden(self, ask: Ask, number: int, way: Way) -> bool:
        """Whether the room, as it is now, may not be used in such a way."""
        fit = Fit(way.now, way.new_nodes, Fraction(0))
        offer = Offer(self.table.rooms[number], self._world.snapshot.bursting_paused, fit)
        return filters.first_reason(filters.ROOM, ask, offer) is not None

    def way(self, view: View, number: int) -> Way:
        """How the gang would go into the room."""
        space = view.space
        return Way(bool(space.now[number]), int(space.new[number]), int(space.existing[number]))

    def candidate(self, weighed: Weighed, number: int) -> Candidate:
        """What is told of a room that is like the one in `weighed`."""
        # The weighings are all kept, so that no two have one id.
        known = self._named.get((id(weighed), number))
        if known is None:
            ref = self.table.rooms[number].pool.ref
            known = self._named[id(weighed), number] = replace(weighed.candidate, pool=ref)
        return known

    def others(self, ask: Ask, view: View, chosen: int | None) -> tuple[Candidate, ...]:
        """As `explain.others`: the best other offerings, then the first refused ones."""
        best: list[tuple[Order, Weighed, int]] = []
        for group in view.groups:
            if len(best) > MAX_ALTERNATIVES and group.order > sorted(each[0] for each in best)[MAX_ALTERNATIVES]:
                break
            nearest = group.members[: MAX_ALTERNATIVES + 1].tolist()
            best += [(self.order(group.weighed, number), group.weighed, number) for number in nearest]
        best.sort(key=lambda each: each[0])
        fitting = [self.candidate(weighed, number) for _, weighed, number in best if number != chosen]
        refused = np.flatnonzero(view.codes)[:MAX_REFUSED].tolist()
        return (*fitting[:MAX_ALTERNATIVES], *(self._refused_candidate(ask, view, number) for number in refused))

    def histogram(self, view: View) -> tuple[tuple[Reason, int], ...]:
        """As `explain.refusals`."""
        counted: dict[Reason, int] = {}
        for code, count in enumerate(np.bincount(view.codes).tolist()):
            if code and count:
                first = self.reasons[code][0]
                counted[first] = counted.get(first, 0) + count
        return tuple(sorted(counted.items(), key=lambda item: (-item[1], item[0])))

    def codes(self, view: View) -> frozenset[str]:
        """The codes of all reasons of all rooms."""
        there = np.flatnonzero(np.bincount(view.codes)).tolist()
        return frozenset(reason.code for code in there for reason in self.reasons[code])

    # -- why not -----------------------------------------------------------------------------------------------

    def _static_codes(self, ask: Ask) -> Indices:
        """(J,) why each room, as it is, is not for the class."""
        known = self._static_of.get(ask.group)
        if known is not None:
            return known
        holds = self.table.holds_one(ask.shape)
        avoids = ask.workload.hints.avoided_pools
        asked = (ask.policy.name, ask.burst_matches, ask.shape.gpus > 0, ask.shape.gpu_models, avoids)
        selectors = tuple(each.node_selector for each in ask.shape.pod_sets)
        known = np.where(
            holds,
            self._static_part(ask, (*asked, selectors), holds, True),
            self._static_part(ask, (*asked, selectors), holds, False),
        )
        self._static_of[ask.group] = known
        return known

    def _static_part(self, ask: Ask, key: tuple[object, ...], holds: Flags, held: bool) -> Indices:
        """(J,) codes for the rooms that do (or do not) hold a single pod; -1 where nobody has asked yet.

        Beyond that the static filters look only at what `key` says of the class.
        """
        part = self._static.setdefault((*key, held), np.full(len(holds), -1, dtype=np.int64))
        for number in np.flatnonzero((part < 0) & (holds == held)).tolist():
            part[number] = self._codes.of(self._weigher.static_reasons(ask, self.table.rooms[number]))
        return part

    def _room_codes(self, ask: Ask, space: Space, static: Indices) -> Indices:
        """(J,) the first of the filters of `filters.ROOM` that refuses each room which is not refused already."""
        table, none = self.table, ~space.fits
        rule, nowhere = ask.policy.burst, np.zeros(len(none), dtype=bool)
        refusing: dict[filters.Filter, Flags] = {
            filters.burst_paused: table.bought if self._world.snapshot.bursting_paused else nowhere,
            filters.no_room_now: none & ~table.managed,
            filters.pool_not_resizable: none & ~table.growable,
            filters.backed_off: table.backed_off & ~space.now,
            filters.pool_at_max: none,
            filters.burst_waiting: nowhere if rule is None or ask.waited else table.bought & (space.new > 0),
        }
        codes, open_ = static.copy(), static == 0
        for each in reversed(filters.ROOM):
            refused = np.flatnonzero(refusing[each] & open_)
            if len(refused):
                codes[refused] = self._room_code(each, ask, int(refused[0]), space)
        return codes

    def _room_code(self, refusing: filters.Filter, ask: Ask, number: int, space: Space) -> int:
        """What the filter says of all rooms that it refuses: its words are the same for each."""
        fit = Fit(bool(space.now[number]), int(space.new[number]), Fraction(0)) if space.fits[number] else None
        reason = refusing(ask, Offer(self.table.rooms[number], self._world.snapshot.bursting_paused, fit))
        assert reason is not None
        return self._codes.of((reason,))

    def _refused_candidate(self, ask: Ask, view: View, number: int) -> Candidate:
        code = int(view.codes[number])
        first = self.reasons[code][0].code
        if first in filters.MONEY_CODES or first == DEADLINE_MISSED.code:
            weighed = self.price(ask, number, self.way(view, number))
            return self._priced_refused(code, weighed, number)
        new = int(view.space.new[number]) if first in filters.ROOM_CODES else 0
        known = self._refused.get((number, code, new))
        if known is None:
            fit = Fit(False, new, Fraction(0))
            known = described(Offer(self.table.rooms[number], False, fit), self.reasons[code])
            self._refused[number, code, new] = known
        return known

    def _priced_refused(self, code: int, weighed: Weighed, number: int) -> Candidate:
        """Of a room that is refused for what it would cost, by its price alone or by a budget or limit, or as late."""
        told = self.candidate(weighed, number)
        if weighed.fit is None:
            return told
        known = self._refused_at.get((id(weighed), number, code))
        if known is None:
            known = replace(told, score=None, refused=self.reasons[code])
            self._refused_at[id(weighed), number, code] = known
        return known
