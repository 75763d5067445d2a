"""All offerings weighed for a class of workloads at once, by arrays; says what `Weigher.weigh` says one by one.

Rooms of one kind (see `table`) into which a gang fits equally cost the same, so one of them is priced and scored for
all. An objective therefore may not look at an offering's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from scheduler.engine import filters
from scheduler.engine.affordable import Affordable, ReasonCodes
from scheduler.engine.candidates import DEADLINE_MISSED, Weighed, Weigher, described, expected_end
from scheduler.engine.explain import MAX_ALTERNATIVES, MAX_REFUSED
from scheduler.engine.filling import Way
from scheduler.engine.filters import Ask, Offer
from scheduler.engine.rooms import Fit, PoolRoom, dominant_part
from scheduler.engine.table import Flags, Indices, RoomTable, Space, by_value, coded, countable
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
class Look:
    """The offerings as they are now for all classes of one shape and policy, whatever they cost."""

    codes: Indices
    """(J,) why each room is refused: a number for `Board.reasons`; 0: it is not."""
    space: Space
    likes: tuple[tuple[int, Indices], ...]
    """Rooms of one kind into which a gang fits equally: a number for how it does, and the rooms by name."""


@dataclass(frozen=True)
class View:
    """The offerings as they are now for one class."""

    rooms: Sequence[PoolRoom]
    codes: Indices
    """(J,) as in `Look`, money counted; the very same where it refuses nothing."""
    space: Space
    weighed: tuple[tuple[Weighed, Indices], ...]
    """One of the rooms into which a gang fits equally and at equal cost, and all of them by name."""

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """What is weighed, best first."""
        made = [Group(order_of(each, self.rooms[members[0]]), each, members) for each, members in self.weighed]
        return tuple(sorted(made, key=lambda group: group.order))

    @property
    def fitting(self) -> int:
        return sum(len(members) for _, members in self.weighed)


def order_of(weighed: Weighed, room: PoolRoom) -> Order:
    """`Weighed.order` of a room that `weighed` is like."""
    return (*weighed.rank, room.pool.ref)


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
        self._looks: dict[tuple[int, tuple[DataSet, ...]], tuple[int, Look]] = {}
        self._fits: dict[tuple[int, int, int], Fit] = {}
        self._priced: dict[tuple[int, int], Weighed] = {}
        self._kind_for: dict[tuple[DataSet, ...], Indices] = {}
        self._named: dict[tuple[int, int], Candidate] = {}
        self._refused: dict[tuple[int, int, int], Candidate] = {}
        self._refused_at: dict[tuple[int, int, int], Candidate] = {}
        self._first: dict[tuple[bytes, bytes, bytes], tuple[Candidate, ...]] = {}
        """By the first refused rooms, why each is, and new nodes for it."""
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
        look = self.look(ask)
        codes = look.codes
        found: list[tuple[Weighed, Indices]] = []
        for like, members in look.likes:
            weighed = self._price_like(ask, like, int(members[0]))
            refused, kept = self._refused_for_money(ask, weighed, members), members
            if refused is not None:
                codes = codes.copy() if codes is look.codes else codes
                codes[members] = refused
                kept = members[codes[members] == 0]
            if len(kept):
                found.append((weighed, kept))
        return View(self.table.rooms, codes, look.space, tuple(found))

    def _refused_for_money(self, ask: Ask, weighed: Weighed, members: Indices) -> Indices | int | None:
        """(members,) or for all of them: codes of why they are refused; None: none is."""
        if weighed.fit is None:
            return self._codes.of(weighed.candidate.refused)
        return None if self._affordable is None else self._affordable.refused(ask, weighed, members)

    def look(self, ask: Ask) -> Look:
        """What all classes of the shape and policy of this one share; made once for as long as no room changes."""
        key = ask.group, ask.workload.hints.data
        known = self._looks.get(key)
        if known is None or known[0] != self.table.changes:
            known = self._looks[key] = self.table.changes, self._look(ask)
        return known[1]

    def _look(self, ask: Ask) -> Look:
        space = self.table.space(ask.shape)
        codes = self._room_codes(ask, space, self._static_codes(ask))
        fitting = np.flatnonzero(codes == 0)
        likes = (self.kind(ask)[fitting] * _SPAN + space.new[fitting]) * _SPAN + space.existing[fitting]
        likes = 2 * likes + space.now[fitting]
        return Look(codes, space, tuple((like, fitting[at]) for like, at in by_value(likes)))

    def ends(self, ask: Ask, view: View) -> tuple[Instant | None, ...]:
        """By when a gang in each group will surely be done; None: nobody knows."""
        return tuple(expected_end(weighed, ask, self._world.now) for weighed, _ in view.weighed)

    def in_time(self, view: View, ends: tuple[Instant | None, ...], deadline: Instant) -> View:
        """As `candidates.in_time`: without the groups that miss the deadline, where another one meets it."""
        if not any(end is not None and end <= deadline for end in ends):
            return view
        late = [each for each, end in zip(view.weighed, ends, strict=True) if end is not None and end > deadline]
        if not late:
            return view
        codes, missed = view.codes.copy(), self._codes.of((DEADLINE_MISSED,))
        for _, members in late:
            codes[members] = missed
        kept = tuple(each for each, end in zip(view.weighed, ends, strict=True) if end is None or end <= deadline)
        return replace(view, codes=codes, weighed=kept)

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
            fit = self._fit_like(ask, like, number)
            offer = Offer(self.table.rooms[number], self._world.snapshot.bursting_paused, fit)
            known = self._priced[ask.number, like] = self._weigher.accepted(ask, offer)
        return known

    def _fit_like(self, ask: Ask, like: int, number: int) -> Fit:
        rest, existing = divmod(like // 2, _SPAN)
        key = ask.shape.number, self.table.kinds[number], like % (2 * _SPAN * _SPAN)
        known = self._fits.get(key)
        if known is None:
            part = dominant_part(ask.shape.pod_sets[0].requests, self.table.rooms[number].node_size)
            known = self._fits[key] = Fit(bool(like % 2), rest % _SPAN, part * existing)
        return known

    def order(self, weighed: Weighed, number: int) -> Order:
        """`Weighed.order` of the room, of which `weighed` is like."""
        return order_of(weighed, self.table.rooms[number])

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
        return (*fitting[:MAX_ALTERNATIVES], *self._first_refused(ask, view))

    def _first_refused(self, ask: Ask, view: View) -> tuple[Candidate, ...]:
        """Of the rooms by name."""
        there = np.flatnonzero(view.codes)[:MAX_REFUSED]
        codes, new = view.codes[there], view.space.new[there]
        key = there.tobytes(), codes.tobytes(), new.tobytes()
        known = self._first.get(key)
        if known is None:
            known = tuple(self._refused_candidate(ask, view, number) for number in there.tolist())
            if not any(self._is_for_price(code) for code in codes.tolist()):
                self._first[key] = known
        return known

    def _is_for_price(self, code: int) -> bool:
        """Whether what is told of a room that is refused so depends on what the class would cost there."""
        first = self.reasons[code][0].code
        return first in filters.MONEY_CODES or first == DEADLINE_MISSED.code

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
        if self._is_for_price(code):
            weighed = self.price(ask, number, self.way(view, number))
            return self._priced_refused(code, weighed, number)
        new = int(view.space.new[number]) if self.reasons[code][0].code in filters.ROOM_CODES else 0
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
