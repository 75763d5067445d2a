"""What a member's cloud says of itself, kept with its age; and where the federation file says otherwise. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from scheduler.model.cloud import CloudCluster
from scheduler.model.cluster import Node, NodePool
from scheduler.model.ids import Instant
from scheduler.model.ports import PoolStatus

ZONE_LABEL: Final = "topology.kubernetes.io/zone"
_OLDEST_NODES_BEHIND: Final = 3
"""Minor versions that nodes may be older than their control plane: the version skew policy of Kubernetes."""
_SHOWN: Final = 50
"""Most warnings of one member: they are read by people."""


@dataclass(frozen=True, slots=True)
class Discovered:
    """The latest good answers of a member's cloud. The times are when they were given; None: never yet."""

    pools: tuple[PoolStatus, ...] = ()
    pools_at: Instant | None = None
    pools_error: str = ""
    """Why the last look failed; "": it did not."""
    clusters: tuple[CloudCluster, ...] = ()
    clusters_at: Instant | None = None
    clusters_error: str = ""

    def cluster(self, provider_settings: Mapping[str, Any]) -> CloudCluster | None:
        """The member itself, by the name in its provider's settings; None: not among what the account sees."""
        name = provider_settings.get("clusterName")
        return next((cluster for cluster in self.clusters if cluster.name == name), None)


def differences(
    pools: Iterable[NodePool], nodes: Iterable[Node], found: Discovered, settings: Mapping[str, Any], region: str
) -> tuple[str, ...]:
    """Where the federation file and the cloud differ, and what the cloud itself complains of: a line each, not more
    than fifty. What the cloud does not tell is no difference."""
    lines = [*_of_cluster(found, settings, region), *_of_pools(tuple(pools), tuple(nodes), found, settings)]
    if len(lines) > _SHOWN:
        lines[_SHOWN - 1 :] = [f"and {len(lines) - _SHOWN + 1} more"]
    return tuple(lines)


def _of_cluster(found: Discovered, settings: Mapping[str, Any], region: str) -> Iterator[str]:
    name = settings.get("clusterName")
    if found.clusters_at is None or name is None:
        return
    cluster = found.cluster(settings)
    if cluster is None:
        yield f"the account does not see a cluster {name!r}; correct provider.clusterName or its permissions"
        return
    if cluster.region and cluster.region != region and not cluster.region.startswith(f"{region}-"):
        yield f"region: the file says {region}, the cloud {cluster.region}; prices are asked for {region}"
    yield from cluster.health


def _of_pools(
    pools: tuple[NodePool, ...], nodes: tuple[Node, ...], found: Discovered, settings: Mapping[str, Any]
) -> Iterator[str]:
    if found.pools_at is None:
        return
    cluster = found.cluster(settings)
    status_of = {status.pool: status for status in found.pools}
    for pool in pools:
        name = pool.ref.pool
        status = status_of.pop(name, None)
        if status is not None:
            of_pool = [node for node in nodes if node.pool == name]
            yield from (f"{name}: {line}" for line in _of_pool(pool, of_pool, status, cluster))
        elif found.pools or pool.scaling == "managed":
            yield f"{name}: the cloud has no pool of that name; correct the file or create it"
    yield from (f"{name}: the cloud has this pool, the file does not name it" for name in sorted(status_of))


def _of_pool(pool: NodePool, nodes: list[Node], status: PoolStatus, cluster: CloudCluster | None) -> Iterator[str]:
    yield from _shape(pool, status)
    yield from _labels_and_taints(pool, nodes, status)
    yield from _sizes(pool, status)
    yield from _version_skew(status.version, cluster.version if cluster is not None else None)
    yield from status.health


def _shape(pool: NodePool, status: PoolStatus) -> Iterator[str]:
    told: tuple[tuple[str, object, object], ...] = (
        ("instanceType", pool.instance_type, status.instance_type),
        ("capacityType", pool.capacity_type, status.capacity_type),
    )
    for key, ours, theirs in told:
        if ours and theirs and ours != theirs:
            yield f"{key}: the file says {ours}, the cloud {theirs}"
    if status.gpus is not None and status.gpus != pool.node_resources.gpus:
        yield f"gpus: the file says {pool.node_resources.gpus} a node, the cloud {status.gpus}"


def _labels_and_taints(pool: NodePool, nodes: list[Node], status: PoolStatus) -> Iterator[str]:
    """Labels and taints may also come from elsewhere than the cloud: what its nodes do carry is no difference."""
    theirs = dict(status.labels)
    for key, value in pool.selector:
        if theirs and key not in theirs and not any((key, value) in node.labels for node in nodes):
            yield f"selector: the cloud does not put {key} on its nodes; they will not be known as this pool's"
    for key, value in pool.labels:
        if theirs.get(key, value) != value:
            yield f"label {key}: the file says {value}, the cloud {theirs[key]}"
    zone = dict(pool.labels).get(ZONE_LABEL)
    if zone is not None and status.zones and zone not in status.zones:
        yield f"zone: the file says {zone}, the cloud {', '.join(status.zones)}"
    ours, cloud = set(pool.taints), set(status.taints)
    carried = {taint for node in nodes for taint in node.taints}
    for taint in sorted(cloud - ours):
        yield f"taint {taint.key}={taint.value}:{taint.effect} is on the cloud's nodes; add it to the file"
    for taint in sorted(ours - cloud - carried):
        yield f"taint {taint.key}={taint.value}:{taint.effect} of the file is not on the cloud's pool"


def _sizes(pool: NodePool, status: PoolStatus) -> Iterator[str]:
    if pool.scaling != "managed":
        return
    if status.autoscaled:
        yield "another autoscaler owns its size, so it is never resized; write scaling: external"
    if pool.max_nodes > status.max_nodes:
        yield f"maxNodes: the file says {pool.max_nodes}, the cloud allows {status.max_nodes}"
    if pool.min_nodes < status.min_nodes:
        yield f"minNodes: the file says {pool.min_nodes}, the cloud keeps {status.min_nodes}"


def _version_skew(nodes: str | None, control_plane: str | None) -> Iterator[str]:
    ours, theirs = _minor(nodes), _minor(control_plane)
    if ours is None or theirs is None:
        return
    if ours > theirs:
        yield f"version: nodes have {nodes}, newer than the control plane's {control_plane}; upgrade that first"
    elif theirs[0] == ours[0] and theirs[1] - ours[1] > _OLDEST_NODES_BEHIND:
        behind = theirs[1] - ours[1]
        yield f"version: nodes have {nodes}, {behind} minor versions behind the control plane's {control_plane}"


def _minor(version: str | None) -> tuple[int, int] | None:
    """(1, 33) of "1.33", "v1.33.4-gke.1036000" and the like; None for anything else."""
    parts = (version or "").lstrip("v").split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        return None
    return int(parts[0]), int(parts[1])
