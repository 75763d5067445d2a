"""Whatever the federation: exploring keeps its own budget and every other limit, and gives one plan for any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.engine.cycle import cycle
from scheduler.engine.exploration import explored
from scheduler.model.cluster import Cluster, NodePool
from scheduler.model.ids import Uid
from scheduler.model.plan import Plan
from scheduler.model.policy import Budget, ExplorationRule, PolicySet
from scheduler.model.ports import Prediction
from scheduler.model.snapshot import Explored
from scheduler.model.workload import Workload
from scheduler.predict.first import FirstPredictor
from tests.property.test_engine_bulk import backlogs, federations, rules
from tests.unit.engine_world import NOW, snapshot

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
POOLS = ("a", "b", "od", "spot")
FEDERATIONS, BACKLOGS, RULES = federations(), backlogs(), rules()


@dataclass(frozen=True)
class Unsure:
    """Run times differ between pools, and so does how sure they are."""

    factors: Sequence[float]
    spreads: Sequence[float | None]

    def predict(self, workload: Workload, pool: NodePool, new_nodes: int) -> Prediction:
        plain = FirstPredictor().predict(workload, pool, new_nodes)
        at = POOLS.index(pool.ref.pool)
        run = None if plain.run_seconds is None else plain.run_seconds * self.factors[at]
        return replace(plain, run_seconds=run, run_log_sd=self.spreads[at])


UNSURE = st.builds(
    Unsure,
    st.lists(st.sampled_from((0.5, 0.9, 1.0, 1.1, 2.0)), min_size=4, max_size=4),
    st.lists(st.sampled_from((None, 0.05, 0.2, 0.7)), min_size=4, max_size=4),
)
EXPLORES = st.builds(
    ExplorationRule,
    st.sampled_from((Decimal(0), Decimal(3), Decimal(30), Decimal(1000))),
    st.sampled_from(("day", "total")),
    st.integers(1, 4),
    st.sampled_from((0.0, 0.5, 5.0)),
)


def exploring(how: PolicySet, rule: ExplorationRule | None, *budgets: Budget) -> PolicySet:
    return replace(how, policies=tuple(replace(each, exploration=rule, budgets=budgets) for each in how.policies))


@given(where=FEDERATIONS, what=BACKLOGS, how=RULES, rule=EXPLORES, unsure=UNSURE, spent=st.integers(0, 40))
@QUICK
def test_the_budget_holds_and_arrays_decide_as_one_by_one(
    where: tuple[Cluster, ...],
    what: tuple[Workload, ...],
    how: PolicySet,
    rule: ExplorationRule,
    unsure: Unsure,
    spent: int,
) -> None:
    policies = exploring(how, rule)
    before = Explored(Uid("gone"), 1, policies.policies[0].name, NOW, Decimal(spent))
    snap = snapshot(*where, workloads=what, explored=(before,))
    plan = cycle(snap, policies, unsure)
    learning = explored(plan)
    assert not learning or spent + sum(each.usd for each in learning) <= rule.limit_usd
    assert len(learning) <= rule.at_once
    (state,) = plan.budgets
    assert state.spent_usd == spent
    assert state.committed_usd == sum(each.usd for each in learning)
    pools = {each.ref: each for one in where for each in one.pools}
    cap = policies.policies[0].constraints.max_usd_per_run
    for each in plan.placements:
        assert not pools[each.placement.pool_ref].bought or policies.policies[0].burst is not None
        usd = each.placement.exploration_usd
        assert usd is None or (cap is None or usd <= cap)
    assert cycle(snap, policies, unsure, one_by_one=True) == plan
    mixed = replace(snap, workloads=tuple(reversed(what)), clusters=tuple(reversed(where)))
    assert cycle(mixed, policies, unsure) == plan


@given(where=FEDERATIONS, what=BACKLOGS, how=RULES, rule=EXPLORES, unsure=UNSURE)
@QUICK
def test_who_explores_nothing_is_placed_as_if_there_were_no_exploration(
    where: tuple[Cluster, ...], what: tuple[Workload, ...], how: PolicySet, rule: ExplorationRule, unsure: Unsure
) -> None:
    snap = snapshot(*where, workloads=what)
    off = cycle(snap, exploring(how, None), unsure)
    assert off.budgets == ()
    assert explored(off) == ()
    on = cycle(snap, exploring(how, rule), unsure)
    if not explored(on):
        assert _without_budgets(on) == off


def _without_budgets(plan: Plan) -> Plan:
    return replace(plan, budgets=())


@given(where=FEDERATIONS, what=BACKLOGS, how=RULES, unsure=UNSURE, limit=st.integers(1, 60))
@QUICK
def test_the_other_budgets_hold_as_well(
    where: tuple[Cluster, ...], what: tuple[Workload, ...], how: PolicySet, unsure: Unsure, limit: int
) -> None:
    rule = ExplorationRule(Decimal(1000), "day", 4, 5.0)
    policies = exploring(how, rule, Budget("all", Decimal(limit), "day"))
    plan = cycle(snapshot(*where, workloads=what), policies, unsure)
    assert [each.budget for each in plan.budgets] == ["all", "exploration"]
    if any(each.placement.bought for each in plan.placements):
        for state in plan.budgets:
            assert state.spent_usd + state.committed_usd <= state.limit_usd
