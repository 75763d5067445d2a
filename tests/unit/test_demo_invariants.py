"""The witness: sequences of watch events in, violations out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from scheduler.cli.demo.invariants import (
    NODE_OVERCOMMITTED,
    ORPHAN_COPY,
    PARTIAL_GANG,
    QUOTA_EXCEEDED,
    BoughtPool,
    Invariants,
)
from scheduler.cli.demo.records import pod_requests
from scheduler.model.contract import ANNOTATION_PLACEMENT, CONDITION_PLACED, LABEL_ORIGIN_UID, LABEL_QUEUE
from scheduler.model.ids import QueueId
from scheduler.model.policy import QueueSpec, Quota
from scheduler.model.resources import Resources

GRACE = 100.0
BOUGHT = BoughtPool("eks", (("pool", "spot"),))


def hub(uid: str = "h1", *, queue: str = "q", pods: int = 1, **status: str) -> dict[str, Any]:
    return {
        "kind": "Job",
        "metadata": {
            "name": uid,
            "namespace": "default",
            "uid": uid,
            "labels": {LABEL_QUEUE: queue},
            "creationTimestamp": "1970-01-01T00:00:10Z",
        },
        "spec": {"parallelism": pods, "completions": pods},
        "status": {"conditions": [{"type": name, "status": value} for name, value in status.items()]},
    }


def copy(
    uid: str = "c1", *, origin: str = "h1", pods: int = 1, deleting: bool = False, **status: str
) -> dict[str, Any]:
    made = hub(uid, pods=pods, **status)
    made["metadata"]["labels"] = {LABEL_ORIGIN_UID: origin}
    if deleting:
        made["metadata"]["deletionTimestamp"] = "1970-01-01T00:01:00Z"
    return made


def pod(
    uid: str,
    *,
    of: str = "c1",
    origin: str = "h1",
    node: str = "n1",
    gpus: int = 1,
    phase: str = "Running",
    at: int = 30,
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": uid,
            "uid": uid,
            "labels": {LABEL_ORIGIN_UID: origin} if origin else {},
            "ownerReferences": [{"uid": of, "controller": True}],
        },
        "spec": {
            "nodeName": node,
            "containers": [{"resources": {"requests": {"cpu": "1"}, "limits": {"nvidia.com/gpu": str(gpus)}}}],
        },
        "status": {
            "phase": phase,
            "containerStatuses": [{"state": {"running": {"startedAt": f"1970-01-01T00:00:{at:02d}Z"}}}],
        },
    }


def node(name: str = "n1", *, gpus: int = 8, pool: str = "a100", draining: bool = False) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": name, "labels": {"pool": pool}},
        "spec": {"taints": [{"key": "overspill.dev/giving-back", "effect": "NoSchedule"}] if draining else []},
        "status": {"allocatable": {"cpu": "96", "memory": "900Gi", "nvidia.com/gpu": str(gpus), "pods": "110"}},
    }


class Witness(Invariants):
    """Shorter to tell stories with."""

    def __init__(self, *queues: QueueSpec) -> None:
        super().__init__(queues=queues, bought=(BOUGHT,), grace_seconds=GRACE)
        self.hub_event("ADDED", hub())

    def job(self, obj: dict[str, Any], change: str = "ADDED", *, on: str = "onprem") -> None:
        self.copy_event(on, "jobs", change, obj, 20.0)

    def pod(self, obj: dict[str, Any], change: str = "ADDED", *, on: str = "onprem") -> None:
        self.pod_event(on, change, obj, 20.0)

    def lasts(self, seconds: float = GRACE + 1) -> list[str]:
        """Kinds of the violations after things have stayed so for a while."""
        self.check(20.0)
        self.check(20.0 + seconds)
        return [violation.kind for violation in self.violations]


def test_a_good_run_breaks_nothing() -> None:
    seen = Witness()
    seen.node_event("onprem", "ADDED", node())
    seen.job(copy())
    seen.pod(pod("p1", phase="Pending", node=""))
    seen.pod(pod("p1"), "MODIFIED")
    seen.pod(pod("p1", phase="Succeeded"), "MODIFIED")
    seen.job(copy(Complete="True"), "MODIFIED")
    seen.hub_event("MODIFIED", hub(Complete="True"))
    seen.job(copy(Complete="True"), "DELETED")
    assert seen.lasts() == []
    assert not seen.duplicated
    assert seen.running_at == {"h1": 30.0}
    assert seen.bursts() == ()


Story = Callable[[Witness], None]


def _gang(bound: int, *, pods: int = 3) -> Story:
    def tell(seen: Witness) -> None:
        seen.job(copy(pods=pods))
        for number in range(pods):
            seen.pod(pod(f"p{number}", node="n1" if number < bound else "", phase="Pending"))

    return tell


def _gang_that_shrank(seen: Witness) -> None:
    _gang(3)(seen)
    seen.pod(pod("p0", phase="Failed"), "MODIFIED")


def _gang_that_was_deleted(seen: Witness) -> None:
    _gang(1)(seen)
    seen.job(copy(pods=3, deleting=True), "MODIFIED")


def _gang_half_done(seen: Witness) -> None:
    _gang(3)(seen)
    seen.pod(pod("p0", phase="Succeeded"), "MODIFIED")
    seen.pod(pod("p0", phase="Succeeded"), "DELETED")


def _pods_first(seen: Witness) -> None:
    for number in range(3):
        seen.pod(pod(f"p{number}"))
    seen.job(copy(pods=3))


def _overcommitted(seen: Witness) -> None:
    seen.node_event("onprem", "ADDED", node(gpus=4))
    seen.pod(pod("p1", gpus=3))
    seen.pod(pod("p2", gpus=2, origin=""))


def _reused_after_the_end(seen: Witness) -> None:
    seen.node_event("onprem", "ADDED", node(gpus=4))
    seen.pod(pod("p1", gpus=3))
    seen.pod(pod("p1", gpus=3, phase="Succeeded"), "MODIFIED")
    seen.pod(pod("p2", gpus=4))
    seen.pod(pod("p2", gpus=4), "DELETED")
    seen.pod(pod("p3", gpus=4))


def _same_name_elsewhere(seen: Witness) -> None:
    for cluster in ("onprem", "gke"):
        seen.node_event(cluster, "ADDED", node(gpus=4))
        seen.pod(pod("p1", gpus=4), on=cluster)


def _orphan(seen: Witness) -> None:
    seen.job(copy("c9", origin="h9", pods=1))


def _orphan_of_a_deleted_one(seen: Witness) -> None:
    seen.job(copy())
    seen.hub_event("DELETED", hub())


def _orphan_on_its_way_out(seen: Witness) -> None:
    _orphan_of_a_deleted_one(seen)
    seen.job(copy(deleting=True), "MODIFIED")


@pytest.mark.parametrize(
    ("story", "want"),
    [
        (_gang(3), []),
        (_gang(0), []),
        (_gang(2), [PARTIAL_GANG]),
        (_gang_that_shrank, []),
        (_gang_that_was_deleted, []),
        (_gang_half_done, []),
        (_pods_first, []),
        (_overcommitted, [NODE_OVERCOMMITTED]),
        (_reused_after_the_end, []),
        (_same_name_elsewhere, []),
        (_orphan, [ORPHAN_COPY]),
        (_orphan_of_a_deleted_one, [ORPHAN_COPY]),
        (_orphan_on_its_way_out, []),
    ],
)
def test_what_lasts_is_a_violation(story: Story, want: list[str]) -> None:
    seen = Witness()
    story(seen)
    assert seen.lasts() == want
    assert seen.lasts() == want, "each is counted once"


def test_a_gang_that_is_partial_for_a_moment_only_is_none() -> None:
    seen = Witness()
    _gang(2)(seen)
    assert seen.lasts(GRACE - 1) == []
    seen.pod(pod("p2"), "MODIFIED")
    assert seen.lasts() == []


def quota(name: str, nominal: int, cohort: str | None = None, borrow: int | None = None) -> QueueSpec:
    return QueueSpec(QueueId(name), cohort, quotas=(Quota("gpu", nominal, borrow),))


@pytest.mark.parametrize(
    ("queues", "used", "want"),
    [
        ([quota("q", 4)], {"q": 4}, []),
        ([quota("q", 4)], {"q": 5}, [QUOTA_EXCEEDED]),
        ([quota("q", 4, "c"), quota("r", 4, "c")], {"q": 7}, []),
        ([quota("q", 4, "c"), quota("r", 4, "c")], {"q": 7, "r": 2}, [QUOTA_EXCEEDED]),
        ([quota("q", 4, "c", 2), quota("r", 4, "c")], {"q": 7}, [QUOTA_EXCEEDED]),
        ([], {"q": 100}, []),
    ],
)
def test_quotas(queues: list[QueueSpec], used: dict[str, int], want: list[str]) -> None:
    seen = Witness(*queues)
    for queue, gpus in used.items():
        seen.hub_event("ADDED", hub(f"h-{queue}", queue=queue))
        seen.pod(pod(f"p-{queue}", origin=f"h-{queue}", gpus=gpus))
    assert seen.lasts() == want


def _two_alive(seen: Witness) -> None:
    seen.job(copy("c1"), on="onprem")
    seen.job(copy("c2"), on="eks")


def _one_after_the_other(seen: Witness) -> None:
    seen.job(copy("c1"), on="onprem")
    seen.job(copy("c1"), "DELETED", on="onprem")
    seen.job(copy("c2"), on="eks")


def _second_while_first_is_deleted(seen: Witness) -> None:
    seen.job(copy("c1", deleting=True), on="onprem")
    seen.job(copy("c2"), on="eks")


@pytest.mark.parametrize(
    ("story", "want"), [(_two_alive, ["c1"]), (_one_after_the_other, []), (_second_while_first_is_deleted, [])]
)
def test_suspects(story: Story, want: list[str]) -> None:
    seen = Witness()
    story(seen)
    assert [record.uid for record in seen.suspects()] == want
    assert not seen.duplicated
    for record in seen.suspects():
        seen.confirm(record.origin)
    assert seen.duplicated == ({"h1"} if want else set())
    assert seen.suspects() == ()


def _succeeded_twice(seen: Witness) -> None:
    seen.job(copy())
    seen.pod(pod("p1", phase="Succeeded"))
    seen.pod(pod("p2", phase="Succeeded"))


def _complete_on_two_members(seen: Witness) -> None:
    seen.job(copy("c1", Complete="True"), on="onprem")
    seen.job(copy("c1", Complete="True"), "DELETED", on="onprem")
    seen.job(copy("c2", Complete="True"), on="eks")


def _succeeded_then_run_again(seen: Witness) -> None:
    seen.job(copy("c1"), on="onprem")
    seen.pod(pod("p1", phase="Succeeded"), on="onprem")
    seen.job(copy("c1"), "DELETED", on="onprem")
    seen.job(copy("c2"), on="eks")
    seen.pod(pod("p1b", of="c2", phase="Succeeded"), on="eks")


def _gang_partly_done_then_run_again(seen: Witness) -> None:
    seen.job(copy("c1", pods=2), on="onprem")
    seen.pod(pod("p1", phase="Succeeded"), on="onprem")
    seen.job(copy("c1", pods=2), "DELETED", on="onprem")
    seen.job(copy("c2", pods=2), on="eks")
    for uid in ("p1b", "p2b"):
        seen.pod(pod(uid, of="c2", phase="Succeeded"), on="eks")


def _failed_then_again(seen: Witness) -> None:
    seen.job(copy())
    seen.pod(pod("p1", phase="Failed"))
    seen.pod(pod("p2", phase="Succeeded"))


@pytest.mark.parametrize(
    ("story", "want"),
    [
        (_succeeded_twice, {"h1"}),
        (_complete_on_two_members, {"h1"}),
        (_succeeded_then_run_again, {"h1"}),
        (_gang_partly_done_then_run_again, set()),
        (_failed_then_again, set()),
    ],
)
def test_succeeding_more_often_than_asked_is_running_twice(story: Story, want: set[str]) -> None:
    seen = Witness()
    story(seen)
    assert seen.duplicated == want


def test_bursts_and_returns_are_told_from_nodes() -> None:
    seen = Witness()
    seen.job(copy(), on="eks")
    seen.pod(pod("p1", node="b1"), on="eks")  # the pod's stream may be ahead of the nodes'
    assert seen.bursts() == ()
    seen.node_event("eks", "ADDED", node("b1", pool="spot"))
    seen.node_event("eks", "ADDED", node("b2", pool="spot"))
    seen.node_event("eks", "ADDED", node("x", pool="on-demand-of-others"))
    assert (seen.bursts(), seen.bought_nodes()) == (("h1",), 2)
    seen.node_event("eks", "MODIFIED", node("b1", pool="spot", draining=True))
    seen.node_event("eks", "DELETED", node("b1", pool="spot"))
    seen.node_event("eks", "DELETED", node("b2", pool="spot"))  # reclaimed, not given back
    assert (seen.bought_nodes(), seen.given_back) == (0, 1)


@pytest.mark.parametrize(
    ("changed", "want"),
    [
        ({}, set()),
        ({"status": {"conditions": [{"type": CONDITION_PLACED, "status": "False", "reason": "Held"}]}}, {"h1"}),
        ({"status": {"conditions": [{"type": CONDITION_PLACED, "status": "True"}]}}, set()),
        ({"placement": json.dumps({"state": "reserved"})}, {"h1"}),
        ({"placement": json.dumps({"state": "started"})}, set()),
        ({"placement": "{"}, set()),
    ],
)
def test_who_waited(changed: dict[str, Any], want: set[str]) -> None:
    obj = hub()
    if "placement" in changed:
        obj["metadata"]["annotations"] = {ANNOTATION_PLACEMENT: changed["placement"]}
    obj["status"] = changed.get("status", {})
    seen = Witness()
    seen.hub_event("MODIFIED", obj)
    assert seen.waited == want


def test_what_did_not_opt_in_is_not_looked_at() -> None:
    seen = Witness()
    stranger = hub("s1")
    stranger["metadata"]["labels"] = {}
    seen.hub_event("ADDED", stranger)
    seen.job(stranger)
    assert set(seen.hub) == {"h1"}
    assert not seen.copies


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({}, Resources(pods=1)),
        (
            {"containers": [{"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}, {}]},
            Resources(500, 2**30, 0, 1),
        ),
        ({"containers": [{"resources": {"limits": {"nvidia.com/gpu": 2, "cpu": 4}}}]}, Resources(4000, 0, 2, 1)),
        (
            {
                "containers": [{"resources": {"requests": {"cpu": 1}}}],
                "initContainers": [{"resources": {"requests": {"cpu": 3}}}],
                "overhead": {"cpu": "250m"},
            },
            Resources(3250, 0, 0, 1),
        ),
    ],
)
def test_pod_requests(spec: dict[str, Any], want: Resources) -> None:
    assert pod_requests(spec) == want
