"""What GKE's and Compute's messages say, in the words of the model. Pure: nothing here is sent or remembered."""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.cloud.container_v1.types import (
    Cluster,
    NodeConfig,
    NodePool,
    NodeTaint,
    Operation,
    ReservationAffinity,
    StatusCondition,
)
from google.rpc import code_pb2

from clusters.providers._gke_errors import one_line, shortage_kind
from scheduler.model.cloud import CloudCluster
from scheduler.model.cluster import ON_DEMAND, RESERVED, SPOT, Shortage, Taint
from scheduler.model.errors import TransientError
from scheduler.model.ids import PoolId
from scheduler.model.ports import PoolStatus

_POOL_LABEL: Final = "cloud.google.com/gke-nodepool"
_MOST_NODES_A_ZONE: Final = 1000
"""GKE's own limit, for a pool that states none."""
_BUSY: Final = frozenset({NodePool.Status.PROVISIONING, NodePool.Status.RECONCILING, NodePool.Status.STOPPING})
_TROUBLED: Final = frozenset({NodePool.Status.ERROR, NodePool.Status.RUNNING_WITH_ERROR})
_TROUBLED_CLUSTER: Final = frozenset({Cluster.Status.ERROR, Cluster.Status.DEGRADED})
_EFFECTS: Final = {
    NodeTaint.Effect.NO_SCHEDULE: "NoSchedule",
    NodeTaint.Effect.PREFER_NO_SCHEDULE: "PreferNoSchedule",
    NodeTaint.Effect.NO_EXECUTE: "NoExecute",
}
_GROUP: Final = re.compile(r".*/projects/([^/]+)/zones/([^/]+)/instanceGroupManagers/([^/]+)")
_ZONE: Final = re.compile(r"([a-z]+-[a-z]+\d+)-[a-z0-9]+")

Trouble = tuple[str | None, str]
"""Kind of a shortage (capacity, quota or error; None: there is none) and its text."""


@dataclass(frozen=True, slots=True)
class Groups:
    """What a pool's managed instance groups say together."""

    target: int
    stable: bool
    error: str = ""
    """Of an unstable group, its newest fresh error."""


def group_path(url: str) -> tuple[str, str]:
    """Zone and REST path (from `projects/` on) of a zonal managed instance group. Raises: TransientError."""
    parts = _GROUP.fullmatch(url)
    if parts is None:
        raise TransientError(f"gke: {url[:200]!r} is no zonal instance group", code="BadGroupUrl")
    project, zone, name = parts.groups()
    return zone, f"projects/{project}/zones/{zone}/instanceGroupManagers/{name}"


def group_zones(pool: NodePool) -> tuple[str, ...]:
    """Zones that have groups of the pool, sorted. A blue-green upgrade has two groups in each."""
    return tuple(sorted({group_path(url)[0] for url in pool.instance_group_urls}))


def pool_status(
    pool: NodePool, groups: Groups, shortage: Shortage | None, *, autopilot: bool, resizing: bool
) -> PoolStatus:
    zones = group_zones(pool)
    scaling, config = pool.autoscaling, pool.config
    spread = max(1, len(zones))
    most = scaling.total_max_node_count or scaling.max_node_count * spread or _MOST_NODES_A_ZONE * spread
    specific = ReservationAffinity.Type.SPECIFIC_RESERVATION
    reserved = config.reservation_affinity.consume_reservation_type == specific
    model, gpus = _accelerators(config)
    return PoolStatus(
        pool=PoolId(pool.name),
        instance_type=config.machine_type,
        capacity_type=SPOT if config.spot or config.preemptible else RESERVED if reserved else ON_DEMAND,
        min_nodes=scaling.total_min_node_count or scaling.min_node_count * spread,
        max_nodes=most,
        desired_nodes=groups.target,
        labels=tuple(sorted({**config.labels, _POOL_LABEL: pool.name}.items())),
        busy=resizing or pool.status in _BUSY,
        shortage=shortage,
        gpu_model=model,
        gpus=gpus,
        taints=tuple(
            Taint(one.key, one.value, _EFFECTS[one.effect]) for one in config.taints if one.effect in _EFFECTS
        ),
        zones=tuple(sorted(pool.locations)) or zones,
        version=pool.version or None,
        health=_health(pool.conditions, pool.status in _TROUBLED, pool.status_message),
        autoscaled=is_autoscaled(pool, autopilot=autopilot),
    )


def is_autoscaled(pool: NodePool, *, autopilot: bool) -> bool:
    """Whether GKE itself sizes the pool: its autoscaler, node auto-provisioning, or an Autopilot cluster."""
    return autopilot or pool.autoscaling.enabled or pool.autoscaling.autoprovisioned


def _accelerators(config: NodeConfig) -> tuple[str | None, int | None]:
    """Google's word for the GPU, and how many a node has. Both None where it tells nothing, as of machine types that
    have theirs built in; the number None where GPUs are split or shared, as a node then offers more than it has."""
    told = [one for one in config.accelerators if one.accelerator_type]
    if len({one.accelerator_type for one in told}) != 1:
        return None, None
    split = any(one.gpu_partition_size or one.gpu_sharing_config.max_shared_clients_per_gpu > 1 for one in told)
    count = sum(one.accelerator_count for one in told)
    return told[0].accelerator_type, None if split or not count else count


def _health(conditions: Iterable[StatusCondition], troubled: bool, message: str) -> tuple[str, ...]:
    lines = tuple(one_line(f"{_code(one)}: {one.message}" if one.message else _code(one)) for one in conditions)
    if lines or not troubled:
        return lines
    return (one_line(message) or "in error, and Google does not say why",)


def _code(condition: StatusCondition) -> str:
    if condition.code != StatusCondition.Code.UNKNOWN:
        return _word(condition.code)
    number = int(condition.canonical_code)
    return str(code_pb2.Code.Name(number)) if number in code_pb2.Code.values() else str(number)


def _word(value: Any) -> str:
    """Name of an enum's value; its number where the SDK is older than the value."""
    return str(getattr(value, "name", value))


# Shortages


def pool_trouble(pool: NodePool, groups: Groups, failed: Trouble = (None, "")) -> Trouble:
    """What a pool lacks, by its conditions, its groups' errors, its last resize (`failed`) and its status.

    The first that names capacity or quota counts, otherwise the first that says anything.
    """
    found = [
        condition_trouble(pool.conditions),
        (shortage_kind(groups.error), groups.error) if groups.error else (None, ""),
        failed,
        _status_trouble(pool),
    ]
    present = [one for one in found if one[0] is not None]
    return next((one for one in present if one[0] != "error"), present[0] if present else (None, ""))


def condition_trouble(conditions: Iterable[StatusCondition]) -> Trouble:
    for condition in conditions:
        if condition.code == StatusCondition.Code.GCE_STOCKOUT:
            return "capacity", condition.message
        if condition.code == StatusCondition.Code.GCE_QUOTA_EXCEEDED:
            return "quota", condition.message
    return None, ""


def _status_trouble(pool: NodePool) -> Trouble:
    if pool.status not in _TROUBLED:
        return None, ""
    text = "; ".join(one.message for one in pool.conditions) or pool.status_message
    return shortage_kind(text), text


def operation_trouble(operation: Operation) -> Trouble:
    """What went wrong in an operation that has ended; (None, "") when it went well."""
    kind, text = condition_trouble(operation.nodepool_conditions)
    if kind is not None:
        return kind, text
    text = operation.error.message or operation.status_message
    if not text and not operation.error.code:
        return None, ""
    number = int(operation.error.code)
    code = code_pb2.Code.Name(number) if number in code_pb2.Code.values() else str(number)
    text = one_line(f"{code}: {text}" if number else text)
    return shortage_kind(text), text


def newest_error(items: Sequence[Mapping[str, Any]], *, after: float) -> str:
    """Code and message of the latest of a group's errors since `after`; "" when there is none."""
    fresh: list[tuple[float, str]] = []
    for item in items:
        try:
            at = datetime.datetime.fromisoformat(str(item["timestamp"])).timestamp()
            fresh.append((at, f"{item['error']['code']}: {item['error']['message']}"))
        except (KeyError, ValueError, TypeError):
            continue  # without a time or a code it cannot be told from an old one
    return max((one for one in fresh if one[0] >= after), default=(0.0, ""))[1]


# Clusters


def cloud_cluster(cluster: Cluster) -> CloudCluster:
    return CloudCluster(
        name=cluster.name,
        region=region_of(cluster.location),
        version=cluster.current_master_version or None,
        endpoint=api_url(cluster),
        status=_word(cluster.status),
        health=_health(cluster.conditions, cluster.status in _TROUBLED_CLUSTER, cluster.status_message),
    )


def region_of(location: str) -> str:
    """The region of a zone such as us-central1-a; a region is its own."""
    parts = _ZONE.fullmatch(location)
    return parts.group(1) if parts else location


def api_url(cluster: Cluster) -> str | None:
    """URL of its Kubernetes API: at its address, or by its DNS name where it has no address; None: at neither."""
    if _by_address(cluster):
        host = cluster.endpoint
        return f"https://[{host}]" if host.count(":") > 1 and not host.startswith("[") else f"https://{host}"
    dns = cluster.control_plane_endpoints_config.dns_endpoint_config
    return f"https://{dns.endpoint}" if dns.endpoint and dns.allow_external_traffic else None


def api_authority(cluster: Cluster) -> bytes:
    """PEM certificates that vouch for the API at `api_url`; empty for a DNS name, which has one that everyone trusts.

    Raises: TransientError when it is no base64.
    """
    if not _by_address(cluster):
        return b""
    try:
        return base64.b64decode(cluster.master_auth.cluster_ca_certificate, validate=True)
    except (binascii.Error, ValueError) as error:
        raise TransientError(f"gke: {cluster.name}: its CA certificate is no base64", code="Malformed") from error


def by_name_only(cluster: Cluster) -> bool:
    """Whether its API is reached by its DNS name, where IAM is asked first for container.clusters.connect."""
    return not _by_address(cluster) and api_url(cluster) is not None


def _by_address(cluster: Cluster) -> bool:
    endpoints = cluster.control_plane_endpoints_config
    addresses = endpoints.ip_endpoints_config
    switched_off = "enabled" in addresses and not addresses.enabled
    return bool(cluster.endpoint) and not switched_off and cluster.endpoint != endpoints.dns_endpoint_config.endpoint
