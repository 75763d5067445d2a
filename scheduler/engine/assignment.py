"""New placements: each pending workload in its turn gets the best offering that fits, or is held with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from scheduler.engine import explain
from scheduler.engine.bulk import Bulk, runs_of, stretches_of, turn_size
from scheduler.engine.bulk import attempt_number as attempt_number
from scheduler.engine.candidates import Weighed, Weigher, in_time
from scheduler.engine.deadlines import has_deadline
from scheduler.engine.exploration import Exploration, Explorer
from scheduler.engine.filters import WAITING, Ask
from scheduler.engine.front import Front
from scheduler.engine.guide import Guide
from scheduler.engine.queue_order import Turns
from scheduler.engine.slices import Slices, guide_of
from scheduler.engine.world import World
from scheduler.model.plan import Candidate, Decision, SetPlacement, ShadowPrice, WaitOption
from scheduler.model.policy import PlacementPolicy
from scheduler.model.verdict import Reason
from scheduler.model.workload import Placement, PlacementState, Workload

BEHIND: Final = Reason("QueueBlocked", "waits behind an older workload of its strict queue")
INVALID: Final = Reason("InvalidWorkload", "cannot be placed as it stands")
UNMANAGED: Final = Reason("NotManaged", "has not been handed over")
QUEUE_UNKNOWN: Final = Reason("QueueUnknown", "of an unknown queue")
NO_POLICY: Final = Reason("NoPolicy", "no policy matches")
CHEAPER_TO_WAIT: Final = Reason("CheaperToWait", "waits for owned capacity")
WAIT_TEXT: Final = "waiting for owned capacity costs less than any other offering, its time included"
Rank = Callable[[Workload, Weighed], Any]
"""A key by which the best of the offerings that fit comes first."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a class fits nowhere."""

    reason: Reason
    text: str
    waits: bool
    codes: frozenset[str] = frozenset()
    alternatives: tuple[Candidate, ...] = ()
    refused: tuple[tuple[Reason, int], ...] = ()


_TOLD_TO_WAIT: Final = _Refusal(CHEAPER_TO_WAIT, WAIT_TEXT, waits=True)


class Assignment:
    """Goes through the pending workloads once; collects placements and decisions."""

    def __init__(self, world: World, weigher: Weigher, rank: Rank | None = None, *, one_by_one: bool = False) -> None:
        """`one_by_one`: every workload is weighed by itself, however many there are: the measure for all that is
        faster."""
        self._rank: Rank = rank if rank is not None else lambda workload, each: each.order
        self._world = world
        self._weigher = weigher
        self._refused: dict[int, _Refusal] = {}
        """Classes that fit nowhere: room, quota and budgets only shrink within a cycle, so equal ones need no look."""
        self.explorer: Explorer | None = None
        if rank is None and any(each.exploration is not None for each in world.policies.policies):
            self.explorer = Explorer(world)
        self.guide: Guide | Slices | None = None
        self.front = Front(world, weigher, self._place, self._best)
        self.placements: list[SetPlacement] = []
        self.decisions: list[Decision] = []
        self._by_classes = rank is None and not one_by_one
        self._bulk: Bulk | None = None

    def run(self) -> None:
        world = self._world
        hopeful = [each for each in world.roll.pending.values() if self._may_be_placed(each)]
        self.front.run(hopeful)
        bulk = Bulk(world, self._weigher, self.placements, self.decisions) if self._by_classes else None
        pending = [each for each in world.roll.pending.values() if each.ref.uid not in self.front.placed]
        left = (each for each in hopeful if each.ref.uid not in self.front.placed)
        board = None if bulk is None else lambda: bulk.board
        self.guide = guide_of(world, self._weigher, left, self.front.reservations.earliest, board)
        # To arrays room that is kept for somebody is gone: they do not see who may use it meanwhile, nor who is to be
        # kept off which nodes.
        self._bulk = None if self.front.keeps_room else bulk
        turns = Turns(pending, world.quotas, world.capacity)
        most = 1 if self._bulk is None else turn_size(len(pending))
        while line := turns.next(most):
            if world.quotas.spec(line[0].queue).strict_fifo:
                self._consider_strictly(line, turns)
            elif self._bulk is None:
                self._consider(line[0])
            else:
                self._consider_together(line, self._bulk)
        self.front.close()

    def _consider_strictly(self, line: tuple[Workload, ...], turns: Turns) -> None:
        """In order; once one waits for capacity all behind it wait with it."""
        done = 0
        for ask, run in stretches_of((self._ask_for_bulk(each), each) for each in line):
            if ask is None or self._bulk is None:
                handled, blocked = 1, self._consider(run[0])
            else:
                handled, blocked = self._place_run(ask, run, self._bulk, strict=True)
            done += handled
            if blocked:
                for later in (*line[done:], *turns.rest_of(line[0].queue)):
                    self._hold(later, self._world.policy_of(later), _Refusal(BEHIND, BEHIND.text, waits=True))
                return

    def _consider_together(self, line: tuple[Workload, ...], bulk: Bulk) -> None:
        """By classes, where arrays can speak for them; the classes in the order of their first workloads."""
        for ask, run in runs_of((self._ask_for_bulk(each), each) for each in line):
            if ask is None:
                self._consider(run[0])
                continue
            self._place_run(ask, run, bulk)

    def _place_run(self, ask: Ask, run: Sequence[Workload], bulk: Bulk, *, strict: bool = False) -> tuple[int, bool]:
        """Place or hold equal workloads in order; those that may differ in their deadlines stretch by stretch. How many
        that were, and whether the last of them waits for capacity, so that the rest of a `strict` queue does."""
        guide, left = self._guide_for(run[0]), run
        while left:
            if ask.number not in self._refused:
                left = left[bulk.place(ask, left, guide) :]
            if not left:
                break
            refusal, alike = self._refuse_together(ask, bulk, left, guide)
            blocked = strict and refusal.waits
            held, left = left[: 1 if blocked else alike], left[1 if blocked else alike :]
            for workload in held:
                self._note_wakes(workload, ask.policy, refusal)
                self._hold(workload, ask.policy, refusal)
            if blocked:
                return len(run) - len(left), True
        return len(run), False

    def _guide_for(self, workload: Workload) -> Guide | None:
        """The guide, where it speaks for the workload's whole class."""
        return self.guide if isinstance(self.guide, Guide) and self.guide.speaks_for(workload) else None

    def _ask_for_bulk(self, workload: Workload) -> Ask | None:
        """Its class; None: it is to be looked at by itself."""
        if self._bulk is None or not self._may_be_placed(workload):
            return None
        if isinstance(self.guide, Slices) and self.guide.speaks_for(workload):
            return None
        ask = self._world.ask_for(workload)
        if ask is None or (self.explorer is not None and self.explorer.wants(workload, ask)):
            return None
        return ask if self._bulk.suits(ask) else None

    def _refuse_together(
        self, ask: Ask, bulk: Bulk, left: Sequence[Workload], guide: Guide | None
    ) -> tuple[_Refusal, int]:
        """Why the rest of a run is not placed, and for how many of them that is so."""
        known = self._refused.get(ask.number)
        if known is not None:
            return known, len(left)
        quota = self._world.quotas.refusal(ask.queue, ask.shape.requests)
        board, (view, alike) = bulk.board, bulk.leading(ask, left, guide)
        if quota is not None:
            refusal = _Refusal(quota, quota.text, waits=True)
        elif guide is not None and view.fitting:
            if all(each.condition == (CHEAPER_TO_WAIT.code, WAIT_TEXT) for each in left[:alike]):
                return _TOLD_TO_WAIT, alike
            told = bulk.explained(view, guide.row_of(left[0]), guide)
            others = board.others(ask, told, None)
            return _Refusal(CHEAPER_TO_WAIT, WAIT_TEXT, True, frozenset(), others, board.histogram(view)), alike
        else:
            counted = board.histogram(view)
            reason, text = explain.hold_words(counted, len(view.codes))
            waits = any(each.code in WAITING for each, _ in counted)
            refusal = _Refusal(reason, text, waits, board.codes(view), board.others(ask, view, None), counted)
        self._refused[ask.number] = refusal
        return refusal, len(left)

    def _may_be_placed(self, workload: Workload) -> bool:
        world = self._world
        return (
            workload.invalid is None
            and (workload.unmanaged is None or world.snapshot.shadow)
            and (world.policies.default_queue_allowed or world.quotas.defined(workload.queue))
        )

    def _consider(self, workload: Workload) -> bool:
        """Place or hold it; True when it waits for capacity, so that a strict queue waits with it."""
        world = self._world
        ask = world.ask_for(workload)
        policy = None if ask is None else ask.policy
        if workload.invalid is not None:
            self._hold(workload, policy, _Refusal(INVALID, workload.invalid, waits=False))
            return False
        if workload.unmanaged is not None and not world.snapshot.shadow:
            self._hold(workload, policy, _Refusal(UNMANAGED, workload.unmanaged, waits=False))
            return False
        if not world.policies.default_queue_allowed and not world.quotas.defined(workload.queue):
            text = f"no Queue object named {workload.queue}; create it or change the queue label"
            self._hold(workload, policy, _Refusal(QUEUE_UNKNOWN, text, waits=False))
            return False
        if ask is None or policy is None:
            text = f"no placement policy matches it; add one that matches queue {workload.queue}"
            self._hold(workload, None, _Refusal(NO_POLICY, text, waits=False))
            return False
        known = self._refused.get(ask.number)
        if known is None and self._still_waits(workload, ask):
            if self._backfill(workload, ask):
                return False
            known = _TOLD_TO_WAIT
        elif known is None:
            chosen, weighed = self._choose(workload, ask)
            if chosen is not None:
                self._place(workload, ask, chosen, weighed, self._exploration(workload, ask, chosen, weighed))
                return False
            if self._backfill(workload, ask):
                return False
            known = self._refuse(workload, ask, weighed)
        reservation = self.front.reservations.of(workload)
        if reservation is not None:
            known = replace(known, reason=reservation.reason, text=reservation.reason.text)
        self._note_wakes(workload, policy, known)
        self._hold(workload, policy, known)
        return known.waits

    def _still_waits(self, workload: Workload, ask: Ask) -> bool:
        """Whether the programme lets it wait although it fits, as it has been told before: no offering need be compared
        with another, and nobody will read them."""
        return (
            self.guide is not None
            and workload.condition == (CHEAPER_TO_WAIT.code, WAIT_TEXT)
            and self.guide.speaks_for(workload)
            and self.guide.lets_wait(workload)
            and not has_deadline(ask)
            and self.front.reservations.of(workload) is None
            and self._world.quotas.refusal(ask.queue, ask.shape.requests) is None
            and self._weigher.fits_somewhere(ask)
        )

    def _choose(self, workload: Workload, ask: Ask) -> tuple[Weighed | None, tuple[Weighed, ...]]:
        if self._world.quotas.refusal(ask.queue, ask.shape.requests) is not None:
            return None, ()
        weighed = tuple(in_time(self._weigher.weigh(ask), workload, ask, self._world.now))
        if self.guide is not None and self.guide.speaks_for(workload):
            return self.guide.pick(workload, weighed), weighed
        return self._best(workload, weighed), weighed

    def _best(self, workload: Workload, weighed: Iterable[Weighed]) -> Weighed | None:
        fitting = (each for each in weighed if each.fit is not None)
        return min(fitting, key=lambda each: self._rank(workload, each), default=None)

    def _exploration(
        self, workload: Workload, ask: Ask, chosen: Weighed, weighed: tuple[Weighed, ...]
    ) -> Exploration | None:
        """Where it is placed rather than where it was chosen to be, to learn; None: nowhere."""
        if self.explorer is None or not self.explorer.wants(workload, ask):
            return None
        if self.guide is not None and self.guide.speaks_for(workload):
            # To weigh what they cost in all, time included.
            chosen, *weighed_so = self.guide.explain(workload, (chosen, *weighed))
            return self.explorer.instead(workload, ask, chosen, weighed_so)
        return self.explorer.instead(workload, ask, chosen, weighed)

    def _backfill(self, workload: Workload, ask: Ask) -> bool:
        """Start it in room that is kept for another, where it will have ended before that is needed. The programme is
        not asked: to it the room is taken."""
        if self._world.quotas.refusal(ask.queue, ask.shape.requests) is not None:
            return False
        with self.front.reservations.lifted_for(ask) as pools:
            if not pools:
                return False
            if not has_deadline(ask) and not self._weigher.starts_in(ask, pools):
                return False
            weighed = tuple(in_time(self._weigher.weigh(ask), workload, ask, self._world.now))
            there = (each for each in weighed if each.fit is not None and each.fit.now)
            chosen = self._best(workload, (each for each in there if each.room.pool.ref in pools))
            if chosen is not None:
                self._place(workload, ask, chosen, weighed)
            return chosen is not None

    def _refuse(self, workload: Workload, ask: Ask, weighed: tuple[Weighed, ...]) -> _Refusal:
        if any(each.fit is not None for each in weighed):
            # Only the guide passes over an offering that fits; another of the class may be meant to start.
            return self._refuse_by_guide(workload, weighed)
        quota = self._world.quotas.refusal(ask.queue, ask.shape.requests)
        if quota is not None:
            refusal = _Refusal(quota, quota.text, waits=True)
        else:
            reason, text = explain.hold_reason(weighed)
            codes = frozenset(each.code for one in weighed for each in one.candidate.refused)
            refusal = _Refusal(
                reason,
                text,
                explain.waits_for_capacity(weighed),
                codes,
                explain.others(weighed, None),
                explain.refusals(weighed),
            )
        self._refused[ask.number] = refusal
        return refusal

    def _refuse_by_guide(self, workload: Workload, weighed: tuple[Weighed, ...]) -> _Refusal:
        said = workload.condition == (CHEAPER_TO_WAIT.code, WAIT_TEXT)
        if said and self.front.reservations.of(workload) is None:
            # It makes no decision, so nobody will read the alternatives.
            return _TOLD_TO_WAIT
        refused = explain.refusals(weighed)
        if self.guide is not None and self.guide.speaks_for(workload):
            weighed = self.guide.explain(workload, weighed)
        return _Refusal(CHEAPER_TO_WAIT, WAIT_TEXT, True, frozenset(), explain.others(weighed, None), refused)

    def _place(
        self,
        workload: Workload,
        ask: Ask,
        chosen: Weighed,
        weighed: tuple[Weighed, ...],
        exploration: Exploration | None = None,
    ) -> None:
        """`exploration`: placed there to learn, not on what was chosen."""
        if exploration is not None:
            elsewhere = exploration.place.room.pool.ref
            chosen = next(each for each in weighed if each.room.pool.ref == elsewhere)
        world, room, fit = self._world, chosen.room, chosen.fit
        assert fit is not None
        guarded = world.has_waited(workload, ask.policy)
        if not room.assume(ask.shape.pod_sets, buy=not fit.now, guarded=guarded):
            raise AssertionError(f"{workload.ref} was weighed as fitting on {room.pool.ref} but does not")
        if self._bulk is not None:
            self._bulk.touched(room)
        world.quotas.add(workload.queue, ask.shape.requests)
        world.commit(workload, ask.policy.name, room, chosen.prediction)
        state = PlacementState.STARTED if fit.now else PlacementState.RESERVED
        attempt = attempt_number(world.now, len(self.placements))
        wait, binding, chosen, weighed = self._explained(workload, chosen, weighed)
        decision = explain.placed(
            workload, chosen, weighed, ask.policy, state, attempt, world.policies.digest, world.now, wait, binding
        )
        if exploration is not None and self.explorer is not None:
            self.explorer.commit(ask, exploration)
            decision = explain.exploring(decision, exploration.text)
        pool = room.pool
        placement = Placement(
            pool.ref.cluster, pool.ref.pool, pool.capacity_type, pool.bought, state, attempt, world.now, decision.id,
            domain=room.domain if fit.now else None, kept_off=room.kept_off,
            exploration_usd=None if exploration is None else exploration.usd,
        )  # fmt: skip
        self.placements.append(SetPlacement(workload.ref, placement, workload.placement, decision.id))
        self.decisions.append(decision)

    def _explained(
        self, workload: Workload, chosen: Weighed, weighed: tuple[Weighed, ...]
    ) -> tuple[WaitOption | None, tuple[ShadowPrice, ...], Weighed, tuple[Weighed, ...]]:
        """(waiting instead, what binds, the choice, all offerings), with all costs told where the guide chose."""
        if self.guide is None or not self.guide.speaks_for(workload):
            return None, (), chosen, weighed
        told = self.guide.explain(workload, weighed)
        place = next(one for one in told if one.candidate.pool == chosen.candidate.pool)
        return self.guide.wait_option(workload), self.guide.prices[: explain.MAX_BINDING], place, told

    def _hold(self, workload: Workload, policy: PlacementPolicy | None, refusal: _Refusal) -> None:
        decision = explain.held(
            workload,
            refusal.reason,
            refusal.text,
            policy,
            self._world.policies.digest,
            self._world.now,
            refusal.alternatives,
            refusal.refused,
        )
        if decision is not None and self.guide is not None and self.guide.speaks_for(workload):
            binding = self.guide.prices[: explain.MAX_BINDING]
            decision = decision._replace(wait=self.guide.wait_option(workload), binding=binding)
        if decision is not None:
            self.decisions.append(decision)

    def _note_wakes(self, workload: Workload, policy: PlacementPolicy, refusal: _Refusal) -> None:
        """When time alone may let it in."""
        world = self._world
        if "BurstWaiting" in refusal.codes and policy.burst is not None:
            world.wake_at(workload.queued_at + policy.burst.after_wait_seconds)
        if "BackedOff" in refusal.codes:
            for each in world.backed_off:
                world.wake_at(each.until)
        if "OverBudget" in refusal.codes:
            end = world.budgets.next_window_end()
            if end is not None:
                world.wake_at(end)
