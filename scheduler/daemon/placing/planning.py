"""The cycle loop: a frozen snapshot goes into `engine.cycle`, the plan comes out and is handed to those who act."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

import structlog

from scheduler.daemon.config.live_policies import LivePolicies
from scheduler.daemon.money.exploration import ExplorationBook
from scheduler.daemon.placing.decisions import DecisionLog
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.daemon.waiting import happened_or_due
from scheduler.engine.cycle import cycle
from scheduler.engine.exploration import explored
from scheduler.engine.memory import Memory
from scheduler.engine.settlement import UNDELIVERED
from scheduler.model.ids import ClusterId, Instant, PoolRef
from scheduler.model.plan import CloseNode, Decision, OpenNode, Plan, RemoveNode, ScalePool, SetPlacement
from scheduler.model.ports import Clock, Predictor
from scheduler.model.snapshot import SpendBucket
from scheduler.model.workload import PlacementState, Workload

log = structlog.get_logger(__name__)
_GATHER_WALL_SECONDS: Final = 0.004
"""How long a cycle waits for what comes with the first event, so that a burst of arrivals is planned as one."""
_OFF_LOOP_SECONDS: Final = 0.05
_LOOK_AGAIN_SECONDS: Final = 60.0
"""Without any event, in the federation's time: a guard against a missed one."""


class PlacementSink(Protocol):
    """Where placements and decisions go (the reconciler; nowhere in shadow mode)."""

    def want(self, placement: SetPlacement) -> None: ...

    def tell(self, decision: Decision) -> None: ...


class PoolSink(Protocol):
    def want(
        self,
        scales: list[ScalePool],
        removals: list[RemoveNode],
        closures: list[CloseNode],
        openings: list[OpenNode],
    ) -> None: ...


class Planner:
    """Runs the cycle whenever something changed or a time has come."""

    def __init__(
        self,
        mirror: Mirror,
        policies: LivePolicies,
        predictor: Callable[[], Predictor],
        clock: Clock,
        telemetry: Telemetry,
        decisions: DecisionLog,
        *,
        spend: Callable[[], tuple[SpendBucket, ...]],
        explorations: ExplorationBook,
        placements: PlacementSink | None,
        pools: Mapping[ClusterId, PoolSink],
    ) -> None:
        """`predictor`: the one of each cycle. `placements` None is shadow mode: everything is decided, nothing is
        written."""
        self._mirror = mirror
        self._policies = policies
        self._predictor = predictor
        self._clock = clock
        self._telemetry = telemetry
        self._decisions = decisions
        self._spend = spend
        self._explorations = explorations
        self._placements = placements
        self._pools = pools
        self._memory = Memory()
        self.on_undelivered: Callable[[PoolRef, float], None] = lambda pool, seconds: None
        """Nodes did not come: for whom they were to be bought leaves the pool after so many seconds."""
        self.on_decision: Callable[[Decision, float], None] | None = None
        """Told of each, with how long its cycle took."""
        self._changed = asyncio.Event()
        self._cycle_began: float | None = None
        self._wanted_since: float | None = None
        self.bursting_paused = False
        self.last_plan: Plan | None = None
        self.last_cycle_seconds = 0.0
        self.cycles = 0

    def trigger(self) -> None:
        """Something changed that a cycle could decide otherwise on."""
        if self._wanted_since is None:
            self._wanted_since = asyncio.get_running_loop().time()
        self._changed.set()

    @property
    def idle(self) -> bool:
        return not self._changed.is_set() and self._cycle_began is None

    @property
    def seconds_overdue(self) -> float:
        """Wall time for which a cycle has been wanted without one coming to its end; 0 when none is wanted."""
        return asyncio.get_running_loop().time() - self._wanted_since if self._wanted_since is not None else 0.0

    @property
    def wake_at(self) -> Instant | None:
        return self.last_plan.wake_at if self.last_plan is not None else None

    async def run(self) -> None:
        """Plan for ever. Takes no decision before hub and members have been listed."""
        while True:
            look_again = self._clock.now() + _LOOK_AGAIN_SECONDS
            wake_at = self.wake_at
            due = look_again if wake_at is None else min(look_again, wake_at)
            await happened_or_due(self._changed, self._clock, due)
            self._cycle_began = asyncio.get_running_loop().time()
            try:
                # At least as long as the last cycle took: planning never has more than half of the process.
                await asyncio.sleep(max(_GATHER_WALL_SECONDS, self.last_cycle_seconds))
                self._changed.clear()
                if self._mirror.ever_synced and self._mirror.hub_synced:
                    await self._cycle_once()
                self._wanted_since = self._cycle_began if self._changed.is_set() else None
                self._look_at_the_stranded()
            finally:
                self._cycle_began = None

    def _look_at_the_stranded(self) -> None:
        """Time alone may give a silent member up, and what waits for it (a deletion, say) can then go on."""
        for cluster, member in self._mirror.members.items():
            if member.unreachable_since is not None:
                for uid in self._mirror.unsettled(cluster):
                    self._mirror.on_key(uid)

    async def _cycle_once(self) -> None:
        policies = self._policies.current
        shadow = self._placements is None
        told = self._explorations.explored()
        snapshot = self._mirror.snapshot(
            self._spend(), bursting_paused=self.bursting_paused, explored=told, shadow=shadow
        )
        clock = asyncio.get_running_loop().time
        started = clock()
        if self.last_cycle_seconds > _OFF_LOOP_SECONDS:
            plan = await asyncio.to_thread(cycle, snapshot, policies, self._predictor(), memory=self._memory)
        else:
            plan = cycle(snapshot, policies, self._predictor(), memory=self._memory)
        self.last_cycle_seconds = clock() - started
        self.cycles += 1
        self.last_plan = plan
        self._telemetry.cycles.inc()
        self._telemetry.cycle_seconds.observe(self.last_cycle_seconds)
        self._hand_out(plan)
        self._measure(plan)

    def _hand_out(self, plan: Plan) -> None:
        for decision in plan.decisions:
            self._decisions.add(decision)
            if self.on_decision is not None:
                self.on_decision(decision, self.last_cycle_seconds)
            self._mirror.assume_told(decision.workload.uid, decision.reason.code, decision.sentence)
            if decision.outcome == "burst" and decision.chosen is not None:
                self._telemetry.bursts.labels(decision.chosen.pool.cluster).inc()
        self._explorations.placed(explored(plan))
        if self._placements is None:
            self._pretend(plan)
            return
        for placement in plan.placements:
            if self._is_current(placement):
                self._placements.want(placement)
                self._tell_undelivered(placement)
            elif placement.placement.exploration_usd is not None and placement.replaces is None:
                self._explorations.undelivered(placement.workload.uid, placement.placement.attempt)
        for decision in plan.decisions:
            self._placements.tell(decision)
        for cluster, keeper in self._pools.items():
            keeper.want(
                [scale for scale in plan.scales if scale.pool.cluster == cluster],
                [removal for removal in plan.removals if removal.pool.cluster == cluster],
                [closure for closure in plan.closures if closure.pool.cluster == cluster],
                [opening for opening in plan.openings if opening.pool.cluster == cluster],
            )

    def _tell_undelivered(self, intent: SetPlacement) -> None:
        before, after = intent.replaces, intent.placement
        if before is None or before.state is not PlacementState.RESERVED or after.state is not PlacementState.RELEASING:
            return
        if after.reason in UNDELIVERED:
            self.on_undelivered(before.pool_ref, max(0.0, self._clock.now() - before.decided_at))
            self._explorations.undelivered(intent.workload.uid, before.attempt)

    def _is_current(self, intent: SetPlacement) -> bool:
        """While a cycle ran off the loop, its workload may have changed."""
        workload = self._mirror.workload(intent.workload.uid)
        return workload is not None and workload.intent is None and workload.placement == intent.replaces

    def _pretend(self, plan: Plan) -> None:
        """Shadow mode: count the placements as done, so that the next cycle goes on from there. Capacity that would be
        bought is taken as delivered, since nobody buys it; what would leave or pause waits anew."""
        for intent in plan.placements:
            if intent.placement.state in (PlacementState.RELEASING, PlacementState.PAUSED):
                self._mirror.forget(intent.workload.uid)
            else:
                self._mirror.assume(intent.workload.uid, replace(intent.placement, state=PlacementState.STARTED))

    def _measure(self, plan: Plan) -> None:
        if plan.solver:
            self._telemetry.solver.labels(plan.solver).inc()
            self._telemetry.shadow_price.clear()
            for price in plan.shadow_prices:
                self._telemetry.shadow_price.labels(price.name, price.resource, price.meaning).set(price.worth_usd)
        for usage in plan.queues:
            self._telemetry.queue_share.labels(usage.queue).set(usage.dominant_share)
        for budget in plan.budgets:
            left = budget.limit_usd - budget.spent_usd - budget.committed_usd
            self._telemetry.budget_left.labels(budget.policy, budget.budget).set(float(left))
            self._telemetry.budget_limit.labels(budget.policy, budget.budget).set(float(budget.limit_usd))


def phase_of(workload: Workload) -> str:
    """pending, reserved, started, releasing, suspended, finished or invalid."""
    if workload.finished:
        return "finished"
    if workload.placement is not None:
        return workload.placement.state.value
    if workload.intent is not None and not workload.suspended:
        return "started"
    if workload.invalid is not None or workload.unmanaged is not None:
        return "invalid"
    return "suspended" if workload.suspended else "pending"
