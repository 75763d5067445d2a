"""AKS's clusters and agent pools in the words of the model. What Azure does not tell stays unknown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from azure.mgmt.containerservice.models import AgentPool, AgentPoolMode, ManagedCluster, ScaleSetPriority

from clusters.providers import _aks_errors as errors
from scheduler.model.cloud import CloudCluster
from scheduler.model.cluster import ON_DEMAND, RESERVED, SPOT, Shortage, Taint
from scheduler.model.ids import PoolId
from scheduler.model.ports import PoolStatus

FAILED: Final = "Failed"
MACHINE: Final = re.compile(r"azure:///subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Compute/.+", re.I)
"""Provider id of a node."""
_POOL_LABEL: Final = "kubernetes.azure.com/agentpool"
_MOST_NODES: Final = 1000
"""AKS's own limit, for a pool that states none: only autoscaled ones do."""
_SETTLED: Final = frozenset({"Succeeded", FAILED, "Canceled"})
_OTHERS_MODES: Final = frozenset({"machines", "managedsystem"})
"""Modes of pools that AKS itself fills: node auto-provisioning's machines, and the system pool of Automatic clusters.
Pools of a fixed size may stand beside node auto-provisioning, and are nobody's but ours."""


def read_cluster(cluster: ManagedCluster) -> CloudCluster:
    host = cluster.fqdn or cluster.private_fqdn
    state = str(cluster.provisioning_state or "")
    stopped = _stopped(cluster.power_state)
    return CloudCluster(
        name=str(cluster.name),
        region=str(cluster.location or ""),
        version=cluster.current_kubernetes_version or cluster.kubernetes_version,
        endpoint=f"https://{host}" if host else None,
        status="Stopped" if stopped and state == "Succeeded" else state,
        health=_troubles(state, stopped, failure_of(cluster)),
    )


def read_pool(pool: AgentPool, location: str, shortage: Shortage | None) -> PoolStatus:
    """`location`: the cluster's region, which Azure leaves out of the pool's zones."""
    name = str(pool.name)
    spot = pool.scale_set_priority == ScaleSetPriority.SPOT
    least = 1 if pool.mode == AgentPoolMode.SYSTEM else 0
    state = pool.provisioning_state or "Succeeded"
    written = [str(one) for one in pool.node_taints or ()]
    taints = [_taint(one) for one in written]
    unread = [
        f"the taint {text[:80]!r} is not understood" for text, one in zip(written, taints, strict=True) if not one
    ]
    return PoolStatus(
        pool=PoolId(name),
        instance_type=pool.vm_size or "",
        capacity_type=SPOT if spot else RESERVED if pool.capacity_reservation_group_id else ON_DEMAND,
        min_nodes=pool.min_count or least,
        max_nodes=pool.max_count or _MOST_NODES,
        desired_nodes=pool.count or 0,
        labels=tuple(sorted({**(pool.node_labels or {}), _POOL_LABEL: name}.items())),
        busy=state not in _SETTLED,
        shortage=shortage,
        taints=tuple(one for one in taints if one is not None),
        zones=tuple(sorted(_zone(location, str(one)) for one in pool.availability_zones or ())),
        version=pool.current_orchestrator_version or pool.orchestrator_version,
        health=(*_troubles(state, _stopped(pool.power_state), failure_of(pool)), *unread),
        autoscaled=is_autoscaled(pool),
    )


def is_autoscaled(pool: AgentPool) -> bool:
    return bool(pool.enable_auto_scaling) or _word(pool.mode) in _OTHERS_MODES


def failure_of(one: AgentPool | ManagedCluster) -> Mapping[str, Any] | None:
    """The error that its status carries; None: it carries none."""
    error = one.status.provisioning_error if one.status is not None else None
    return None if error is None else error.as_dict()


def shortage_of(pool: AgentPool, ended: Mapping[str, Any] | None) -> tuple[str | None, str]:
    """Kind (capacity, quota, error; None: no shortage) and text.

    `ended`: the error with which our last operation on the pool ended. Either may be the one that tells the cause.
    """
    if pool.provisioning_state != FAILED:
        return None, ""
    found = [errors.shortage(one) for one in (failure_of(pool), ended) if one]
    if not found:
        return "error", "the last operation on the pool failed; Azure's activity log says why"
    return next((one for one in found if one[0] != "error"), found[0])


def _troubles(state: str, stopped: bool, failure: Mapping[str, Any] | None) -> tuple[str, ...]:
    lines = []
    if state in (FAILED, "Canceled"):
        lines.append(f"{state}: {errors.shortage(failure)[1]}" if failure else f"its last operation: {state}")
    if stopped:
        lines.append("stopped; start it with `az aks start` or `az aks nodepool start`")
    return tuple(lines)


def _stopped(power: Any) -> bool:
    return power is not None and _word(power.code) == "stopped"


def _word(value: Any) -> str:
    """Of a field that is an enumeration's member, or a word that the SDK does not know; in lower case."""
    return str(getattr(value, "value", value) or "").lower()


def _zone(location: str, zone: str) -> str:
    """As the nodes' label topology.kubernetes.io/zone has it: Azure's API tells the number alone."""
    return f"{location}-{zone}" if zone.isdigit() else zone


def _taint(text: str) -> Taint | None:
    """Of `key=value:effect` or `key:effect`; None: it is neither."""
    rest, colon, effect = text.rpartition(":")
    key, _, value = rest.partition("=")
    return Taint(key, value, effect) if colon and key and effect else None
