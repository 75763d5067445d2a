"""Placements that are made to learn: where they may go, what they count for, and that the budget for them holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest

from policies.compiler import policy_set as compiled
from scheduler.engine.cycle import cycle
from scheduler.engine.exploration import WIDE, explored
from scheduler.model.cluster import Cluster, NodePool
from scheduler.model.ids import Uid
from scheduler.model.money import Price
from scheduler.model.plan import Plan
from scheduler.model.policy import Budget, BurstRule, Constraints, ExplorationRule, PlacementPolicy, ValueOfTime
from scheduler.model.ports import Prediction
from scheduler.model.snapshot import Explored
from scheduler.model.workload import Hints, Placement, PlacementState, Workload
from tests.unit.engine_world import NOW, bought_pool, cluster, node, pods, policy, policy_set, pool, snapshot, workload

OLD, NEW = "old", "new"
RULE = ExplorationRule(Decimal(100), "day")


@dataclass
class Speeds:
    """Seconds that every run takes on a pool, and how sure that is."""

    runs: dict[str, tuple[float | None, float | None]] = field(
        default_factory=lambda: {OLD: (3600.0, 0.05), NEW: (4000.0, 0.5)}
    )
    lost: float = 0.0

    def predict(self, workload: Workload, pool: NodePool, new_nodes: int) -> Prediction:
        run, sd = self.runs[pool.ref.pool]
        return Prediction(run, 300.0 if new_nodes else 20.0, self.lost, sd)


def site(**changes: Any) -> Cluster:
    """Two owned pools, a node of 8 GPUs at 8 USD an hour each."""
    pools = (pool("site", OLD), pool("site", NEW, gpu_model="H100", **changes))
    return cluster("site", pools, (node(OLD, "o1"), node(NEW, "n1")))


def learning(**changes: Any) -> PlacementPolicy:
    return replace(policy(objective="completion_time", exploration=RULE), **changes)


def run(how: PlacementPolicy, *jobs: Workload, speeds: Speeds | None = None, **changes: Any) -> Plan:
    where = changes.pop("where", (site(),))
    return cycle(snapshot(*where, workloads=jobs, **changes), policy_set(how), speeds or Speeds())


def pools_of(plan: Plan) -> list[str]:
    return [each.placement.pool for each in plan.placements]


def high(seconds: float, sd: float) -> float:
    return seconds * math.exp(1.6449 * sd)


def test_it_is_off_by_default() -> None:
    plan = run(learning(exploration=None), workload("w"))
    assert pools_of(plan) == [OLD]
    assert plan.placements[0].placement.exploration_usd is None
    assert plan.budgets == ()
    assert plan.decisions[0].reason.code == "Placed"


def test_a_workload_goes_where_it_could_be_faster_and_is_told_why() -> None:
    plan = run(learning(), workload("w", pods(1, 8)))
    (change,), (said,), (state,) = plan.placements, plan.decisions, plan.budgets
    assert change.placement.pool == NEW
    # A whole node at 8 USD an hour, start-up included, at the high end of the run's interval.
    want = 8 * (20 + high(4000.0, 0.5)) / 3600
    assert float(change.placement.exploration_usd or 0) == pytest.approx(want, abs=1e-8)
    assert said.reason.code == "Exploring"
    assert said.sentence == (
        "on site/new: to learn its speed there, 29m to 2h32m in 9 of 10 cases; "
        f"counts ${want:.2f} of its policy's exploration; site/old is the best known"
    )
    assert (said.outcome, said.chosen and said.chosen.pool.pool) == ("placed", NEW)
    assert [each.pool.pool for each in said.alternatives] == [OLD]
    assert (state.policy, state.budget, state.limit_usd, state.spent_usd) == (
        "any", "exploration", Decimal(100), Decimal(0),
    )  # fmt: skip
    assert state.committed_usd == change.placement.exploration_usd
    assert explored(plan) == (Explored(change.workload.uid, change.placement.attempt, "any", NOW, state.committed_usd),)


@pytest.mark.parametrize(
    ("speeds", "want"),
    [
        pytest.param({OLD: (3600.0, 0.05), NEW: (4000.0, 0.5)}, NEW, id="wide, and it may be faster"),
        pytest.param({OLD: (3600.0, 0.05), NEW: (4000.0, 0.06)}, OLD, id="narrow: it is slower for certain"),
        pytest.param({OLD: (3600.0, 0.05), NEW: (3700.0, WIDE - 0.01)}, OLD, id="known well enough"),
        pytest.param({OLD: (3600.0, 0.05), NEW: (5600.0, 0.5)}, OLD, id="expected to be worse by more than half"),
        pytest.param({OLD: (3600.0, 0.5), NEW: (4000.0, 0.5)}, OLD, id="the best is known no better"),
        pytest.param({OLD: (3600.0, 0.05), NEW: (4000.0, None)}, OLD, id="nobody says how sure"),
        pytest.param({OLD: (3600.0, 0.05), NEW: (3000.0, 0.5)}, NEW, id="the best anyway"),
        pytest.param({OLD: (3600.0, None), NEW: (4000.0, 0.5)}, NEW, id="the best by its user's word"),
    ],
)
def test_where_there_is_something_to_learn(speeds: dict[str, tuple[float | None, float | None]], want: str) -> None:
    plan = run(learning(), workload("w"), speeds=Speeds(speeds))
    assert pools_of(plan) == [want]
    explores = want == NEW and speeds[NEW] != (3000.0, 0.5)
    assert (plan.placements[0].placement.exploration_usd is not None) == explores


def _elsewhere(count: int = 1, **changes: Any) -> tuple[Workload, ...]:
    where = Placement(site().id, site().pools[1].ref.pool, "owned", False, PlacementState.STARTED, 7, NOW - 60, "d")
    where = replace(where, **({"exploration_usd": Decimal(90)} | changes))
    return tuple(workload(f"there{each}", pods(1, 1), placement=where) for each in range(count))


@pytest.mark.parametrize(
    ("rule", "others", "told", "want"),
    [
        pytest.param(RULE, (), (), NEW, id="nothing spent"),
        pytest.param(replace(RULE, limit_usd=Decimal(2)), (), (), OLD, id="more than the limit"),
        pytest.param(replace(RULE, limit_usd=Decimal(0)), (), (), OLD, id="no limit at all"),
        pytest.param(RULE, _elsewhere(), (), OLD, id="one is there already"),
        pytest.param(replace(RULE, at_once=2), _elsewhere(exploration_usd=Decimal(70)), (), NEW, id="two may be"),
        pytest.param(replace(RULE, at_once=2), _elsewhere(exploration_usd=Decimal(99)), (), OLD, id="99 committed"),
        pytest.param(replace(RULE, at_once=2), _elsewhere(exploration_usd=None), (), NEW, id="others do not count"),
        pytest.param(
            replace(RULE, at_once=2), _elsewhere(exploration_usd=Decimal(70)),
            (Explored(Uid("uid-there0"), 7, "any", NOW, Decimal(70)),), NEW,
            id="told twice, counted once",
        ),
        pytest.param(RULE, (), (Explored(Uid("x"), 1, "any", NOW - 60, Decimal(98)),), OLD, id="98 spent today"),
        pytest.param(RULE, (), (Explored(Uid("x"), 1, "any", NOW - 90_000, Decimal(98)),), NEW, id="98 yesterday"),
        pytest.param(RULE, (), (Explored(Uid("x"), 1, "other", NOW, Decimal(98)),), NEW, id="by another policy"),
        pytest.param(
            replace(RULE, window="total"), (), (Explored(Uid("x"), 1, "any", 0.0, Decimal(98)),), OLD, id="98 in all"
        ),
    ],
)  # fmt: skip
def test_the_budget_for_it_holds(
    rule: ExplorationRule, others: tuple[Workload, ...], told: tuple[Explored, ...], want: str
) -> None:
    plan = run(learning(exploration=rule), workload("w", pods(1, 8)), *others, explored=told,
               where=(cluster("site", (pool("site", OLD), pool("site", NEW)), (node(OLD, "o1"), *(
                   node(NEW, f"n{index}") for index in range(3)))),))  # fmt: skip
    new = [each for each in plan.placements if each.workload.name == "w"]
    assert [each.placement.pool for each in new] == [want]
    (state,) = plan.budgets
    assert state.spent_usd + state.committed_usd <= max(rule.limit_usd, state.spent_usd)


def test_of_equal_workloads_one_explores_the_others_go_where_it_is_best() -> None:
    jobs = [workload(f"w{index}", pods(1, 1)) for index in range(6)]
    plan = run(learning(exploration=replace(RULE, at_once=9)), *jobs)
    assert pools_of(plan) == [NEW, OLD, OLD, OLD, OLD, OLD]
    shots = snapshot(site(), workloads=tuple(jobs))
    one_by_one = cycle(shots, policy_set(learning()), Speeds(), one_by_one=True)
    assert cycle(shots, policy_set(learning()), Speeds()) == one_by_one


@pytest.mark.parametrize(
    ("changes", "job", "want"),
    [
        pytest.param({}, workload("w", hints=Hints(deadline_at=NOW + 9500)), NEW, id="in time at the high end"),
        pytest.param({}, workload("w", hints=Hints(deadline_at=NOW + 9000)), OLD, id="late at the high end"),
        pytest.param({"max_usd_per_run": Decimal("2.6")}, workload("w"), NEW, id="under the cap at the high end"),
        pytest.param({"max_usd_per_run": Decimal("2.4")}, workload("w"), OLD, id="over the cap at the high end"),
        pytest.param({"gpu_models": ("A100-80GB",)}, workload("w"), OLD, id="not allowed"),
        pytest.param({}, workload("w", runs_forever=True), OLD, id="serving has no end"),
    ],
)
def test_no_limit_is_broken_to_learn(changes: dict[str, Any], job: Workload, want: str) -> None:
    small = replace(job, pod_sets=(pods(1, 1, cpu=1, memory=1),))
    assert pools_of(run(learning(constraints=Constraints(**changes)), small)) == [want]


def test_owned_nodes_without_a_price_are_not_explored() -> None:
    assert pools_of(run(learning(), workload("w"), where=(site(price=None),))) == [OLD]


def test_bought_nodes_count_with_their_start_up_and_idle_time_and_in_the_budgets_too() -> None:
    clouds = cluster("eks", (bought_pool("eks", NEW, gpu_model="H100"),))
    old = cluster("site", (pool("site", OLD, price=Price(Decimal(20), "test", NOW)),),
                  (node(OLD, "o1"),))  # fmt: skip
    how = learning(objective="cost", budgets=(Budget("all", Decimal(60), "day"),))
    plan = run(
        how, workload("w", pods(1, 8)), where=(clouds, old), speeds=Speeds({OLD: (3600.0, 0.05), NEW: (5000.0, 0.5)})
    )
    (change,) = plan.placements
    assert (change.placement.pool, change.placement.state) == (NEW, PlacementState.RESERVED)
    assert plan.decisions[0].sentence.startswith("buying 1 node in eks/new: to learn its speed there")
    want = 16 * (300 + high(5000.0, 0.5) + 300) / 3600
    assert float(change.placement.exploration_usd or 0) == pytest.approx(want, abs=1e-8)
    assert [each.budget for each in plan.budgets] == ["all", "exploration"]
    tight = replace(how, budgets=(Budget("all", Decimal(10), "day"),))
    assert pools_of(run(tight, workload("w", pods(1, 8)), where=(clouds, old))) == [OLD]


@pytest.mark.parametrize(("usd", "want"), [(1, OLD), (60, NEW)])
def test_where_time_is_valued_it_counts_in_what_is_hoped(usd: int, want: str) -> None:
    """The new pool costs more an hour: time has to be worth something before its chance is."""
    dear = site(price=Price(Decimal(20), "test", NOW))
    there = bought_pool("eks", NEW, price=dear.pools[1].price, max_nodes=1, desired_nodes=1)
    clouds = cluster("eks", (there,), (node(NEW, "n1"),))
    old = cluster("site", (pool("site", OLD),), (node(OLD, "o1"),))
    how = learning(value_of_time=ValueOfTime(Decimal(usd)), burst=BurstRule())
    job = workload("w", pods(1, 8), hints=Hints(expected_seconds=3600.0))
    plan = run(how, job, where=(old, clouds), speeds=Speeds({OLD: (3600.0, 0.05), NEW: (3500.0, 0.6)}))
    assert plan.solver == "optimal"
    assert pools_of(plan) == [want]


def test_a_policy_set_without_exploration_keeps_its_name() -> None:
    plain = PlacementPolicy("any")
    # As it was before there was any exploration.
    assert compiled((plain,), ()).digest == GOLDEN
    assert compiled((replace(plain, exploration=RULE),), ()).digest != GOLDEN


GOLDEN = "0f25ccd4c1e6d17af68f2edd7ea9876e205399fd9194404b2c7fd91e3e0e4f3c"
