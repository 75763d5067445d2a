"""Data gravity: where the data lies weighs in every choice, in time and in money."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from clusters.kubernetes.annotations import parse_hints
from scheduler.daemon.config.federation import load_federation
from scheduler.daemon.config.routes import routes_between
from scheduler.engine.cycle import cycle
from scheduler.engine.transfer import DEFAULT_BYTES_PER_SECOND, Transfer, transfer
from scheduler.model.cluster import Route
from scheduler.model.contract import ANNOTATION_DATA
from scheduler.model.ids import ClusterId
from scheduler.model.money import Price
from scheduler.model.plan import Decision, Plan
from scheduler.model.policy import PlacementPolicy, ValueOfTime
from scheduler.model.workload import DataSet, Hints
from scheduler.predict.first import FirstPredictor
from scheduler.simulate.measures import measure
from tests.sim.worlds import A_DOLLAR, job, run, site, trace
from tests.unit.engine_world import NOW, bought_pool, cluster, node, policy, policy_set, pool, snapshot, workload

EKS, GKE, ONPREM = ClusterId("eks"), ClusterId("gke"), ClusterId("onprem")
GIB = 2**30
FROM_GKE = Route(GKE, Decimal("0.12"), 1e8)
FREE = Route(ONPREM, Decimal(0), 5e8)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ((), Transfer(0.0, Decimal(0))),
        ((DataSet(EKS, 500 * GIB),), Transfer(0.0, Decimal(0))),
        ((DataSet(GKE, 100 * GIB),), Transfer(100 * GIB / 1e8, Decimal("12"))),
        ((DataSet(ONPREM, GIB), DataSet(GKE, GIB)), Transfer(GIB / 5e8 + GIB / 1e8, Decimal("0.12"))),
        ((DataSet(ClusterId("elsewhere"), GIB),), Transfer(GIB / DEFAULT_BYTES_PER_SECOND, None)),
    ],
)
def test_what_bringing_data_to_a_cluster_takes(data: tuple[DataSet, ...], wanted: Transfer) -> None:
    assert transfer(data, replace(cluster("eks", ()), routes=(FROM_GKE, FREE))) == wanted


def plan_for(*data: DataSet, eks_price: str = "10", rules: PlacementPolicy | None = None) -> Plan:
    """An hour's work, in eks for less than in gke, where the data lies."""
    eks = bought_pool("eks", "b", price=Price(Decimal(eks_price), "test", NOW))
    homes = (
        cluster("eks", (eks,), routes=(FROM_GKE,)),
        cluster("gke", (bought_pool("gke", "t"),), routes=()),
    )
    waiting = workload("w", hints=Hints(expected_seconds=3600.0, data=data))
    return cycle(snapshot(*homes, workloads=(waiting,)), policy_set(rules or policy()), FirstPredictor())


def chosen(plan: Plan) -> tuple[str, Decision]:
    (decision,) = plan.decisions
    assert decision.chosen is not None
    return decision.chosen.pool.cluster, decision


def test_without_data_the_cheaper_cloud_is_taken() -> None:
    assert chosen(plan_for())[0] == "eks"


def test_a_run_goes_where_its_data_lies_when_egress_costs_more_than_the_price_differs() -> None:
    where, decision = chosen(plan_for(DataSet(GKE, 100 * GIB)))
    assert where == "gke"
    other = next(each for each in decision.alternatives if each.pool.cluster == "eks")
    # A node for an hour, and 12 USD of egress.
    assert other.expected_cost_usd == Decimal(10) + Decimal(12)


def test_little_data_does_not_hold_it() -> None:
    assert chosen(plan_for(DataSet(GKE, GIB // 1024)))[0] == "eks"


def test_the_programme_weighs_it_too_and_explains_it() -> None:
    rules = policy(value_of_time=ValueOfTime(usd_per_gpu_hour=Decimal("0.1")))
    where, decision = chosen(plan_for(DataSet(GKE, 100 * GIB), rules=rules))
    assert where == "gke"
    other = next(each for each in decision.alternatives if each.pool.cluster == "eks")
    assert {part.name: part.usd for part in other.cost_parts}["data"] == 12.0
    assert chosen(plan_for(DataSet(GKE, GIB // 1024), rules=rules))[0] == "eks"


def test_time_counts_where_egress_is_free() -> None:
    rules = policy(objective="completion-time")
    assert chosen(plan_for(rules=rules))[0] == "eks"
    assert chosen(plan_for(DataSet(GKE, 100 * GIB), rules=rules))[0] == "gke"


def test_nothing_is_bought_where_nobody_knows_what_its_data_would_cost() -> None:
    plan = plan_for(DataSet(ClusterId("elsewhere"), GIB))
    assert not plan.placements
    (decision,) = plan.decisions
    assert "unknown cost of bringing its data" in decision.sentence


@pytest.mark.parametrize("worth", [None, ValueOfTime(usd_per_gpu_hour=Decimal(1))])
def test_owned_nodes_are_not_refused_for_it(worth: ValueOfTime | None) -> None:
    home = cluster("onprem", (pool("onprem", "a"),), (node("a", "n1"),))
    waiting = workload(
        "w", hints=Hints(expected_seconds=3600.0, data=(DataSet(ClusterId("elsewhere"), GIB),)), queued_at=NOW
    )
    plan = cycle(snapshot(home, workloads=(waiting,)), policy_set(policy(value_of_time=worth)), FirstPredictor())
    assert [change.placement.cluster for change in plan.placements] == ["onprem"]


@pytest.mark.parametrize(
    ("text", "wanted", "problems"),
    [
        ("500Gi@onprem", (DataSet(ONPREM, 500 * GIB),), 0),
        (" 1Gi@gke , 2Gi@eks,1Gi@gke ", (DataSet(EKS, 2 * GIB), DataSet(GKE, 2 * GIB)), 0),
        ("", (), 0),
        ("500Gi", (), 1),
        ("lots@onprem, 1Gi@eks", (DataSet(EKS, GIB),), 1),
        ("-1Gi@eks", (), 1),
        ("1e99@eks", (), 1),
        ("1Gi@", (), 1),
        (",".join(["1Gi@eks"] * 20), (DataSet(EKS, 16 * GIB),), 1),
    ],
)
def test_the_annotation(text: str, wanted: tuple[DataSet, ...], problems: int) -> None:
    read = parse_hints({ANNOTATION_DATA: text}, NOW)
    assert read.hints.data == wanted
    assert len(read.problems) == problems


def test_a_replay_brings_the_data_and_pays_for_it() -> None:
    where = site(0)
    route = Route(ClusterId("onprem"), Decimal("0.10"), 1e8)
    where = replace(where, clusters=tuple(replace(each, routes=(route,)) for each in where.clusters))
    found = run(trace(job("reads", run=600.0, data=(DataSet(ONPREM, 100 * GIB),))), where)
    (record,) = found.jobs
    assert record.data_usd == Decimal(10)
    # Its node comes after 240 s; then it reads, then it works.
    assert record.finished_at == pytest.approx(found.started_at + 240.0 + 100 * GIB / 1e8 + 600.0)
    figures = measure(found, A_DOLLAR)
    assert figures.total_cost_usd == pytest.approx(figures.cloud_spend_usd + figures.time_value_usd + 10.0)


FEDERATION = """
apiVersion: overspill.dev/v1alpha1
kind: Federation
metadata: {name: test}
spec:
  members:
    - {name: onprem, region: dc1, kubeconfig: k, provider: {type: onprem}, network: {bytesPerSecond: 1Gi}}
    - {name: eks, region: us-east-1, kubeconfig: k, provider: {type: eks}}
    - {name: eks2, region: us-west-2, kubeconfig: k, provider: {type: eks}, network: {egressUsdPerGib: 0.03}}
    - {name: far, region: mars, kubeconfig: k, provider: {type: gke}}
"""


def test_routes_come_from_the_file_and_the_list_prices(tmp_path: Path) -> None:
    file = tmp_path / "federation.yaml"
    file.write_text(FEDERATION)
    routes = routes_between(load_federation(file, validate_provider=None).members)
    to_onprem = {route.source: route for route in routes[ONPREM]}
    assert to_onprem[EKS].usd_per_gib == Decimal("0.09")
    assert to_onprem[EKS].bytes_per_second == 2**30
    assert to_onprem[ClusterId("eks2")].usd_per_gib == Decimal("0.03")
    to_eks = {route.source: route for route in routes[EKS]}
    assert to_eks[ONPREM].usd_per_gib == 0
    assert to_eks[ClusterId("eks2")].bytes_per_second is None
    within = {route.source: route for route in routes[ClusterId("eks2")]}[EKS].usd_per_gib
    assert within is None or within < Decimal("0.09")
