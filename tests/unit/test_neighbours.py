"""Which other run is on the same GPU: said only where Kubernetes tells it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from clusters.kinds.job import Job
from scheduler.daemon.config.federation import Member
from scheduler.daemon.state.member_mirror import MemberMirror
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.state.neighbours import only_neighbour
from scheduler.model.cluster import NodePool
from scheduler.model.ids import ClusterId, PoolRef, Uid
from scheduler.model.workload import Workload
from tests.unit.engine_world import NOW, amount, placement, pool, workload

CREATED = "2026-01-31T12:00:00Z"


def shared(replicas: int = 2, gpus: int = 2) -> NodePool:
    """Nodes whose GPUs are handed out `replicas` times over; `gpus`: as the node says then."""
    return pool("c", "p", node_resources=amount(gpus=gpus), labels=(("nvidia.com/gpu.replicas", str(replicas)),))


@dataclass
class Fleet:
    """The part of the hub's mirror that is asked, over a real mirror of one member."""

    where: NodePool
    known: dict[str, Workload] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.members = {ClusterId("c"): self._member()}

    def _member(self) -> MemberMirror:
        member = Member(ClusterId("c"), "eu", (), "in-cluster", None, None, "onprem", {}, Path(), None, (self.where,))
        return MemberMirror(member, ["job"], lambda uid: None, lambda pod, uid, bound: None)

    def workload(self, uid: Uid) -> Workload | None:
        return self.known.get(uid)

    def pool(self, ref: PoolRef) -> NodePool | None:
        return self.where if ref == self.where.ref else None

    def runs(self, name: str, *nodes: str, gpus: int = 1, placed: bool = True) -> Uid:
        """A Job with a pod on each of the nodes."""
        job = workload(name)
        self.known[job.ref.uid] = replace(job, placement=placement("c", "p") if placed else None)
        member = self.members[ClusterId("c")]
        member.apply_copy(Job(), _copy(name, job.ref.uid))
        for index, node in enumerate(nodes):
            member.apply_pod(_pod(f"{name}-{index}", job.ref.uid, node, gpus), NOW)
        return job.ref.uid

    def beside(self, uid: Uid) -> Uid | None:
        return only_neighbour(cast("Mirror", self), uid)


def _copy(name: str, origin: str) -> dict[str, Any]:
    annotations = {
        f"overspill.dev/{key}": value
        for key, value in {
            "origin-cluster": "hub", "origin-namespace": "default", "origin-name": name, "attempt": "0",
        }.items()
    }  # fmt: skip
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name, "namespace": "default", "uid": f"copy-{name}", "creationTimestamp": CREATED,
            "resourceVersion": "1", "labels": {"overspill.dev/origin-uid": origin}, "annotations": annotations,
        },
        "spec": {"template": {"spec": {"containers": []}}},
    }  # fmt: skip


def _pod(name: str, origin: str, node: str, gpus: int) -> dict[str, Any]:
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {"cpu": "1"}
    return {
        "metadata": {
            "name": name, "namespace": "default", "uid": f"pod-{name}", "creationTimestamp": CREATED,
            "labels": {"overspill.dev/origin-uid": origin},
        },
        "spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"limits": limits, "requests": limits}}]},
        "status": {"phase": "Running"},
    }  # fmt: skip


def test_the_one_other_run_on_its_gpu_is_named_by_both() -> None:
    fleet = Fleet(shared())
    a, b = fleet.runs("a", "n1"), fleet.runs("b", "n1")
    fleet.runs("elsewhere", "n2")
    assert fleet.beside(a) == b
    assert fleet.beside(b) == a


@pytest.mark.parametrize(
    ("where", "others", "mine"),
    [
        pytest.param(shared(), [], ("n1",), id="nobody else"),
        pytest.param(shared(3, 3), [("b", "n1", 1), ("c", "n1", 1)], ("n1",), id="several others"),
        pytest.param(shared(), [("b", "n2", 1)], ("n1",), id="on another node"),
        pytest.param(shared(2, 4), [("b", "n1", 1)], ("n1",), id="two GPUs in the node: which is not told"),
        pytest.param(shared(1, 1), [("b", "n1", 1)], ("n1",), id="GPUs are not shared"),
        pytest.param(shared(), [("b", "n1", 0)], ("n1",), id="the other has no GPU"),
        pytest.param(shared(), [("b", "n1", 1)], ("n1", "n2"), id="on two nodes"),
        pytest.param(shared(), [("b", "n1", 1)], (), id="none of its pods is bound"),
    ],
)
def test_it_is_nobody_where_nobody_can_say(
    where: NodePool, others: list[tuple[str, str, int]], mine: tuple[str, ...]
) -> None:
    fleet = Fleet(where)
    asked = fleet.runs("a", *mine)
    for name, node, gpus in others:
        fleet.runs(name, node, gpus=gpus)
    assert fleet.beside(asked) is None


def test_one_that_is_unknown_or_placed_nowhere_has_no_neighbour() -> None:
    fleet = Fleet(shared())
    a = fleet.runs("a", "n1", placed=False)
    fleet.runs("b", "n1")
    assert fleet.beside(a) is None
    assert fleet.beside(Uid("gone")) is None


def test_who_has_ended_is_no_neighbour() -> None:
    fleet = Fleet(shared())
    a, _ = fleet.runs("a", "n1"), fleet.runs("b", "n1")
    fleet.members[ClusterId("c")].drop_pod("default/b-0", NOW)
    assert fleet.beside(a) is None
