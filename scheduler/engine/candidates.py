"""Offerings weighed for a workload: filtered, predicted, priced and scored. Equal workloads share the weighing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from policies.objectives import load_objective
from scheduler.engine import filters
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


class Weigher:
    """Weighs every pool for a class of workloads, again only where something has changed since."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._static: dict[tuple[str, int, bool, PoolRef], tuple[Reason, ...]] = {}
        self._known: dict[tuple[int, PoolRef], tuple[int, int, Weighed]] = {}

    def weigh(self, ask: Ask) -> list[Weighed]:
        """Every pool in order of its name, refused ones included."""
        money = self._world.commitments.version
        weighed: list[Weighed] = []
        for ref, room in self._world.rooms.items():
            known = self._known.get((ask.number, ref))
            if known is not None and known[0] == room.version and (known[1] == money or not room.pool.bought):
                weighed.append(known[2])
                continue
            fresh = self._weigh(ask, room)
            self._known[ask.number, ref] = (room.version, money, fresh)
            weighed.append(fresh)
        return weighed

    def static_reasons(self, ask: Ask, room: PoolRoom) -> tuple[Reason, ...]:
        """Why the pool, as it is, is not for such workloads, whatever its room; empty: it may be."""
        key = (ask.policy.name, ask.shape.number, ask.burst_matches, room.pool.ref)
        known = self._static.get(key)
        if known is None:
            known = self._static[key] = filters.all_reasons(filters.STATIC, ask, Offer(room, False))
        return known

    def _weigh(self, ask: Ask, room: PoolRoom) -> Weighed:
        reasons = self.static_reasons(ask, room)
        if reasons:
            return _refused(room, reasons, Offer(room, False))
        fit = room.fit(ask.shape, grow=False)
        if fit is None and room.growable:
            fit = room.fit(ask.shape, grow=True)
        offer = Offer(room, self._world.snapshot.bursting_paused, fit)
        reason = filters.first_reason(filters.ROOM, ask, offer)
        if reason is not None or fit is None:
            return _refused(room, (reason,) if reason is not None else (), offer)
        offer = self._priced(ask, offer, fit)
        reason = filters.first_reason(filters.MONEY, ask, offer)
        if reason is not None:
            return _refused(room, (reason,), offer)
        candidate = _candidate(offer, ())
        score = load_objective(ask.policy.objective)(candidate)
        return Weighed(replace(candidate, score=score), room, fit, offer.prediction)

    def _priced(self, ask: Ask, offer: Offer, fit: Fit) -> Offer:
        room = offer.room
        prediction = self._world.predict(ask.workload, room, fit.new_nodes)
        usd_per_hour = None
        cost = None
        if room.pool.price is not None:
            usd_per_hour = _part_of(room.pool.price.usd_per_hour, fit.new_nodes + fit.share)
            if prediction.run_seconds is not None:
                cost = cost_usd(usd_per_hour, prediction.run_seconds)
        priced = Offer(room, offer.paused, fit, prediction, usd_per_hour, cost)
        return self._charged(ask, priced) if self._world.tracks_money and room.pool.bought else priced

    def _charged(self, ask: Ask, offer: Offer) -> Offer:
        """With what placing it would add to the commitments on bought capacity."""
        world, room = self._world, offer.room
        seconds = world.busy_seconds(ask.workload, room, offer.prediction)
        usd, more = world.commitments.charge(room, ask.shape, seconds, ask.policy.name)
        # Bought pools of unknown price do not come this far: `price_unknown` refuses them.
        over_budget = None if usd is None else world.budgets.refusal(ask.queue, room.pool, usd)
        in_use = world.commitments.nodes_in_use(ask.policy.name)
        return replace(offer, policy_nodes=in_use + more, over_budget=over_budget)


def in_time(weighed: list[Weighed], workload: Workload, ask: Ask, now: Instant) -> list[Weighed]:
    """Refuses those that miss the workload's deadline while another meets it; an unknown end is no miss."""
    deadline = deadline_of(workload, ask)
    if deadline is None:
        return weighed
    ends = [_expected_end(each, now) for each in weighed]
    if not any(end is not None and end <= deadline for end in ends):
        return weighed
    return [
        replace(each, fit=None, candidate=replace(each.candidate, score=None, refused=(DEADLINE_MISSED,)))
        if end is not None and end > deadline
        else each
        for each, end in zip(weighed, ends, strict=True)
    ]


def deadline_of(workload: Workload, ask: Ask) -> Instant | None:
    """The earlier of the user's and the policy's deadline; None: there is none."""
    limit = ask.policy.constraints.deadline_seconds
    by_policy = None if limit is None else workload.created_at + limit
    given = [each for each in (workload.hints.deadline_at, by_policy) if each is not None]
    return min(given, default=None)


def _expected_end(weighed: Weighed, now: Instant) -> Instant | None:
    """When it would be done; None: refused already, or unknown."""
    start, run = weighed.prediction.start_seconds, weighed.prediction.run_seconds
    return None if weighed.fit is None or start is None or run is None else now + start + run


def _part_of(usd_per_hour: Usd, nodes: Fraction) -> Usd:
    return (usd_per_hour * nodes.numerator / nodes.denominator).quantize(NANO)


def _refused(room: PoolRoom, reasons: tuple[Reason, ...], offer: Offer) -> Weighed:
    return Weighed(_candidate(offer, reasons), room, None, offer.prediction)


def _candidate(offer: Offer, refused: tuple[Reason, ...]) -> Candidate:
    pool = offer.room.pool
    return Candidate(
        pool=pool.ref,
        capacity_type=pool.capacity_type,
        bought=pool.bought,
        score=None,
        usd_per_hour=offer.usd_per_hour,
        expected_cost_usd=offer.cost_usd,
        expected_start_seconds=offer.prediction.start_seconds,
        expected_seconds=offer.prediction.run_seconds,
        new_nodes=0 if offer.fit is None else offer.fit.new_nodes,
        refused=refused,
    )
