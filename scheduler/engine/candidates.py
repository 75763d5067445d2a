"""Offerings weighed for a workload: filtered, predicted, priced and scored. Equal workloads share the weighing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property, partial
from typing import NamedTuple

from policies.objectives import load_objective
from scheduler.engine import filters
from scheduler.engine.deadlines import deadline_of, late_factor
from scheduler.engine.filters import Ask, Offer
from scheduler.engine.rooms import Fit, PoolRoom
from scheduler.engine.world import World
from scheduler.model.ids import Instant, PoolRef
from scheduler.model.money import Usd
from scheduler.model.plan import Candidate
from scheduler.model.ports import Prediction
from scheduler.model.verdict import Reason
from scheduler.model.workload import Workload

DEADLINE_MISSED = Reason("DeadlineMissed", "too late for the deadline")


@dataclass(frozen=True, eq=False)
class Weighed:
    """An offering as it is for a class of workloads; `fit` is None when it is refused."""

    room: PoolRoom
    fit: Fit | None
    prediction: Prediction
    tell: Callable[[], Candidate]
    """Makes the candidate: of most of what is weighed nobody asks for exact money and a score."""

    @cached_property
    def candidate(self) -> Candidate:
        """For people to read, and for objectives to compare."""
        return self.tell()

    @cached_property
    def rank(self) -> tuple[bool, float, bool, Usd]:
        """Best first: by score (unknown last), then price (unknown last)."""
        score, price = self.candidate.score, self.candidate.usd_per_hour
        return score is None, score or 0.0, price is None, price or Decimal(0)

    @property
    def order(self) -> tuple[bool, float, bool, Usd, PoolRef]:
        """The same, then by name."""
        return (*self.rank, self.candidate.pool)


class _Charge(NamedTuple):
    """What placing would add to the commitments."""

    usd: Usd | None
    policy_nodes: int


class _Known(NamedTuple):
    """A weighing, good until the room (or, for what is charged, the money) changes."""

    room_version: int
    money_version: int
    weighed: Weighed
    accepted: Weighed
    """As it would be if no budget and no limit on bought nodes refused it."""
    offer: Offer
    charge: _Charge | None


class Weigher:
    """Weighs every pool for a class of workloads, again only where something has changed since."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._static_number: dict[tuple[str, int, bool, tuple[PoolRef, ...]], int] = {}
        self._screened: dict[tuple[int, int], tuple[int, Weighed | Offer]] = {}
        self._known: dict[tuple[int, int], _Known] = {}
        """By class and room; the rooms are there for as long as this is."""

    def weigh(self, ask: Ask, *, owned: bool = False) -> list[Weighed]:
        """Every pool (`owned`: that is not bought) in order of its name, refused ones included."""
        return [self._weigh(ask, room) for room in (self._world.owned if owned else self._world.rooms.values())]

    def fits_somewhere(self, ask: Ask) -> bool:
        """Whether any pool has room for it and may be used; weighs no more than it must."""
        return any(self._weigh(ask, room).fit is not None for room in self._world.rooms.values())

    def starts_in(self, ask: Ask, pools: Iterable[PoolRef]) -> bool:
        """Whether any of these pools has room for it now, on nodes that are there, and may be used."""
        fits = (self._weigh(ask, self._world.rooms[pool]).fit for pool in pools)
        return any(fit is not None and fit.now for fit in fits)

    def static_reasons(self, ask: Ask, room: PoolRoom) -> tuple[Reason, ...]:
        """Why the pool, as it is, is not for such workloads, whatever its room; empty: it may be."""
        avoids = ask.workload.hints.avoided_pools
        key = (ask.policy.name, ask.shape.number, ask.burst_matches, avoids)
        number = self._static_number.get(key)
        if number is None:
            # The shape's number is of this cycle; the pods themselves last longer.
            lasting = (ask.policy.name, ask.shape.pod_sets, ask.burst_matches, avoids)
            number = self._static_number[key] = self._world.static_numbers[lasting]
        known = room.static.get(number)
        if known is None:
            known = room.static[number] = filters.all_reasons(filters.STATIC, ask, Offer(room, False))
        return known

    def priced(self, ask: Ask, offer: Offer) -> Weighed:
        """What the gang costs where it fits; refused when that alone forbids it."""
        return self._checked(ask, self._price(ask, offer))

    def accepted(self, ask: Ask, offer: Offer) -> Weighed:
        """The same without a look at budgets and at how many nodes may be bought."""
        offer = self._priced(ask, offer)
        reason = filters.first_reason(filters.MONEY, ask, offer)
        return _accepted(ask, offer) if reason is None else _refused(offer, (reason,))

    def _weigh(self, ask: Ask, room: PoolRoom) -> Weighed:
        key = (ask.number, id(room))
        money = self._world.commitments.version
        known = self._known.get(key)
        if known is not None and known.room_version == room.version:
            if known.charge is None or known.money_version == money:
                return known.weighed
            known = known._replace(money_version=money, weighed=self._checked(ask, known))
            self._known[key] = known
            return known.weighed
        screened = self._screen(ask, room)
        if isinstance(screened, Weighed):
            return screened
        known = self._price(ask, screened)
        weighed = self._checked(ask, known)
        if weighed is not known.weighed:
            known = known._replace(weighed=weighed)
        self._known[key] = known
        return weighed

    def _screen(self, ask: Ask, room: PoolRoom) -> Weighed | Offer:
        """Refused for what the pool is or has now, or how the gang fits; the same for the whole group."""
        key = (ask.group, id(room))
        known = self._screened.get(key)
        if known is not None and known[0] == room.version:
            return known[1]
        screened = self._look(ask, room)
        self._screened[key] = (room.version, screened)
        return screened

    def _look(self, ask: Ask, room: PoolRoom) -> Weighed | Offer:
        reasons = self.static_reasons(ask, room)
        if reasons:
            return _refused(Offer(room, False), reasons)
        fit = room.fit(ask.shape, grow=False)
        if fit is None and room.growable:
            fit = room.fit(ask.shape, grow=True)
        offer = Offer(room, self._world.snapshot.bursting_paused, fit)
        reason = filters.first_reason(filters.ROOM, ask, offer)
        return offer if reason is None else _refused(offer, (reason,))

    def _priced(self, ask: Ask, offer: Offer) -> Offer:
        room, fit = offer.room, offer.fit
        assert fit is not None
        return Offer(room, offer.paused, fit, self._world.predict(ask.workload, room, fit.new_nodes), priced=True)

    def _price(self, ask: Ask, offer: Offer) -> _Known:
        """Predicted and priced; `weighed` is still without a look at the money."""
        world, offer = self._world, self._priced(ask, offer)
        accepted = _accepted(ask, offer)
        charge = self._charge(ask, offer.room, offer.prediction) if world.tracks_money else None
        return _Known(offer.room.version, world.commitments.version, accepted, accepted, offer, charge)

    def _charge(self, ask: Ask, room: PoolRoom, prediction: Prediction) -> _Charge | None:
        """Of the nodes, where they are bought, and of bringing the data there; None: neither costs anything."""
        world, data_usd = self._world, prediction.transfer_usd
        if not room.pool.bought:
            return _Charge(data_usd, 0) if data_usd else None
        seconds = world.busy_seconds(ask.workload, room, prediction)
        usd, nodes = world.commitments.charge(room, ask.shape, seconds, ask.policy.name)
        return _Charge(usd + data_usd if usd is not None and data_usd else usd, nodes)

    def _checked(self, ask: Ask, known: _Known) -> Weighed:
        """As accepted, unless cost cap, bought nodes or a budget refuse it."""
        offer, charge = known.offer, known.charge
        if charge is not None:
            # Bought pools of unknown price do not come this far: `price_unknown` refuses them.
            ledger, pool = self._world.budgets, offer.room.pool
            over_budget = None if charge.usd is None else ledger.refusal(ask.queue, pool, charge.usd)
            in_use = self._world.commitments.nodes_in_use(ask.policy.name)
            offer = offer._replace(policy_nodes=in_use + charge.policy_nodes, over_budget=over_budget)
        reason = filters.first_reason(filters.MONEY, ask, offer)
        return known.accepted if reason is None else _refused(offer, (reason,))


def in_time(weighed: list[Weighed], workload: Workload, ask: Ask, now: Instant) -> list[Weighed]:
    """Refuses those that miss the workload's deadline while another meets it; an unknown end is no miss."""
    deadline = deadline_of(workload, ask)
    if deadline is None:
        return weighed
    ends = [expected_end(each, ask, now) for each in weighed]
    if not any(end is not None and end <= deadline for end in ends):
        return weighed
    return [
        Weighed(each.room, None, each.prediction, partial(_late, each)) if end is not None and end > deadline else each
        for each, end in zip(weighed, ends, strict=True)
    ]


def expected_end(weighed: Weighed, ask: Ask, now: Instant) -> Instant | None:
    """When it would be done, as surely as the policy asks; None: refused already, or unknown."""
    start, run = weighed.prediction.start_seconds, weighed.prediction.run_seconds
    if weighed.fit is None or start is None or run is None:
        return None
    return now + start + run * late_factor(weighed.prediction, ask) + weighed.prediction.lost_seconds


def _accepted(ask: Ask, offer: Offer) -> Weighed:
    return Weighed(offer.room, offer.fit, offer.prediction, partial(_scored, offer, ask.policy.objective))


def _refused(offer: Offer, reasons: tuple[Reason, ...]) -> Weighed:
    return Weighed(offer.room, None, offer.prediction, partial(described, offer, reasons))


def _late(weighed: Weighed) -> Candidate:
    return replace(weighed.candidate, score=None, refused=(DEADLINE_MISSED,))


def _scored(offer: Offer, objective: str) -> Candidate:
    plain = described(offer, ())
    return replace(plain, score=load_objective(objective)(plain))


def described(offer: Offer, refused: tuple[Reason, ...]) -> Candidate:
    """The offering for people to read, not scored."""
    pool = offer.room.pool
    return Candidate(
        pool=pool.ref,
        capacity_type=pool.capacity_type,
        bought=pool.bought,
        score=None,
        usd_per_hour=offer.usd_per_hour,
        expected_cost_usd=offer.cost_usd,
        expected_start_seconds=offer.prediction.start_seconds,
        expected_seconds=offer.seconds,
        new_nodes=0 if offer.fit is None else offer.fit.new_nodes,
        refused=refused,
        availability=offer.prediction.availability,
    )
