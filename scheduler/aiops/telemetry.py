"""From gathered readings and what Kubernetes tells to the tables that the rules look at, a row for each thing. Pure.

What is not known is NaN: a reading that is stale, absent or failed, and everything of a cluster that does not answer. A
thing that has no row any more is forgotten by the rules; one whose cluster is silent keeps its row.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from scheduler.aiops.findings import Subject, Table
from scheduler.aiops.rules import CLUSTER, GPU, NODE, PATH, POOL, WORKLOAD
from scheduler.aiops.series import Floats
from scheduler.aiops.topology import NodeKey, NodePlace, Run, Topology
from scheduler.aiops.workload_rows import RANK_SECONDS, WorkloadFacts, rank_seconds, workload_rows
from scheduler.model.cluster import Cluster, Node, NodePool
from scheduler.model.contract import TOPOLOGY_ZONE
from scheduler.model.ids import Instant
from scheduler.model.metrics import OK, Reading, Sample
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Copy, CopyState, Workload

RACK_LABELS: Final = (
    "topology.kubernetes.io/rack",
    "cloud.google.com/gce-topology-subblock",
    "topology.k8s.aws/network-node-layer-3",
)
"""Where sites and clouds tell a node's rack or its like, the first that a node has counts."""
_PODS: Final = "pods_count"
MOST_ROWS: Final = 200_000
"""Of one scope. More are left out, by name."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    tables: Mapping[str, Table]
    subjects: Mapping[str, tuple[Subject, ...]]
    fleet: Topology


def telemetry_of(
    snapshot: Snapshot,
    readings: Sequence[Reading],
    facts: WorkloadFacts | None = None,
    known_gpus: Iterable[Subject] = (),
) -> Telemetry:
    """Tables of GPUs, nodes, bought pools, workloads, clusters and network paths, and where everything is.

    `known_gpus`: those of the last round, which keep their rows, silent or not, while their node is there.
    """
    facts = facts or WorkloadFacts()
    clusters = {str(cluster.id): cluster for cluster in sorted(snapshot.clusters, key=lambda each: each.id)}
    users = _users(snapshot.copies)
    by_gpu, by_node = _by_place(readings)
    ranks = rank_seconds(readings, facts.pods)
    nodes = {(name, str(node.name)): node for name, cluster in clusters.items() for node in cluster.nodes}
    reporting = _reporting(by_gpu)
    for subject in known_gpus:
        if (subject.cluster, subject.node) in nodes:
            by_gpu.setdefault((subject.cluster, subject.node, subject.gpu), {})
    for (cluster, node, _), row in by_gpu.items():
        seconds = ranks.get((cluster, node, users.get((cluster, node), "")))
        if seconds is not None and row:
            row[RANK_SECONDS] = seconds
    gpus, gpu_subjects = _gpu_table(snapshot.now, by_gpu, nodes, users)
    served, workloads = workload_rows(snapshot.now, snapshot.workloads, snapshot.copies, readings, facts)
    paths, path_subjects = _path_rows(readings)
    return Telemetry(
        {
            GPU: gpus,
            NODE: _node_table(snapshot.now, clusters, nodes, by_node, reporting, users),
            POOL: _pool_table(snapshot.now, clusters),
            WORKLOAD: _table(snapshot.now, served),
            CLUSTER: _table(snapshot.now, _cluster_rows(clusters, readings)),
            PATH: _table(snapshot.now, paths),
        },
        {
            GPU: gpu_subjects,
            NODE: tuple(_node_subject(key, node, users) for key, node in sorted(nodes.items())[:MOST_ROWS]),
            POOL: tuple(Subject(cluster=c.id, pool=pool.ref.pool) for c, pool in _bought(clusters)),
            WORKLOAD: workloads,
            CLUSTER: tuple(Subject(cluster=name) for name in clusters),
            PATH: path_subjects,
        },
        _topology(snapshot.now, clusters, snapshot.workloads, snapshot.copies, path_subjects),
    )


def rows_of(old: Sequence[Subject], new: Sequence[Subject]) -> list[int]:
    """Where each new row was before; -1: it is new. What runs on a thing does not tell it from another."""
    at = {_place(subject): row for row, subject in enumerate(old)}
    return [at.get(_place(subject), -1) for subject in new]


def _place(subject: Subject) -> tuple[str, ...]:
    if subject.node:
        return subject.cluster, subject.node, subject.gpu
    if subject.workload:
        return (subject.workload,)
    return subject.cluster, subject.pool, subject.path, ""


# -- readings ------------------------------------------------------------------------------------------------------

_ByGpu = dict[tuple[str, str, str], dict[str, float]]
_ByNode = dict[NodeKey, dict[str, float]]


def _by_place(readings: Iterable[Reading]) -> tuple[_ByGpu, _ByNode]:
    """Metric -> value, by GPU and by node. Those of pods, services and the like are nobody's here."""
    by_gpu: _ByGpu = defaultdict(dict)
    by_node: _ByNode = defaultdict(dict)
    for reading in sorted(readings, key=lambda each: (each.cluster, each.metric)):
        fresh: Sequence[Sample] = reading.samples if reading.state == OK else ()
        for sample in fresh:
            labels = dict(sample.labels)
            node, gpu = labels.get("node", ""), labels.get("gpu", "")
            if node and gpu:
                by_gpu[reading.cluster, node, gpu][reading.metric] = sample.value
            elif node:
                by_node[reading.cluster, node][reading.metric] = sample.value
    return by_gpu, by_node


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    names = sorted({name for row in rows for name in row})
    return {name: np.array([row.get(name, np.nan) for row in rows], dtype=np.float64) for name in names}


def _reporting(by_gpu: _ByGpu) -> dict[NodeKey, int]:
    """How many GPUs of a node report."""
    found: dict[NodeKey, int] = defaultdict(int)
    for cluster, node, _ in by_gpu:
        found[cluster, node] += 1
    return found


# -- tables --------------------------------------------------------------------------------------------------------


def _gpu_table(
    at: Instant, by_gpu: _ByGpu, nodes: Mapping[NodeKey, Node], users: Mapping[NodeKey, str]
) -> tuple[Table, tuple[Subject, ...]]:
    keys = sorted(by_gpu)[:MOST_ROWS]
    subjects = tuple(
        Subject(
            cluster=cluster, pool=_pool_of(nodes.get((cluster, node))), node=node, gpu=gpu,
            workload=users.get((cluster, node), ""),
        )
        for cluster, node, gpu in keys
    )  # fmt: skip
    return Table(at, len(keys), _columns([by_gpu[key] for key in keys]), _groups(subjects)), subjects


def _node_table(
    at: Instant,
    clusters: Mapping[str, Cluster],
    nodes: Mapping[NodeKey, Node],
    by_node: _ByNode,
    reporting: Mapping[NodeKey, int],
    users: Mapping[NodeKey, str],
) -> Table:
    rows: list[dict[str, float]] = []
    subjects: list[Subject] = []
    for key, node in sorted(nodes.items())[:MOST_ROWS]:
        row = dict(by_node.get(key, {}))
        if clusters[key[0]].available:
            row |= _facts(node, reporting.get(key, 0))
        rows.append(row)
        subjects.append(_node_subject(key, node, users))
    return Table(at, len(rows), _columns(rows), _groups(subjects))


def _facts(node: Node, reporting: int) -> dict[str, float]:
    """What Kubernetes says of it."""
    facts = {
        "node_ready_count": float(node.ready),
        "node_unschedulable_count": float(node.unschedulable),
        "node_reclaim_notice_count": float(node.reclaim is not None),
    }
    if node.allocatable.gpus:
        facts |= {"gpu_reporting_count": float(reporting), "gpu_expected_count": float(node.allocatable.gpus)}
    return facts


def _pool_table(at: Instant, clusters: Mapping[str, Cluster]) -> Table:
    """Spend and work of pools that are bought and whose price is known."""
    rows: list[dict[str, float]] = []
    for cluster, pool in _bought(clusters):
        there = [node for node in cluster.nodes if node.pool == pool.ref.pool]
        price = None if pool.price is None else float(pool.price.usd_per_hour)
        row = {"busy_gpus_count": float(sum(node.used.gpus for node in there))}
        if price is not None:
            row["price_usd_per_hour"] = price
            row["spend_usd_per_hour"] = price * len(there)
        rows.append(row if cluster.available else {})
    return Table(at, len(rows), _columns(rows), {})


def _cluster_rows(clusters: Mapping[str, Cluster], readings: Iterable[Reading]) -> list[dict[str, float]]:
    """What is known of each as a whole."""
    rows: dict[str, dict[str, float]] = {name: {} for name in clusters}
    for name, cluster in clusters.items():
        if cluster.available:
            gpus = sum(node.allocatable.gpus for node in cluster.nodes)
            rows[name]["nodes_ready_count"] = float(sum(node.ready for node in cluster.nodes))
            if gpus:
                rows[name]["gpus_used_ratio"] = sum(node.used.gpus for node in cluster.nodes) / gpus
    for reading in readings:
        row = rows.get(reading.cluster)
        if row is None or reading.state != OK:
            continue
        if reading.metric == _PODS:
            waiting = (one.value for one in reading.samples if dict(one.labels).get("phase") == "Pending")
            row["pods_pending_count"] = sum(waiting)
        elif len(reading.samples) == 1 and not reading.samples[0].labels:
            row[reading.metric] = reading.samples[0].value
    return list(rows.values())


def _path_rows(readings: Iterable[Reading]) -> tuple[list[dict[str, float]], tuple[Subject, ...]]:
    """What probes from a cluster to a target say, a row for each."""
    rows: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for reading in readings:
        for sample in reading.samples if reading.state == OK else ():
            target = dict(sample.labels).get("target")
            if target:
                row = rows[reading.cluster, target]
                worse = min if reading.metric.endswith("_success_count") else max
                row[reading.metric] = worse(row.get(reading.metric, sample.value), sample.value)
    keys = sorted(rows)[:MOST_ROWS]
    return [rows[key] for key in keys], tuple(
        Subject(cluster=cluster, path=f"{cluster}>{target}") for cluster, target in keys
    )


def _table(at: Instant, rows: Sequence[Mapping[str, float]]) -> Table:
    return Table(at, len(rows), _columns(rows), {})


def _bought(clusters: Mapping[str, Cluster]) -> list[tuple[Cluster, NodePool]]:
    found = [(cluster, pool) for cluster in clusters.values() for pool in cluster.pools if pool.bought]
    return sorted(found, key=lambda each: each[1].ref)[:MOST_ROWS]


def _groups(subjects: Sequence[Subject]) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Numbers that stay the same from round to round: of the name, not of the order."""
    return {
        "workload": np.array([_number(each.workload) for each in subjects], dtype=np.int64),
        "node": np.array([_number(f"{each.cluster}/{each.node}" if each.node else "") for each in subjects], np.int64),
    }


def _number(name: str) -> int:
    return zlib.crc32(name.encode()) if name else -1


# -- where things are ----------------------------------------------------------------------------------------------


def _users(copies: Iterable[Copy]) -> dict[NodeKey, str]:
    """Who is on each node; "" where it is not one alone: nobody can say then whose GPU it is."""
    found: dict[NodeKey, set[str]] = defaultdict(set)
    for copy in copies:
        if not copy.finished:
            for name, _ in copy.holds:
                found[copy.cluster, name].add(copy.origin)
    return {key: next(iter(who)) if len(who) == 1 else "" for key, who in found.items()}


def _node_subject(key: NodeKey, node: Node, users: Mapping[NodeKey, str]) -> Subject:
    return Subject(cluster=key[0], pool=_pool_of(node), node=key[1], workload=users.get(key, ""))


def _pool_of(node: Node | None) -> str:
    return "" if node is None or node.pool is None else node.pool


def _topology(
    now: Instant, clusters: Mapping[str, Cluster], workloads: Iterable[Workload], copies: Iterable[Copy],
    paths: Iterable[Subject],
) -> Topology:  # fmt: skip
    places = [_node_place(cluster, node) for cluster in clusters.values() for node in cluster.nodes]
    known = {workload.ref.uid: workload for workload in workloads}
    runs: list[Run] = []
    for copy in sorted(copies, key=lambda each: (each.origin, each.cluster, each.attempt)):
        workload = known.get(copy.origin)
        if workload is not None and copy.state is CopyState.RUNNING and copy.holds:
            nodes = tuple((str(copy.cluster), str(name)) for name, _ in copy.holds)
            gpus = sum(held.gpus for _, held in copy.holds)
            runs.append(Run(copy.origin, nodes, gpus, _checkpoint(workload, copy, now), workload.hints.deadline_at))
    return Topology(tuple(sorted(places)), tuple(runs), tuple(each.path for each in paths))


def _node_place(cluster: Cluster, node: Node) -> NodePlace:
    labels = dict(node.labels)
    rack = next((labels[label] for label in RACK_LABELS if label in labels), "")
    pool = next((pool for pool in cluster.pools if pool.ref.pool == node.pool), None)
    price = None if pool is None or pool.price is None else pool.price.usd_per_hour
    return NodePlace(
        cluster.id, node.name, _pool_of(node), rack, labels.get(TOPOLOGY_ZONE, ""), cluster.provider,
        node.allocatable.gpus, price,
    )  # fmt: skip


def _checkpoint(workload: Workload, copy: Copy, now: Instant) -> Instant | None:
    """When it last saved its work, by what its user says; where it saves none, its start; None: not known."""
    every, started = workload.hints.checkpoint_every_seconds, copy.started_at
    if started is None or not every:
        return started
    return started + max(0.0, now - started) // every * every
