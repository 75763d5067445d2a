"""Where the federation file and the cloud differ: a line each, and never more than what the cloud tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.daemon.gathering.discovery import Discovered, differences
from scheduler.model.cloud import CloudCluster
from scheduler.model.cluster import Node, NodePool, Taint
from scheduler.model.ids import ClusterId, NodeName, PoolId, PoolRef
from scheduler.model.ports import PoolStatus
from scheduler.model.resources import Resources

GPU_TAINT = Taint("nvidia.com/gpu", "present", "NoSchedule")
POOL = NodePool(
    ref=PoolRef(ClusterId("eks"), PoolId("p4d")),
    capacity_type="on-demand",
    scaling="managed",
    instance_type="p4d.24xlarge",
    min_nodes=0,
    max_nodes=8,
    desired_nodes=None,
    node_resources=Resources(95_000, 2**40, 8, 110),
    gpu_model="A100-40GB",
    gpu_memory_bytes=None,
    labels=(("group", "p4d"), ("topology.kubernetes.io/zone", "us-east-1a")),
    selector=(("group", "p4d"),),
    taints=(GPU_TAINT,),
    price=None,
    provisioning_seconds=None,
)
STATUS = PoolStatus(
    pool=PoolId("p4d"),
    instance_type="p4d.24xlarge",
    capacity_type="on-demand",
    min_nodes=0,
    max_nodes=8,
    desired_nodes=0,
    labels=(("group", "p4d"),),
    busy=False,
    gpu_model="a100",
    gpus=8,
    taints=(GPU_TAINT,),
    zones=("us-east-1a", "us-east-1b"),
    version="1.33",
)
CLUSTER = CloudCluster("gpu-burst", "us-east-1", "1.33", "https://x", "ACTIVE")
NODE = Node(
    name=NodeName("n"),
    uid="u",
    pool=PoolId("p4d"),
    allocatable=Resources(),
    used=Resources(),
    workload_pods=0,
    labels=(),
    taints=(),
    ready=True,
    unschedulable=False,
    deleting=False,
    created_at=0.0,
)
SETTINGS = {"type": "eks", "clusterName": "gpu-burst"}


def told(
    pool: NodePool = POOL,
    status: PoolStatus | None = STATUS,
    cluster: CloudCluster | None = CLUSTER,
    *,
    nodes: tuple[Node, ...] = (),
    region: str = "us-east-1",
) -> tuple[str, ...]:
    found = Discovered(
        pools=(status,) if status is not None else (),
        pools_at=1.0,
        clusters=(cluster,) if cluster is not None else (),
        clusters_at=1.0,
    )
    return differences((pool,), nodes, found, SETTINGS, region)


def test_agreement_is_silent() -> None:
    assert told() == ()


def test_what_was_never_asked_is_no_difference() -> None:
    assert differences((POOL,), (), Discovered(), SETTINGS, "us-east-1") == ()


def test_what_the_cloud_does_not_tell_is_no_difference() -> None:
    silent = replace(STATUS, instance_type="", labels=(), gpu_model=None, gpus=None, zones=(), version=None)
    assert told(status=silent) == ()


@pytest.mark.parametrize(
    ("pool", "status", "want"),
    [
        ({}, {"instance_type": "p5.48xlarge"}, "instanceType: the file says p4d.24xlarge, the cloud p5.48xlarge"),
        ({}, {"capacity_type": "spot"}, "capacityType: the file says on-demand, the cloud spot"),
        ({}, {"gpus": 4}, "gpus: the file says 8 a node, the cloud 4"),
        ({}, {"gpus": 0}, "gpus: the file says 8 a node, the cloud 0"),
        (
            {},
            {"labels": (("other", "x"),)},
            "selector: the cloud does not put group on its nodes; they will not be known as this pool's",
        ),
        ({}, {"labels": (("group", "x"),)}, "label group: the file says p4d, the cloud x"),
        ({}, {"zones": ("us-east-1c",)}, "zone: the file says us-east-1a, the cloud us-east-1c"),
        (
            {"taints": ()},
            {},
            "taint nvidia.com/gpu=present:NoSchedule is on the cloud's nodes; add it to the file",
        ),
        ({}, {"taints": ()}, "taint nvidia.com/gpu=present:NoSchedule of the file is not on the cloud's pool"),
        ({}, {"max_nodes": 4}, "maxNodes: the file says 8, the cloud allows 4"),
        ({}, {"min_nodes": 1}, "minNodes: the file says 0, the cloud keeps 1"),
        (
            {},
            {"autoscaled": True},
            "another autoscaler owns its size, so it is never resized; write scaling: external",
        ),
        ({"scaling": "external"}, {"autoscaled": True, "max_nodes": 4}, None),
        (
            {},
            {"version": "v1.34.1-eks-1"},
            "version: nodes have v1.34.1-eks-1, newer than the control plane's 1.33; upgrade that first",
        ),
        ({}, {"version": "1.30"}, None),
        ({}, {"version": "1.29"}, "version: nodes have 1.29, 4 minor versions behind the control plane's 1.33"),
        ({}, {"version": "latest"}, None),
        ({}, {"health": ("ASG gone",)}, "ASG gone"),
    ],
)
def test_each_difference_is_one_line(pool: dict[str, Any], status: dict[str, Any], want: str | None) -> None:
    lines = told(replace(POOL, **pool), replace(STATUS, **status))
    assert lines == (() if want is None else (f"p4d: {want}",))


def test_taints_and_labels_that_the_nodes_carry_come_from_elsewhere() -> None:
    node = replace(NODE, taints=(GPU_TAINT,), labels=(("group", "p4d"),))
    assert told(status=replace(STATUS, taints=(), labels=(("a", "b"),)), nodes=(node,)) == ()


@pytest.mark.parametrize(
    ("cluster", "region", "want"),
    [
        (None, "us-east-1", "the account does not see a cluster 'gpu-burst'; correct provider.clusterName or its"),
        (CLUSTER, "eu-west-1", "region: the file says eu-west-1, the cloud us-east-1; prices are asked for eu-west-1"),
        (replace(CLUSTER, region="us-east-1-a"), "us-east-1", None),
        (replace(CLUSTER, health=("API down",)), "us-east-1", "API down"),
    ],
)
def test_the_cluster_itself(cluster: CloudCluster | None, region: str, want: str | None) -> None:
    lines = told(cluster=cluster, region=region)
    assert len(lines) == (0 if want is None else 1)
    assert want is None or lines[0].startswith(want)


@pytest.mark.parametrize(
    ("scaling", "others", "want"),
    [
        ("managed", (), ("p4d: the cloud has no pool of that name; correct the file or create it",)),
        ("fixed", (), ()),
        (
            "fixed",
            (replace(STATUS, pool=PoolId("g5")),),
            (
                "p4d: the cloud has no pool of that name; correct the file or create it",
                "g5: the cloud has this pool, the file does not name it",
            ),
        ),
    ],
)
def test_pools_that_only_one_of_both_has(scaling: str, others: tuple[PoolStatus, ...], want: tuple[str, ...]) -> None:
    found = Discovered(pools=others, pools_at=1.0)
    assert differences((replace(POOL, scaling=scaling),), (), found, SETTINGS, "us-east-1") == want


def test_it_stays_short() -> None:
    found = Discovered(pools=tuple(replace(STATUS, pool=PoolId(f"p{n:03}")) for n in range(90)), pools_at=1.0)
    lines = differences((), (), found, SETTINGS, "us-east-1")
    assert len(lines) == 50
    assert lines[-1] == "and 41 more"
