"""Exploration: now and then a workload goes where less is known of how it runs, so that it is learned. Off by default.

An offering is tried where it could turn out to be better than all others: by optimism, as in GP-UCB (Srinivas et al.,
"Gaussian Process Optimization in the Bandit Setting", ICML 2010), scored with the low end of its predicted run time.
The bonus for what is not known is thereby bounded by the 90 % interval, and by the policy's `max_premium`. What is
spent on it is bounded as in "Bandits with Knapsacks" (Badanidiyuru, Kleinberg, Slivkins, FOCS 2013): an exploring run
counts whole, at the high end of its interval, before it is placed, and is not placed where that breaks the budget.
Hard limits are kept as for every placement; a deadline and a cap on a run's cost even at the high end.

Only policies with an `exploration` ask anything here; plans of the others are what they would be without this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from policies.objectives import load_objective
from scheduler.engine.budgets import window_bounds
from scheduler.engine.candidates import Weighed
from scheduler.engine.deadlines import deadline_of
from scheduler.engine.filters import Ask, duration_text
from scheduler.engine.world import World
from scheduler.model.ids import Instant, PoolRef, Uid
from scheduler.model.money import NANO, Usd, cost_usd, to_cents
from scheduler.model.plan import BudgetState, Plan
from scheduler.model.policy import EXPLORATION, ExplorationRule
from scheduler.model.snapshot import Explored
from scheduler.model.workload import Workload

_NORMAL_95: Final = 1.6449
WIDE: Final = 0.1
"""Standard deviation of a run time's logarithm from which on there is something to learn: the 90 % interval then goes
from 15 % under the median to 18 % over it."""
_MOST_LOG_SD: Final = math.log(4.0) / _NORMAL_95
"""An offering is hoped to be up to four times as fast as is expected of it, no more."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """A workload is to be placed to learn."""

    place: Weighed
    usd: Usd
    """What it counts for in the budget."""
    best: PoolRef
    """Where it would go otherwise."""

    @property
    def text(self) -> str:
        """For people to read."""
        low, high = (duration_text(each if each < 600 else 60 * round(each / 60)) for each in run_bounds(self.place))
        return (
            f"to learn its speed there, {low} to {high} in 9 of 10 cases; "
            f"counts ${to_cents(self.usd)} of its policy's exploration; {self.best} is the best known"
        )


@dataclass(slots=True, eq=False)
class _Account:
    policy: str
    rule: ExplorationRule
    starts_at: Instant | None
    ends_at: Instant | None
    spent: Usd = Decimal(0)
    committed: Usd = Decimal(0)
    placed: int = 0

    @property
    def open(self) -> bool:
        return self.placed < self.rule.at_once and self.spent + self.committed < self.rule.limit_usd

    def allows(self, usd: Usd) -> bool:
        return self.spent + self.committed + usd <= self.rule.limit_usd


class Explorer:
    """One for a cycle. At most one workload of each class of equal ones is placed to learn."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._accounts = {
            policy.name: _Account(policy.name, policy.exploration, *window_bounds(policy.exploration.window, world.now))
            for policy in sorted(world.policies.policies, key=lambda each: each.name)
            if policy.exploration is not None
        }
        self._looker: dict[int, Uid] = {}
        if self._accounts:
            self._book()

    def wants(self, workload: Workload, ask: Ask) -> bool:
        """Whether it is to be weighed by itself, since it may be placed to learn."""
        account = self._accounts.get(ask.policy.name)
        if account is None or not account.open or workload.runs_forever or ask.policy.time_slice is not None:
            return False
        return self._looker.setdefault(ask.number, workload.ref.uid) == workload.ref.uid

    def instead(self, workload: Workload, ask: Ask, best: Weighed, weighed: Iterable[Weighed]) -> Exploration | None:
        """Where to place it rather than on the best known, to learn; None: nowhere.

        All are scored as the policy scores them; `best` is one of them.
        """
        account, score = self._accounts.get(ask.policy.name), best.candidate.score
        if account is None or score is None or not self.wants(workload, ask):
            return None
        worst = score + account.rule.max_premium * abs(score)
        known = best.prediction.run_log_sd or 0.0
        hoped = min(_hope(ask, best), score)
        found: list[tuple[float, Weighed, Usd]] = []
        for each in weighed:
            sd = each.prediction.run_log_sd
            if each.fit is None or sd is None or sd < WIDE or sd <= known or each.candidate.pool == best.candidate.pool:
                continue
            usd, hope = self._reckoned(workload, ask, each), _hope(ask, each)
            expected = each.candidate.score
            if usd is not None and expected is not None and expected <= worst and hope < hoped and account.allows(usd):
                found.append((hope, each, usd))
        if not found:
            return None
        _, place, usd = min(found, key=lambda one: (one[0], one[1].order))
        return Exploration(place, usd, best.candidate.pool)

    def commit(self, ask: Ask, exploration: Exploration) -> None:
        account = self._accounts[ask.policy.name]
        account.committed += exploration.usd
        account.placed += 1

    def states(self) -> tuple[BudgetState, ...]:
        return tuple(
            BudgetState(each.policy, EXPLORATION, each.rule.limit_usd, each.spent, each.committed, each.ends_at)
            for each in self._accounts.values()
        )

    def _reckoned(self, workload: Workload, ask: Ask, weighed: Weighed) -> Usd | None:
        """USD that it counts for: the whole run at the high end, with start-up, work lost and, on bought nodes, the
        idle time after it. None: unknown, or over the deadline or the cap of a run's cost."""
        prediction, rate = weighed.prediction, weighed.candidate.usd_per_hour
        start, deadline, cap = prediction.start_seconds, deadline_of(workload, ask), ask.policy.constraints
        if rate is None or start is None or prediction.run_seconds is None or prediction.transfer_usd is None:
            return None
        factor = run_bounds(weighed)[1] / prediction.run_seconds if prediction.run_seconds > 0 else 1.0
        ends = start + (prediction.run_seconds + prediction.lost_seconds) * factor
        if deadline is not None and self._world.now + ends > deadline:
            return None
        idle = self._world.idle_seconds(weighed.room) if weighed.room.pool.bought else 0.0
        usd = (cost_usd(rate, ends + idle) + prediction.transfer_usd).quantize(NANO)
        return None if cap.max_usd_per_run is not None and usd > cap.max_usd_per_run else usd

    def _book(self) -> None:
        told = {(each.workload, each.attempt, each.policy): each for each in self._world.snapshot.explored}
        names = {(uid, attempt): policy for uid, attempt, policy in told}
        for workload in self._world.snapshot.workloads:
            placement = workload.placement
            if placement is None or placement.exploration_usd is None:
                continue
            key = (workload.ref.uid, placement.attempt)
            if key in names and workload.finished:
                continue
            speaks = self._world.policy_of(workload)
            policy = names.get(key, "" if speaks is None else speaks.name)
            told.pop((*key, policy), None)
            account = self._accounts.get(policy)
            if account is not None:
                account.committed += placement.exploration_usd
                account.placed += not workload.finished
        for each in told.values():
            account = self._accounts.get(each.policy)
            if account is not None and (account.starts_at is None or each.at >= account.starts_at):
                account.spent += each.usd


def explored(plan: Plan) -> tuple[Explored, ...]:
    """What whoever carries the plan out has to remember, for the snapshots to come."""
    learning = [each for each in plan.placements if each.placement.exploration_usd is not None]
    if not learning:
        return ()
    policy_of = {each.id: each.policy for each in plan.decisions}
    return tuple(
        Explored(each.workload.uid, each.placement.attempt, policy_of[each.decision], plan.at, usd)
        for each in learning
        if (usd := each.placement.exploration_usd) is not None
        and (each.replaces is None or each.replaces.attempt != each.placement.attempt)
    )


def run_bounds(weighed: Weighed) -> tuple[float, float]:
    """Seconds that it runs at least and at most with a chance of 95 % each. The spread is taken for log-normal."""
    run, sd = weighed.prediction.run_seconds or 0.0, weighed.prediction.run_log_sd or 0.0
    return run * math.exp(-_NORMAL_95 * min(sd, _MOST_LOG_SD)), run * math.exp(_NORMAL_95 * sd)


def _hope(ask: Ask, weighed: Weighed) -> float:
    """Its score if it runs as fast as can be hoped; infinity where nobody can say."""
    candidate, run = weighed.candidate, weighed.prediction.run_seconds
    if run is None or candidate.score is None:
        return math.inf
    low = run_bounds(weighed)[0]
    if ask.policy.value_of_time is not None:
        return candidate.score - _saved(ask, weighed, 1.0 - low / run if run > 0 else 0.0)
    usd = candidate.expected_cost_usd
    if usd is not None and candidate.usd_per_hour is not None:
        usd -= cost_usd(candidate.usd_per_hour, run) - cost_usd(candidate.usd_per_hour, low)
    seconds = low + weighed.prediction.lost_seconds
    score = load_objective(ask.policy.objective)(replace(candidate, expected_seconds=seconds, expected_cost_usd=usd))
    return math.inf if score is None else score


def _saved(ask: Ask, weighed: Weighed, part: float) -> float:
    """USD, time included, that are saved if so much of the run is not needed."""
    prediction, value = weighed.prediction, ask.policy.value_of_time
    by_time = 0.0 if value is None else value.usd_per_second(ask.shape.gpus)
    money = sum(each.usd for each in weighed.candidate.cost_parts if each.name in ("capacity", "reclaims"))
    return part * (money + by_time * ((prediction.run_seconds or 0.0) + prediction.lost_seconds))
