"""What was gathered of clusters, prices and metrics, as plain JSON values, each with its source and its time.

Answers the read API, and the command line where there is no daemon (see gather_once.py). Reads; changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from clusters.prices.book import SourceHealth
from clusters.prices.egress import egress_price, egress_prices
from clusters.prices.merge import PriceOutcome, SourceAnswer
from scheduler.daemon.gathering.discovery import Discovered, differences
from scheduler.daemon.gathering.metrics import MetricsKeeper
from scheduler.daemon.gathering.prices import PriceKeeper, price_region
from scheduler.daemon.state.member_mirror import MemberMirror
from scheduler.daemon.state.mirror import Mirror
from scheduler.model.cloud import CloudCluster
from scheduler.model.cluster import Cluster, NodePool
from scheduler.model.errors import NotFoundError
from scheduler.model.metrics import Reading
from scheduler.model.money import NANO
from scheduler.model.ports import Clock, PoolStatus
from scheduler.model.prices import INTERNET, OTHER_REGION, SAME_REGION

_CLUSTERS_SHOWN: Final = 200
"""Most of the account's other clusters that are told."""
_SAMPLES: Final = 20_000
_COUNTS: Final = ("nodes", "nodes_ready", "gpus", "gpus_used")


@dataclass(frozen=True, slots=True)
class Gathered:
    """Reads the mirror and what the gathering loops keep."""

    clock: Clock
    mirror: Mirror
    price_keeper: PriceKeeper
    readings: MetricsKeeper

    def clusters(self) -> dict[str, Any]:
        """Every member in short, in the order of the federation file."""
        return {"now": self.clock.now(), "clusters": [_summary(member) for member in self.mirror.members.values()]}

    def cluster(self, name: str) -> dict[str, Any]:
        """One member with its pools as the file and the cloud describe them.

        Raises: NotFoundError when there is none of that name.
        """
        member = self._member(name)
        cluster, found = member.cluster(), member.discovered
        itself = found.cluster(member.member.provider_settings)
        others = [other.name for other in found.clusters if itself is None or other.name != itself.name]
        status_of = {status.pool: status for status in found.pools}
        return {
            "now": self.clock.now(),
            **_summary(member),
            "cloud": _cloud(itself),
            "other_clusters": others[:_CLUSTERS_SHOWN],
            "pools": [
                _known(member, pool_json(cluster, pool)) | {"provider": _status(status_of.get(pool.ref.pool))}
                for pool in cluster.pools
            ],
            "warnings": _warnings(member, cluster),
        }

    def prices(self) -> dict[str, Any]:
        """Of every pool what a node costs, who says so and what the other sources say; the sources; and what traffic
        that leaves each member costs."""
        members = self.mirror.members
        return {
            "now": self.clock.now(),
            "prices": [_price(outcome) for outcome in self.price_keeper.outcomes()],
            "sources": [_source(health) for health in self.price_keeper.book.health()],
            "egress": [line for member in members.values() for line in _egress(member)],
        }

    def metrics(self, cluster: str = "", metric: str = "") -> dict[str, Any]:
        """The latest readings of a member and a metric ("": of all), not more than 20,000 samples.

        Raises: NotFoundError for a member or a metric that there is none of.
        """
        if cluster:
            self._member(cluster)
        if metric and metric not in self.readings.metrics:
            known = ", ".join(self.readings.metrics)
            raise NotFoundError(f"no metric {metric[:100]!r} is collected; there are {known}")
        readings, room = [], _SAMPLES
        for one in self.readings.readings(cluster, metric):
            readings.append(_reading(one, room))
            room -= min(room, len(one.samples))
        told = sum(len(one["samples"]) for one in readings)
        left_out = sum(one["sample_count"] for one in readings) - told
        return {"now": self.clock.now(), "readings": readings, "samples_left_out": left_out}

    def _member(self, name: str) -> MemberMirror:
        for cluster, member in self.mirror.members.items():
            if cluster == name:
                return member
        raise NotFoundError(f"no cluster {name[:100]!r} is a member; there are {', '.join(self.mirror.members)}")


def _price(outcome: PriceOutcome) -> dict[str, Any]:
    query, price = outcome.query, outcome.price
    per_gpu = price.usd_per_hour / query.gpus if price is not None and query.gpus else None
    return {
        "cluster": query.cluster,
        "pool": query.pool,
        "provider": query.provider,
        "region": query.region,
        "zones": list(query.zones),
        "instance_type": query.instance_type,
        "capacity_type": query.capacity_type,
        "gpu_model": query.gpu_model,
        "gpus": query.gpus,
        "usd_per_hour": str(price.usd_per_hour) if price is not None else None,
        "usd_per_gpu_hour": str(per_gpu.quantize(NANO)) if per_gpu is not None else None,
        "source": price.source if price is not None else None,
        "as_of": price.as_of if price is not None else None,
        "winner": outcome.winner,
        "why_unknown": outcome.why_unknown,
        "answers": [_answer(answer) for answer in outcome.answers],
    }


def _answer(answer: SourceAnswer) -> dict[str, Any]:
    quote = answer.quote
    return {
        "source": answer.source,
        "state": answer.state,
        "usd_per_hour": str(quote.usd_per_hour) if quote is not None else None,
        "says": quote.source if quote is not None else None,
        "as_of": quote.as_of if quote is not None else None,
        "text": answer.text,
    }


def _source(health: SourceHealth) -> dict[str, Any]:
    return {
        "name": health.name,
        "read_at": health.read_at,
        "took_seconds": health.took_seconds,
        "quotes": health.quotes,
        "readings": health.readings,
        "failures": health.failures,
        "failing_since": health.failing_since,
        "error": health.error or None,
        "problems": list(health.problems),
    }


def _egress(member: MemberMirror) -> Iterator[dict[str, Any]]:
    """Traffic to each kind of destination whose price is known."""
    region = price_region(member)
    for destination in (INTERNET, OTHER_REGION, SAME_REGION):
        price = egress_price(egress_prices(), member.member.provider_type, region, destination)
        if price is not None:
            yield {
                "cluster": member.member.id,
                "region": price.region,
                "destination": destination,
                "tiers": [{"up_to_gib": tier.up_to_gib, "usd_per_gib": str(tier.usd_per_gib)} for tier in price.tiers],
                "source": price.source,
                "as_of": price.as_of,
            }


def _reading(reading: Reading, room: int) -> dict[str, Any]:
    """With its first `room` samples."""
    return {
        "cluster": reading.cluster,
        "metric": reading.metric,
        "unit": reading.unit,
        "state": reading.state,
        "source": reading.source,
        "asked_at": reading.asked_at,
        "took_seconds": round(reading.took_seconds, 4),
        "newest_at": reading.newest_at,
        "error": reading.error or None,
        "sample_count": len(reading.samples),
        "samples": [
            {"labels": dict(sample.labels), "value": sample.value, "at": sample.at} for sample in reading.samples[:room]
        ],
    }


def pool_json(cluster: Cluster, pool: NodePool) -> dict[str, Any]:
    """A pool's nodes, sizes and price."""
    nodes = [node for node in cluster.nodes if node.pool == pool.ref.pool and not node.deleting]
    return {
        "pool": pool.ref.pool,
        "capacity_type": pool.capacity_type,
        "scaling": pool.scaling,
        "bought": pool.bought,
        "instance_type": pool.instance_type,
        "gpu_model": pool.gpu_model,
        "nodes": len(nodes),
        "nodes_ready": sum(node.ready for node in nodes),
        "desired_nodes": pool.desired_nodes,
        "max_nodes": pool.max_nodes,
        "gpus": sum(node.allocatable.gpus for node in nodes),
        "gpus_used": sum(node.used.gpus for node in nodes),
        "usd_per_hour": str(pool.price.usd_per_hour) if pool.price is not None else None,
        "price_source": pool.price.source if pool.price is not None else None,
        "price_as_of": pool.price.as_of if pool.price is not None else None,
        "shortage": pool.shortage.text if pool.shortage is not None else None,
        "reclaimed": [
            {
                "node": node.name,
                "source": node.reclaim.source,
                "noticed_at": node.reclaim.noticed_at,
                "deadline": node.reclaim.deadline,
            }
            for node in sorted(nodes, key=lambda node: node.name)
            if node.reclaim is not None
        ],
    }


def _summary(member: MemberMirror) -> dict[str, Any]:
    cluster, found = member.cluster(), member.discovered
    nodes = [node for node in cluster.nodes if not node.deleting]
    itself = found.cluster(member.member.provider_settings)
    counts = {
        "nodes": len(nodes),
        "nodes_ready": sum(node.ready for node in nodes),
        "gpus": sum(node.allocatable.gpus for node in nodes),
        "gpus_used": sum(node.used.gpus for node in nodes),
    }
    return {
        "id": cluster.id,
        "provider": cluster.provider,
        "region": cluster.region,
        "labels": dict(cluster.labels),
        "login": member.member.login,
        "available": cluster.available,
        "synced": cluster.synced,
        "unreachable_since": cluster.unreachable_since,
        "error": member.error,
        "round_trip_seconds": cluster.round_trip_seconds,
        "round_trip_at": member.round_trip_at,
        "version": itself.version if itself is not None else None,
        "status": itself.status if itself is not None else None,
        **_discovery(found),
        "warning_count": len(_warnings(member, cluster)),
        **_known(member, counts),
    }


def _known(member: MemberMirror, counts: dict[str, Any]) -> dict[str, Any]:
    """Counts of nodes that were never listed are not known."""
    return counts if member.nodes_known else counts | dict.fromkeys(_COUNTS)


def _discovery(found: Discovered) -> dict[str, Any]:
    """When the cloud was asked, and how the last asking failed."""
    return {
        "pools_at": found.pools_at,
        "pools_error": found.pools_error or None,
        "clusters_at": found.clusters_at,
        "clusters_error": found.clusters_error or None,
    }


def _warnings(member: MemberMirror, cluster: Cluster) -> list[str]:
    settings = member.member.provider_settings
    # By the file's own pools: what the mirror knows of them is narrowed by the cloud already.
    return list(differences(member.member.pools, cluster.nodes, member.discovered, settings, cluster.region))


def _cloud(cluster: CloudCluster | None) -> dict[str, Any] | None:
    return asdict(cluster) if cluster is not None else None


def _status(status: PoolStatus | None) -> dict[str, Any] | None:
    """What the cloud tells of the pool; None: nothing."""
    if status is None:
        return None
    return {
        "instance_type": status.instance_type,
        "capacity_type": status.capacity_type,
        "gpu_model": status.gpu_model,
        "gpus": status.gpus,
        "min_nodes": status.min_nodes,
        "max_nodes": status.max_nodes,
        "desired_nodes": status.desired_nodes,
        "labels": dict(status.labels),
        "taints": [f"{taint.key}={taint.value}:{taint.effect}" for taint in status.taints],
        "zones": list(status.zones),
        "version": status.version,
        "health": list(status.health),
        "autoscaled": status.autoscaled,
        "busy": status.busy,
    }
