"""Emulated node pools: machines that boot, go, are reclaimed or cannot be had; and what they cost."""

from __future__ import annotations

from decimal import Decimal

import pytest

from clusters.sandbox.emulation.billing import total
from clusters.sandbox.emulation.faults import strike
from clusters.sandbox.emulation.objects import INSTANCE_FINALIZER, condition, condition_true, parse_time
from clusters.sandbox.ports import PoolState
from clusters.sandbox.scenario import FaultPlan
from scheduler.model.contract import EVENTS, JOBS, NODES, PODS
from scheduler.model.errors import InvalidObjectError
from scheduler.model.money import cost_usd
from tests.unit.emulation_fakes import START, Bench, bench, pool


def _state(b: Bench) -> PoolState:
    return b.cluster.pools.pools()[0]


def _strike(b: Bench, fault: FaultPlan) -> None:
    strike(b.cluster, fault, b.clock, b.timers, lambda seconds: None)


async def test_a_fixed_pool_has_its_nodes_at_once() -> None:
    async with bench(pool(maximum=3, fixed=True), provider="onprem") as b:
        assert [node["metadata"]["name"] for node in b.api.all(NODES)] == ["east-a100-0", "east-a100-1", "east-a100-2"]


async def test_growth_arrives_after_the_provisioning_time() -> None:
    async with bench(pool()) as b:
        b.cluster.pools.resize("a100", 2)
        assert _state(b).desired == 2
        assert _state(b).resizing
        assert {one.state for one in _state(b).instances} == {"pending"}
        await b.pass_time(160)
        assert b.api.all(NODES) == []
        await b.pass_time(80)
        nodes = b.api.all(NODES)
        assert len(nodes) == 2
        assert not _state(b).resizing
        node = nodes[0]
        labels = node["metadata"]["labels"]
        assert labels["eks.amazonaws.com/nodegroup"] == "a100"
        assert labels["nvidia.com/gpu.product"] == "A100-80GB"
        assert labels["nvidia.com/gpu.memory"] == "81920"
        assert labels["node.kubernetes.io/instance-type"] == "p4d.24xlarge"
        assert labels["topology.kubernetes.io/zone"] == "us-east-1a"
        assert node["spec"]["providerID"] in {one.provider_id for one in _state(b).instances}
        assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
        assert node["metadata"]["finalizers"] == [INSTANCE_FINALIZER]
        assert condition_true(node, "Ready")


@pytest.mark.parametrize("desired", [-1, 5])
async def test_sizes_outside_the_limits_are_refused(desired: int) -> None:
    async with bench(pool()) as b:
        with pytest.raises(ValueError, match=r"outside 0\.\.4"):
            b.cluster.pools.resize("a100", desired)
        with pytest.raises(KeyError):
            b.cluster.pools.resize("none", 1)


async def test_shrinking_takes_pending_machines_then_idle_ones() -> None:
    async with bench(pool(initial=2)) as b:
        await b.create_job("busy", run=5000, gpus=8)
        await b.pass_time(10)
        busy = b.api.all(PODS)[0]["spec"]["nodeName"]
        b.cluster.pools.resize("a100", 3)
        b.cluster.pools.resize("a100", 2)
        assert [one.state for one in _state(b).instances] == ["running", "running"]
        b.cluster.pools.resize("a100", 1)
        await b.pass_time(60)
        assert [node["metadata"]["name"] for node in b.api.all(NODES)] == [busy]


async def test_a_node_is_seen_deleting_before_it_is_gone() -> None:
    async with bench(pool(initial=1)) as b:
        await b.settle()
        name = b.api.all(NODES)[0]["metadata"]["name"]
        seen: list[tuple[str, bool]] = []
        b.cluster.nodes.handle(lambda kind, old, node: seen.append((kind, "deletionTimestamp" in node["metadata"])))
        b.cluster.pools.remove("a100", name)
        assert _state(b).desired == 0
        await b.pass_time(5)
        assert b.api.one(NODES, name, "")["metadata"]["deletionTimestamp"]
        await b.pass_time(60)
        assert b.api.all(NODES) == []
        assert seen[0] == ("MODIFIED", True)
        assert seen[-1] == ("DELETED", True)
        b.cluster.pools.remove("a100", name)  # gone already: changes nothing
        assert _state(b).desired == 0


async def test_pods_of_a_removed_machine_fail_and_their_job_starts_again_elsewhere() -> None:
    async with bench(pool(initial=2)) as b:
        await b.create_job("long", run=300)
        await b.pass_time(10)
        first = b.api.all(PODS)[0]
        b.cluster.pools.remove("a100", first["spec"]["nodeName"])
        await b.pass_time(60)
        pods = b.api.all(PODS)
        assert [pod["metadata"]["name"] for pod in pods if pod["metadata"]["uid"] == first["metadata"]["uid"]] == []
        assert pods[0]["spec"]["nodeName"] != first["spec"]["nodeName"]
        await b.pass_time(400)
        done = b.api.one(JOBS, "long")
        assert condition_true(done, "Complete")
        assert done["status"]["failed"] == 1


async def test_the_bill_is_node_time_times_price() -> None:
    async with bench(pool(initial=1)) as b:
        await b.settle()
        node = b.api.all(NODES)[0]
        await b.pass_time(1800)
        assert total(b.cluster.billing.charges()) == Decimal("5.000000000")
        b.cluster.pools.resize("a100", 0)
        await b.pass_time(3600)
        (charge,) = b.cluster.billing.charges()
        assert charge.node == node["metadata"]["name"]
        assert charge.created_at == parse_time(node["metadata"]["creationTimestamp"])
        assert charge.deleted_at == START + 1800
        assert charge.usd == cost_usd(Decimal("10.00"), 1800.0)


async def test_a_machine_that_never_booted_and_an_owned_one_cost_nothing() -> None:
    async with bench(pool(), pool("owned", maximum=1, fixed=True, capacity="owned")) as b:
        b.cluster.pools.resize("a100", 1)
        await b.pass_time(50)
        b.cluster.pools.resize("a100", 0)
        await b.pass_time(3600)
        assert b.cluster.billing.charges() == ()


async def test_a_capacity_shortage_holds_growth_until_it_is_over() -> None:
    async with bench(pool()) as b:
        _strike(b, FaultPlan(0, "east", "capacity-shortage", pool="a100", seconds=1000))
        b.cluster.pools.resize("a100", 1)
        assert _state(b).shortage == "capacity"
        await b.pass_time(900)
        assert b.api.all(NODES) == []
        await b.pass_time(400)
        assert len(b.api.all(NODES)) == 1
        assert _state(b).shortage is None


async def test_a_scripted_shortage_and_a_quota() -> None:
    async with bench(pool(shortages=((0.0, 500.0),), quota_nodes=2)) as b:
        await b.settle()
        b.clock.advance(START + 1)
        await b.settle()
        b.cluster.pools.resize("a100", 3)
        assert _state(b).shortage == "capacity"
        await b.pass_time(1000)
        assert len(b.api.all(NODES)) == 2
        assert _state(b).shortage == "quota"


async def test_a_reclaimed_spot_machine_has_notice_and_is_replaced() -> None:
    async with bench(pool(initial=1, capacity="spot")) as b:
        await b.settle()
        node = b.api.all(NODES)[0]["metadata"]["name"]
        _strike(b, FaultPlan(0, "east", "spot-reclaim", node=node))
        await b.pass_time(10)
        (taint,) = b.api.one(NODES, node, "")["spec"]["taints"]
        assert taint.pop("value").startswith("spot-itn-")
        assert taint == {"key": "aws-node-termination-handler/spot-itn", "effect": "NoSchedule"}
        assert b.api.all(EVENTS)[0]["reason"] == "SpotInterruption"
        await b.pass_time(100)
        assert "deletionTimestamp" not in b.api.one(NODES, node, "")["metadata"]
        await b.pass_time(60)
        assert node not in [n["metadata"]["name"] for n in b.api.all(NODES)]
        await b.pass_time(300)
        assert len(b.api.all(NODES)) == 1
        assert _state(b).desired == 1


async def test_spot_machines_are_reclaimed_by_seeded_chance() -> None:
    async with bench(pool(initial=1, capacity="spot", reclaims_per_hour=60.0)) as b:
        await b.settle()
        first = b.api.all(NODES)[0]["metadata"]["uid"]
        await b.pass_time(3600)
        assert first not in [node["metadata"]["uid"] for node in b.api.all(NODES)]


async def test_deleting_the_node_object_terminates_its_machine() -> None:
    async with bench(pool(initial=1)) as b:
        await b.settle()
        await b.api.delete(NODES, "", b.api.all(NODES)[0]["metadata"]["name"])
        await b.pass_time(60)
        assert b.api.all(NODES) == []
        assert _state(b).desired == 0
        assert _state(b).instances == ()


async def test_a_silent_node_is_tainted_and_its_pods_are_evicted_after_five_minutes() -> None:
    async with bench(pool(maximum=2, fixed=True)) as b:
        await b.create_job("long", run=2000)
        await b.pass_time(10)
        pod = b.api.all(PODS)[0]
        node = pod["spec"]["nodeName"]
        _strike(b, FaultPlan(0, "east", "node-not-ready", node=node))
        await b.pass_time(200)
        ready = condition(b.api.one(NODES, node, ""), "Ready")
        assert ready is not None
        assert (ready["status"], ready["reason"]) == ("Unknown", "NodeStatusUnknown")
        keys = {(t["key"], t["effect"]) for t in b.api.one(NODES, node, "")["spec"]["taints"]}
        assert keys == {
            ("node.kubernetes.io/unreachable", "NoSchedule"),
            ("node.kubernetes.io/unreachable", "NoExecute"),
        }
        assert "deletionTimestamp" not in b.api.all(PODS)[0]["metadata"]
        await b.pass_time(200)
        gone = b.api.one(PODS, pod["metadata"]["name"])
        assert gone["metadata"]["deletionTimestamp"]  # stays: nobody on the node confirms its end
        assert len(b.api.all(PODS)) == 2
        _strike(b, FaultPlan(0, "east", "node-restored", node=node))
        await b.pass_time(20)
        assert condition_true(b.api.one(NODES, node, ""), "Ready")
        assert not b.api.one(NODES, node, "")["spec"].get("taints")
        assert len(b.api.all(PODS)) == 1


async def test_a_pod_that_ends_while_its_node_is_silent_is_reported_afterwards_with_its_true_time() -> None:
    async with bench() as b:
        await b.create_job("short", run=100)
        await b.pass_time(10)
        node = b.api.all(PODS)[0]["spec"]["nodeName"]
        _strike(b, FaultPlan(0, "east", "node-not-ready", node=node, seconds=200))
        await b.pass_time(150)
        assert b.api.all(PODS)[0]["status"]["phase"] == "Running"
        await b.pass_time(100)
        done = b.api.one(JOBS, "short")
        assert condition_true(done, "Complete")
        assert parse_time(done["status"]["completionTime"]) == START + 101


async def test_a_lost_machine_takes_its_pods_with_it_and_is_replaced() -> None:
    async with bench(pool(initial=1)) as b:
        await b.create_job("long", run=300)
        await b.pass_time(10)
        node = b.api.all(NODES)[0]["metadata"]["name"]
        _strike(b, FaultPlan(0, "east", "node-lost", node=node))
        await b.pass_time(30)
        assert b.api.all(NODES) == []
        await b.pass_time(1000)
        assert condition_true(b.api.one(JOBS, "long"), "Complete")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (FaultPlan(0, "east", "gremlins"), "gremlins"),
        (FaultPlan(0, "east", "node-lost", node="nobody"), "nobody"),
        (FaultPlan(0, "east", "capacity-shortage", pool="none"), "none"),
        (FaultPlan(0, "east", "api-silent"), "seconds"),
    ],
)
async def test_faults_that_cannot_be_are_refused(fault: FaultPlan, says: str) -> None:
    async with bench() as b:
        with pytest.raises(InvalidObjectError, match=says):
            _strike(b, fault)
