"""What remedies do to nodes, against the emulated API server: idempotent, and only what is ours."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from clusters.kubernetes.codec import format_mark, parse_mark, parse_node
from scheduler.daemon.incidents.fleet_facts import is_held
from scheduler.daemon.incidents.node_remedies import NodeRemedies
from scheduler.model.contract import (
    ANNOTATION_REMEDIATION,
    ANNOTATION_REQUEST,
    ANNOTATION_REQUEST_DONE,
    NODES,
    PODS,
    TAINT_REMEDIATION,
)
from scheduler.model.errors import ConflictError, FencedError, NotFoundError, RefusedError
from scheduler.model.ids import ClusterId, NodeName
from scheduler.model.ports import Resource
from scheduler.model.remediation import DRAIN, UNDO, Action, Mark, Target
from tests.builders.apiserver import START, World, pod

CLUSTER = ClusterId("c")
BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")


class Site:
    """One node with an API server round it."""

    def __init__(self) -> None:
        self.world = World()
        self.api = self.world.api
        self.leads = True
        self.remedies = NodeRemedies("fed", {CLUSTER: self.api}, self.world.clock, self.fence)

    def fence(self) -> None:
        if not self.leads:
            raise FencedError("not the leader")

    async def start(self, **spec: Any) -> Action:
        raw = await self.api.create(NODES, "", {"metadata": {"name": "n1"}, "spec": spec})
        target = Target(CLUSTER, None, NodeName("n1"), raw["metadata"]["uid"], gpu="3")
        return Action("i1:1", "i1", "gpu.xid.79", "p", DRAIN, target, START - 60, "why")

    async def node(self) -> dict[str, Any]:
        return dict(await self.api.get(NODES, "", "n1"))

    async def pod(self, name: str, owner: str = "Job", **labels: str) -> None:
        body = pod(name, nodeName="n1")
        owners = [{"apiVersion": "v1", "kind": owner, "name": "o", "uid": "u"}]
        body["metadata"] |= {"labels": labels, "ownerReferences": owners}
        made = await self.api.create(PODS, "default", body)
        ready = [{"type": "Ready", "status": "True"}]
        status = {"status": {"phase": "Running", "conditions": ready}}
        await self.api.patch(PODS, "default", made["metadata"]["name"], status, subresource="status")

    async def pods(self) -> list[str]:
        listed = (await self.api.list(PODS)).items
        return sorted(p["metadata"]["name"] for p in listed if not p["metadata"].get("deletionTimestamp"))


async def test_closing_twice_is_closing_once_and_keeps_others_taints() -> None:
    site = Site()
    action = await site.start(taints=[{"key": "team", "value": "a", "effect": "NoSchedule"}])
    assert await site.remedies.close(action)
    first = await site.node()
    assert await site.remedies.close(action)
    assert await site.node() == first
    assert first["spec"]["unschedulable"] is True
    assert [taint["key"] for taint in first["spec"]["taints"]] == ["team", TAINT_REMEDIATION]
    assert parse_mark(first["metadata"]["annotations"][ANNOTATION_REMEDIATION]) == Mark(
        "fed", "i1", "gpu.xid.79", DRAIN, START - 60
    )
    assert is_held(parse_node(first))


async def test_opening_takes_back_what_is_ours_and_leaves_the_mark() -> None:
    site = Site()
    action = await site.start(taints=[{"key": "team", "value": "a", "effect": "NoSchedule"}])
    await site.remedies.close(action)
    undo = replace(action, action=UNDO, undoes=(DRAIN,))
    for _ in range(2):
        assert await site.remedies.open(undo)
    node = await site.node()
    assert not node["spec"].get("unschedulable")
    assert [taint["key"] for taint in node["spec"]["taints"]] == ["team"]
    assert parse_node(node).mark is not None


@pytest.mark.parametrize("by", ["somebody", "another federation", "nobody knows whom"])
async def test_what_another_owner_closed_is_not_touched(by: str) -> None:
    site = Site()
    taint = {"key": TAINT_REMEDIATION, "value": "x", "effect": "NoSchedule"}
    action = await site.start(unschedulable=True, **({} if by == "somebody" else {"taints": [taint]}))
    if by == "another federation":
        mark = format_mark(Mark("other", "i9", "gpu.ecc", DRAIN, START))
        await site.api.patch(NODES, "", "n1", {"metadata": {"annotations": {ANNOTATION_REMEDIATION: mark}}})
    before = await site.node()
    with pytest.raises(RefusedError):
        await site.remedies.close(action)
    assert await site.remedies.open(action)
    assert await site.node() == before


async def test_a_node_of_the_same_name_is_another_node() -> None:
    site = Site()
    action = await site.start()
    await site.api.delete(NODES, "", "n1")
    await site.start()
    before = await site.node()
    assert not await site.remedies.close(action)
    assert await site.remedies.empty(action)
    assert await site.remedies.open(action)
    assert await site.node() == before


async def test_emptying_evicts_what_an_eviction_can_move_and_respects_budgets() -> None:
    site = Site()
    action = replace(await site.start(), grace_seconds=600.0)
    await site.pod("train")
    await site.pod("served", app="served")
    await site.pod("agent", owner="DaemonSet")
    budget = {"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "served"}}}}
    await site.api.create(BUDGETS, "default", budget)
    assert not await site.remedies.empty(action)
    assert await site.pods() == ["agent", "served"], "the budget says not now"
    train = await site.api.get(PODS, "default", "train")
    assert train["metadata"]["deletionGracePeriodSeconds"] == 600
    await site.api.delete(PODS, "default", "train", grace_period_seconds=0)
    await site.api.delete(BUDGETS, "default", "b")
    assert not await site.remedies.empty(action), "the pod is on its way out"
    await site.api.delete(PODS, "default", "served", grace_period_seconds=0)
    assert await site.remedies.empty(action)
    assert await site.pods() == ["agent"]


async def test_a_request_waits_for_the_site_s_agent() -> None:
    site = Site()
    action = await site.start()
    await site.pod("train")
    assert not await site.remedies.request(action, "reset")
    assert ANNOTATION_REQUEST not in (await site.node())["metadata"]["annotations"], "not while pods run there"
    await site.api.delete(PODS, "default", "train", grace_period_seconds=0)
    for _ in range(2):
        assert not await site.remedies.request(action, "reset")
    asked = json.loads((await site.node())["metadata"]["annotations"][ANNOTATION_REQUEST])
    assert asked == {"request": "reset", "id": "i1:1", "at": "2023-11-14T22:12:20Z", "gpu": "3"}
    await site.api.patch(NODES, "", "n1", {"metadata": {"annotations": {ANNOTATION_REQUEST_DONE: "i0:7"}}})
    assert not await site.remedies.request(action, "reset"), "that was another"
    await site.api.patch(NODES, "", "n1", {"metadata": {"annotations": {ANNOTATION_REQUEST_DONE: "i1:1"}}})
    assert await site.remedies.request(action, "reset")
    assert await site.remedies.open(action)
    assert ANNOTATION_REQUEST not in (await site.node())["metadata"]["annotations"]


async def test_without_the_lease_nothing_is_written() -> None:
    site = Site()
    action = await site.start()
    before = await site.node()
    site.leads = False
    with pytest.raises(FencedError):
        await site.remedies.close(action)
    assert await site.node() == before


async def test_a_taint_that_somebody_adds_meanwhile_is_not_lost() -> None:
    site = Site()
    action = await site.start()
    listed = site.api.list

    async def late(resource: Resource, **how: Any) -> Any:
        found = await listed(resource, **how)
        taint = {"key": "late", "effect": "NoSchedule"}
        await site.api.patch(NODES, "", "n1", {"spec": {"taints": [taint]}})
        return found

    site.api.list = late  # type: ignore[method-assign]
    with pytest.raises(ConflictError):
        await site.remedies.close(action)
    site.api.list = listed  # type: ignore[method-assign]
    assert await site.remedies.close(action)
    assert [taint["key"] for taint in (await site.node())["spec"]["taints"]] == ["late", TAINT_REMEDIATION]


async def test_a_cluster_that_is_not_ours_is_refused() -> None:
    site = Site()
    action = await site.start()
    with pytest.raises(RefusedError, match="not in the federation"):
        await site.remedies.close(replace(action, target=replace(action.target, cluster=ClusterId("x"))))
    with pytest.raises(NotFoundError):
        await site.api.get(NODES, "", "n2")


def test_a_mark_that_cannot_be_read_is_somebody_else_s() -> None:
    assert parse_mark(None) is None
    assert parse_mark("") is None
    for said in ("{", "[]", "7", '{"by": "fed"}', '{"by": 1, "incident": 2, "signal": 3, "action": 4, "since": 5}'):
        mark = parse_mark(said)
        assert mark is not None
        assert mark.by == "unknown"
