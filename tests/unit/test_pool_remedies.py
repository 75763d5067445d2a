"""What remedies ask of a member's provider: a node replaced, a pool grown ahead; once, and fenced."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from clusters.kubernetes.codec import parse_node
from scheduler.daemon.placing.pools import PoolKeeper
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.contract import ANNOTATION_CLOSED
from scheduler.model.errors import CapacityError, FencedError
from scheduler.model.ids import ClusterId, NodeName, PoolId, PoolRef
from scheduler.model.plan import CloseNode, OpenNode, RemoveNode, ScalePool
from scheduler.model.ports import PoolStatus
from tests.builders.apiserver import StillClock
from tests.unit.engine_world import bought_pool

POOL = PoolId("p4d")
STATUS = PoolStatus(POOL, "p4d.24xlarge", "on-demand", 0, 4, 2, (), False)


class Cloud:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.short = False

    async def remove_node(self, pool: PoolId, node: NodeName, provider_id: str) -> None:
        self.asked.append(("remove", pool, node, provider_id))

    async def set_size(self, pool: PoolId, desired_nodes: int) -> None:
        self.asked.append(("size", pool, desired_nodes))
        if self.short:
            raise CapacityError("no such machine now")


class Pools:
    def __init__(self, **status: Any) -> None:
        self.cloud = Cloud()
        self.leads = True
        facts = SimpleNamespace(uid="u1", deleting=False, provider_id="aws:///i-1")
        self.member: Any = SimpleNamespace(
            member=SimpleNamespace(id=ClusterId("eks")),
            nodes={"n1": facts},
            pool_status={POOL: replace(STATUS, **status)},
            pools=lambda: (bought_pool("eks", "p4d"),),
        )
        mirror: Any = SimpleNamespace(on_change=lambda: None)
        cloud: Any = self.cloud
        self.patches: list[tuple[str, dict[str, Any]]] = []
        api: Any = SimpleNamespace(patch=self.patch)
        member: Any = self.member
        self.keeper = PoolKeeper(mirror, member, cloud, api, StillClock(), Telemetry(), self.fence)

    async def patch(self, resource: Any, namespace: str, name: str, body: dict[str, Any]) -> None:
        self.patches.append((name, body))

    def fence(self) -> None:
        if not self.leads:
            raise FencedError("not the leader")


async def test_a_node_is_given_back_and_another_asked_for() -> None:
    pools = Pools()
    assert await pools.keeper.replace(POOL, NodeName("n1"), "u1")
    assert pools.cloud.asked == [("remove", POOL, "n1", "aws:///i-1"), ("size", POOL, 2)]


@pytest.mark.parametrize(("uid", "deleting"), [("u2", False), ("u1", True)])
async def test_a_node_that_is_gone_or_going_is_replaced_already(uid: str, deleting: bool) -> None:
    pools = Pools()
    pools.member.nodes["n1"].deleting = deleting
    assert await pools.keeper.replace(POOL, NodeName("n1"), uid)
    assert await pools.keeper.replace(POOL, NodeName("n2"), "u1")
    assert pools.cloud.asked == []


async def test_a_busy_pool_is_asked_later() -> None:
    pools = Pools(busy=True)
    assert not await pools.keeper.replace(POOL, NodeName("n1"), "u1")
    assert not await pools.keeper.grow(POOL, 1)
    assert pools.cloud.asked == []


async def test_a_pool_grows_to_its_largest_size_and_no_further() -> None:
    pools = Pools()
    assert await pools.keeper.grow(POOL, 1)
    assert await pools.keeper.grow(POOL, 9)
    assert await pools.keeper.grow(POOL, 9)
    assert pools.cloud.asked == [("size", POOL, 3), ("size", POOL, 4)]


async def test_without_the_lease_nothing_is_asked_and_a_shortage_is_told() -> None:
    pools = Pools()
    pools.leads = False
    with pytest.raises(FencedError):
        await pools.keeper.replace(POOL, NodeName("n1"), "u1")
    with pytest.raises(FencedError):
        await pools.keeper.grow(POOL, 1)
    assert pools.cloud.asked == []
    pools.leads, pools.cloud.short = True, True
    with pytest.raises(CapacityError):
        await pools.keeper.grow(POOL, 1)


async def test_a_node_that_a_remedy_will_replace_is_not_just_given_back() -> None:
    pools = Pools()
    removal = RemoveNode(PoolRef(ClusterId("eks"), POOL), NodeName("n1"), "u1", "idle")
    pools.keeper.hold("u1")
    pools.keeper.want([], [removal], [], [])
    await pools.keeper._act()
    assert pools.cloud.asked == [], "its place would stay empty"
    assert await pools.keeper.replace(POOL, NodeName("n1"), "u1")
    assert pools.cloud.asked[-1] == ("size", POOL, 2)


async def test_what_closes_a_node_says_so_on_it_and_is_taken_back_whole() -> None:
    pools, where = Pools(), (PoolRef(ClusterId("eks"), POOL), NodeName("n1"), "u1")
    pools.keeper.want([], [], [CloseNode(*where, "moved off")], [])
    await pools.keeper._act()
    pools.keeper.want([], [], [], [OpenNode(*where, "it stays")])
    assert not pools.keeper.idle
    await pools.keeper._act()
    closed = {
        "metadata": {"uid": "u1", "annotations": {ANNOTATION_CLOSED: "moved off"}},
        "spec": {"unschedulable": True},
    }
    opened = {"metadata": {"uid": "u1", "annotations": {ANNOTATION_CLOSED: None}}, "spec": {"unschedulable": None}}
    assert pools.patches == [("n1", closed), ("n1", opened)]
    assert pools.keeper.idle


async def test_a_node_that_is_to_be_closed_is_not_opened_before() -> None:
    pools, where = Pools(), (PoolRef(ClusterId("eks"), POOL), NodeName("n1"), "u1")
    pools.keeper.want([], [], [CloseNode(*where, "moved off")], [OpenNode(*where, "it stays")])
    await pools.keeper._act()
    assert [body["spec"]["unschedulable"] for _, body in pools.patches] == [True]


@pytest.mark.parametrize(
    ("annotations", "unschedulable", "closed"),
    [
        ({ANNOTATION_CLOSED: "moved off"}, True, True),
        ({}, True, False),
        ({ANNOTATION_CLOSED: "moved off"}, False, False),
    ],
)
def test_who_closed_a_node_is_read_from_it(annotations: dict[str, str], unschedulable: bool, *, closed: bool) -> None:
    meta = {"name": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations}
    assert parse_node({"metadata": meta, "spec": {"unschedulable": unschedulable}}).closed is closed


async def test_a_size_that_is_read_is_written_before_another_reads_it() -> None:
    pools = Pools()
    ref = PoolRef(ClusterId("eks"), POOL)
    pools.keeper.want([ScalePool(ref, 2, 4, "demand")], [], [], [])
    await asyncio.gather(pools.keeper.replace(POOL, NodeName("n1"), "u1"), pools.keeper._act())
    assert [ask for ask in pools.cloud.asked if ask[0] == "size"][-1] == ("size", POOL, 4), "demand is not lost"
