"""Offerings weighed for a workload: filtered, predicted, priced and scored. Equal workloads share the weighing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from policies.objectives import load_objective
from scheduler.engine import filters
from scheduler.engine.deadlines import deadline_of, late_factor
from scheduler.engine.filters import Ask, Offer
from scheduler.engine.rooms import Fit, PoolRoom
from scheduler.engine.world import World
from scheduler.model.ids import Instant, PoolRef
from scheduler.model.money import NANO, Usd, cost_usd
from scheduler.model.plan import Candidate
from scheduler.model.ports import Prediction
from scheduler.model.verdict import Reason
from scheduler.model.workload import Workload

DEADLINE_MISSED = Reason("DeadlineMissed", "too late for the deadline")


@dataclass(frozen=True, slots=True)
class Weighed:
    """A candidate with what placing it needs; `fit` is None when it is refused."""

    candidate: Candidate
    room: PoolRoom
    fit: Fit | None
    prediction: Prediction

    @property
    def order(self) -> tuple[bool, float, bool, Usd, PoolRef]:
        """Best first: by score (unknown last), then price (unknown last), then name."""
        score, price = self.candidate.score, self.candidate.usd_per_hour
        return score is None, score or 0.0, price is None, price or Decimal(0), self.candidate.pool


@dataclass(frozen=True, slots=True)
class _Charge:
    """What placing would add to the commitments."""

    usd: Usd | None
    policy_nodes: int


@dataclass(frozen=True, slots=True)
class _Known:
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
        self._screened: dict[tuple[int, PoolRef], tuple[int, Weighed | Offer]] = {}
        self._known: dict[tuple[int, PoolRef], _Known] = {}

    def weigh(self, ask: Ask) -> list[Weighed]:
        """Every pool in order of its name, refused ones included."""
        return [self._weigh(ask, room) for room in self._world.rooms.values()]

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
        return self._checked(ask, self._price(ask, offer, charged=False))

    def _weigh(self, ask: Ask, room: PoolRoom) -> Weighed:
        key = (ask.number, room.pool.ref)
        money = self._world.commitments.version
        known = self._known.get(key)
        if known is not None and known.room_version == room.version:
            if known.charge is None or known.money_version == money:
                return known.weighed
            known = replace(known, money_version=money, weighed=self._checked(ask, known))
            self._known[key] = known
            return known.weighed
        screened = self._screen(ask, room)
        if isinstance(screened, Weighed):
            return screened
        known = self._price(ask, screened)
        weighed = self._checked(ask, known)
        if weighed is not known.weighed:
            known = replace(known, weighed=weighed)
        self._known[key] = known
        return weighed

    def _screen(self, ask: Ask, room: PoolRoom) -> Weighed | Offer:
        """Refused for what the pool is or has now, or how the gang fits; the same for the whole group."""
        key = (ask.group, room.pool.ref)
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

    def _price(self, ask: Ask, offer: Offer, *, charged: bool = True) -> _Known:
        """Predicted, priced and scored; `weighed` is still without a look at the money."""
        room, fit, world = offer.room, offer.fit, self._world
        assert fit is not None
        prediction = world.predict(ask.workload, room, fit.new_nodes)
        usd_per_hour = None
        cost = None
        if room.pool.price is not None:
            usd_per_hour = _part_of(room.pool.price.usd_per_hour, fit.new_nodes + fit.share)
            if (seconds := expected_seconds(prediction)) is not None and prediction.transfer_usd is not None:
                cost = cost_usd(usd_per_hour, seconds) + prediction.transfer_usd
        priced = Offer(room, offer.paused, fit, prediction, usd_per_hour, cost)
        score = load_objective(ask.policy.objective)(described(priced, ()))
        accepted = Weighed(described(priced, (), score), room, fit, prediction)
        charge = self._charge(ask, room, prediction) if charged and world.tracks_money else None
        return _Known(room.version, world.commitments.version, accepted, accepted, priced, charge)

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
            offer = replace(offer, policy_nodes=in_use + charge.policy_nodes, over_budget=over_budget)
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
        replace(each, fit=None, candidate=replace(each.candidate, score=None, refused=(DEADLINE_MISSED,)))
        if end is not None and end > deadline
        else each
        for each, end in zip(weighed, ends, strict=True)
    ]


def expected_end(weighed: Weighed, ask: Ask, now: Instant) -> Instant | None:
    """When it would be done, as surely as the policy asks; None: refused already, or unknown."""
    start, run = weighed.prediction.start_seconds, weighed.prediction.run_seconds
    if weighed.fit is None or start is None or run is None:
        return None
    return now + start + run * late_factor(weighed.prediction, ask) + weighed.prediction.lost_seconds


def expected_seconds(prediction: Prediction) -> float | None:
    """That it runs, work that reclaims undo and that is done again included."""
    return None if prediction.run_seconds is None else prediction.run_seconds + prediction.lost_seconds


def _part_of(usd_per_hour: Usd, nodes: Fraction) -> Usd:
    return (usd_per_hour * nodes.numerator / nodes.denominator).quantize(NANO)


def _refused(offer: Offer, reasons: tuple[Reason, ...]) -> Weighed:
    return Weighed(described(offer, reasons), offer.room, None, offer.prediction)


def described(offer: Offer, refused: tuple[Reason, ...], score: float | None = None) -> Candidate:
    """The offering for people to read."""
    pool = offer.room.pool
    return Candidate(
        pool=pool.ref,
        capacity_type=pool.capacity_type,
        bought=pool.bought,
        score=score,
        usd_per_hour=offer.usd_per_hour,
        expected_cost_usd=offer.cost_usd,
        expected_start_seconds=offer.prediction.start_seconds,
        expected_seconds=expected_seconds(offer.prediction),
        new_nodes=0 if offer.fit is None else offer.fit.new_nodes,
        refused=refused,
        availability=offer.prediction.availability,
    )
