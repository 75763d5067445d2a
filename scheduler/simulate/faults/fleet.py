"""The fleet of a study: an on-prem cluster with racks and two clouds with three zones each; whole nodes train, the rest
serve."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops.topology import NodePlace

GPUS_PER_NODE = 8
_RACK_NODES = 10
_ZONES = 3
_SERVING_SHARE = 0.25
_REPLICAS = 12
_CLUSTERS = (("onprem", "onprem", 0.4, "2.20"), ("eks-east", "eks", 0.3, "6.88"), ("gke-west", "gke", 0.3, "6.98"))
"""Cluster, provider, share of the nodes, USD a GPU-hour (sandbox prices)."""
_SPOT_EVERY = 3
"""Of a cloud's nodes one in three is a spot node, at a third of the price."""


@dataclass(frozen=True, slots=True)
class Fleet:
    places: tuple[NodePlace, ...]
    cluster: NDArray[np.int64]
    """Of each node: number of its cluster, pool and failure domain (rack or zone)."""
    pool: NDArray[np.int64]
    domain: NDArray[np.int64]
    pools: tuple[tuple[str, str], ...]
    domains: tuple[tuple[str, str, str], ...]
    """Kind (rack or zone), cluster, name."""
    spot: NDArray[np.bool_]
    serves: NDArray[np.bool_]
    services: tuple[str, ...]
    service_of: NDArray[np.int64]
    """Of each GPU; -1: it trains."""
    service_cluster: NDArray[np.int64]

    @property
    def nodes(self) -> int:
        return len(self.places)

    @property
    def gpus(self) -> int:
        return len(self.places) * GPUS_PER_NODE

    @property
    def node_of(self) -> NDArray[np.int64]:
        """Of each GPU."""
        return np.repeat(np.arange(self.nodes), GPUS_PER_NODE)


def build(nodes: int) -> Fleet:
    """A fleet of so many nodes. Always the same for a number."""
    places: list[NodePlace] = []
    clusters: list[int] = []
    for number, (cluster, provider, share, usd) in enumerate(_CLUSTERS):
        count = (
            max(round(nodes * share), 1) if number else nodes - sum(max(round(nodes * c[2]), 1) for c in _CLUSTERS[1:])
        )
        for index in range(count):
            spot = provider != "onprem" and index % _SPOT_EVERY == 0
            price = Decimal(usd) * GPUS_PER_NODE / (3 if spot else 1)
            rack = f"r{index // _RACK_NODES}" if provider == "onprem" else ""
            zone = "" if rack else "abc"[index // _SPOT_EVERY % _ZONES]
            places.append(NodePlace(cluster, f"n{index:03d}", "spot" if spot else "h100", rack, zone, provider,
                                    GPUS_PER_NODE, price))  # fmt: skip
            clusters.append(number)
    pools = sorted({(place.cluster, place.pool) for place in places})
    domains = sorted({_domain(place) for place in places})
    of_node = np.array(clusters, dtype=np.int64)
    spot_nodes = np.array([place.pool == "spot" for place in places])
    serves = np.zeros(len(places), dtype=bool)
    for number in range(len(_CLUSTERS)):
        firm = np.flatnonzero((of_node == number) & ~spot_nodes)
        serves[firm[: round(_SERVING_SHARE * len(firm))]] = True
    services, service_of, service_cluster = _services(of_node, serves)
    return Fleet(
        tuple(places), of_node, np.array([pools.index((place.cluster, place.pool)) for place in places]),
        np.array([domains.index(_domain(place)) for place in places]), tuple(pools), tuple(domains), spot_nodes, serves,
        services, service_of, service_cluster,
    )  # fmt: skip


def _domain(place: NodePlace) -> tuple[str, str, str]:
    return ("rack", place.cluster, place.rack) if place.rack else ("zone", place.cluster, place.zone)


def _services(
    cluster: NDArray[np.int64], serves: NDArray[np.bool_]
) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64]]:
    """Names of services, the service of each GPU, and each service's cluster."""
    of_gpu = np.full(len(cluster) * GPUS_PER_NODE, -1)
    names: list[str] = []
    homes: list[int] = []
    for number in range(len(_CLUSTERS)):
        gpus = np.flatnonzero(np.repeat(serves & (cluster == number), GPUS_PER_NODE))
        for first in range(0, len(gpus), _REPLICAS):
            of_gpu[gpus[first : first + _REPLICAS]] = len(names)
            names.append(f"svc-{len(names):03d}")
            homes.append(number)
    return tuple(names), of_gpu, np.array(homes, dtype=np.int64)
