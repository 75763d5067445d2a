"""One Reclaim for each node, whoever says so and however often; taken back when its cloud takes it back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from clusters.kubernetes.codec import format_time
from scheduler.daemon.config.federation import Member
from scheduler.daemon.history.store import History
from scheduler.daemon.learning.learner import Learner
from scheduler.daemon.state.member_mirror import MemberMirror
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.cluster import NodePool, Reclaim
from scheduler.model.contract import TOPOLOGY_ZONE
from scheduler.model.ids import ClusterId, NodeName, PoolId, PoolRef
from scheduler.model.resources import Resources
from scheduler.predict.learning import Learning

NOW = 1_800_000_000.0
TAINT = "aws-node-termination-handler/spot-itn"
POOL = NodePool(
    ref=PoolRef(ClusterId("eks"), PoolId("spot")),
    capacity_type="spot",
    scaling="managed",
    instance_type="g5.xlarge",
    min_nodes=0,
    max_nodes=4,
    desired_nodes=None,
    node_resources=Resources(),
    gpu_model=None,
    gpu_memory_bytes=None,
    labels=(("pool", "spot"),),
    selector=(("pool", "spot"),),
    taints=(),
    price=None,
    provisioning_seconds=None,
)


class Told:
    """A member's mirror, and what it told."""

    def __init__(self) -> None:
        member = Member(ClusterId("eks"), "us", (), "in-cluster", None, None, "eks", {}, Path(), None, (POOL,))
        self.mirror = MemberMirror(member, [], lambda uid: None, lambda pod, uid, bound: None)
        self.noticed: list[Reclaim] = []
        self.withdrawn: list[Reclaim] = []
        self.gone: list[str] = []
        self.advised: list[Reclaim] = []

        def notice(reclaim: Reclaim) -> Reclaim:
            self.noticed.append(reclaim)
            return reclaim

        self.mirror.on_reclaim = notice
        self.mirror.on_reclaim_withdrawn = self.withdrawn.append
        self.mirror.on_node_gone = lambda cluster, uid: self.gone.append(uid)
        self.mirror.on_advice = self.advised.append

    @property
    def usable(self) -> list[bool]:
        return [node.usable for node in self.mirror.cluster().nodes]


def node(*taints: str, uid: str = "u1", created: float = NOW - 600, message: str = "") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True"}]
    if message:
        conditions.append({"type": "VMEventScheduled", "status": "True", "message": message})
    return {
        "metadata": {"name": "n", "uid": uid, "labels": {"pool": "spot"}, "creationTimestamp": format_time(created)},
        "spec": {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]},
        "status": {"conditions": conditions},
    }


def event(at: float, uid: str = "u1", reason: str = "SpotInterrupted") -> dict[str, Any]:
    about = {"kind": "Node", "name": "n", "uid": uid}
    return {"metadata": {"name": "e"}, "involvedObject": about, "reason": reason, "firstTimestamp": format_time(at)}


def test_it_is_told_once_however_often_it_is_said() -> None:
    told = Told()
    told.mirror.apply_node(node(), NOW)
    assert told.usable == [True]
    for later in range(5):
        told.mirror.apply_node(node(TAINT), NOW + later)
    told.mirror.apply_event(event(NOW), NOW + 6)
    want = Reclaim(ClusterId("eks"), PoolId("spot"), NodeName("n"), "u1", NOW, NOW + 120, f"taint {TAINT}")
    assert told.noticed == [want]
    assert told.usable == [False]
    told.mirror.drop_node("n")
    assert told.gone == ["u1"]
    assert not told.withdrawn


def test_an_event_alone_is_enough_and_may_come_before_its_node() -> None:
    told = Told()
    assert not told.mirror.apply_event(event(NOW - 20), NOW)
    told.mirror.apply_node(node(), NOW)
    assert [one.deadline for one in told.noticed] == [NOW + 100]
    assert told.usable == [False]


def test_an_event_about_a_predecessor_of_the_same_name_says_nothing() -> None:
    told = Told()
    told.mirror.apply_event(event(NOW - 100, uid="u0"), NOW)
    told.mirror.apply_event(event(NOW - 100, uid="n"), NOW)  # by name only, and older than the node
    told.mirror.apply_node(node(created=NOW - 50), NOW)
    assert not told.noticed
    assert told.usable == [True]


def test_a_node_that_outlives_its_events_end_by_far_was_not_taken() -> None:
    told = Told()
    told.mirror.apply_node(node(), NOW)
    told.mirror.apply_event(event(NOW), NOW)
    told.mirror.apply_node(node(), NOW + 700)
    assert told.usable == [False]
    told.mirror.apply_node(node(), NOW + 721)
    assert told.usable == [True]
    assert len(told.withdrawn) == 1


def test_a_notice_that_is_taken_back_frees_the_node() -> None:
    told = Told()
    told.mirror.apply_node(node(TAINT), NOW)
    told.mirror.apply_node(node(), NOW + 5)
    assert told.usable == [True]
    assert told.withdrawn == told.noticed


def test_a_deadline_that_the_cloud_names_corrects_the_reckoned_one() -> None:
    told = Told()
    told.mirror.apply_node(node("aks-node-termination-handler/preempt"), NOW)
    when = "Fri, 15 Jan 2027 08:00:45 GMT"
    told.mirror.apply_node(node("aks-node-termination-handler/preempt", message=f"Preempt Scheduled: {when}."), NOW + 3)
    assert [one.deadline for one in told.noticed] == [NOW + 30, NOW + 45]
    assert {one.noticed_at for one in told.noticed} == {NOW}


def test_another_node_of_the_same_name_is_another_node() -> None:
    told = Told()
    told.mirror.apply_node(node(TAINT), NOW)
    told.mirror.apply_node(node(uid="u2", created=NOW + 50), NOW + 60)
    assert told.gone == ["u1"]
    assert told.usable == [True]
    assert list(told.mirror.reclaims) == []


def test_advice_leaves_the_node_usable() -> None:
    told = Told()
    told.mirror.apply_node(node("aws-node-termination-handler/rebalance-recommendation"), NOW)
    assert [one.source for one in told.advised] == ["taint aws-node-termination-handler/rebalance-recommendation"]
    assert told.usable == [True]
    assert not told.noticed


def _in_zone(zone: str, *taints: str) -> dict[str, Any]:
    """A node of its own in each."""
    raw = node(*taints, uid=f"u-{zone}")
    raw["metadata"]["name"] = f"n-{zone}"
    raw["metadata"]["labels"][TOPOLOGY_ZONE] = zone
    return raw


class At:
    """A clock that stands where it is put."""

    def __init__(self, now: float) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def test_a_reclaim_teaches_the_zone_of_its_own_node() -> None:
    told, clock = Told(), At(NOW)
    hub = SimpleNamespace(members={ClusterId("eks"): told.mirror})
    learner = Learner(cast("Mirror", hub), cast("History", None), clock, Telemetry())

    def notice(reclaim: Reclaim) -> Reclaim:
        learner.reclaimed(reclaim)
        return reclaim

    told.mirror.on_reclaim = notice
    for zone in "ab":
        told.mirror.apply_node(_in_zone(zone), NOW)
    learner._look()
    clock.time += 3600.0
    told.mirror.apply_node(_in_zone("b", TAINT), clock.time)
    learner._look()
    learning = Learning()
    for observation in learner._waiting:
        observation(learning)
    rates = learning.hazards.daily()
    assert rates["eks/spot", "b"].mean(0.0, 86400.0) > rates["eks/spot", "a"].mean(0.0, 86400.0)
