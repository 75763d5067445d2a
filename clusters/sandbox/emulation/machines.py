"""Names, identities and Node objects of emulated machines, as each provider gives them. Pure."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from clusters.sandbox.emulation.objects import INSTANCE_FINALIZER
from clusters.sandbox.ports import PoolSpec
from clusters.sandbox.scenario import ClusterPlan, PoolPlan
from scheduler.model.resources import quantity_units

KUBELET_VERSION: Final = "v1.34.0-sandbox"
_SUBSCRIPTION: Final = "00000000-0000-0000-0000-000000000000"
_PROJECT: Final = "sandbox"


def identity(cluster: ClusterPlan, spec: PoolSpec, number: int, seed: int) -> tuple[str, str, str]:
    """(instance id, provider id, node name) of the pool's machine `number`; the same for the same arguments."""
    digest = hashlib.sha256(f"{seed}/{cluster.name}/{spec.name}/{number}".encode()).hexdigest()
    match cluster.provider:
        case "eks":
            instance = f"i-0{digest[:16]}"
            node = f"ip-10-{int(digest[16:18], 16)}-{number // 250}-{number % 250 + 1}-{digest[18:21]}.ec2.internal"
            return instance, f"aws:///{spec.zone}/{instance}", node
        case "gke":
            node = f"gke-{cluster.name}-{spec.name}-{digest[:8]}-{digest[8:12]}"
            return node, f"gce://{_PROJECT}/{spec.zone}/{node}", node
        case "aks":
            group = hashlib.sha256(f"{cluster.name}/{spec.name}".encode()).hexdigest()
            scale_set = f"aks-{spec.name}-{int(group[:8], 16) % 10**8:08d}-vmss"
            path = (
                f"azure:///subscriptions/{_SUBSCRIPTION}/resourceGroups/mc_sandbox_{cluster.name}_{cluster.region}"
                f"/providers/Microsoft.Compute/virtualMachineScaleSets/{scale_set}/virtualMachines/{number}"
            )
            return f"{scale_set}_{number}", path, f"{scale_set}{_base36(number)}"
        case _:
            node = f"{cluster.name}-{spec.name}-{number}"
            return node, f"sandbox://{cluster.name}/{spec.name}/{number}", node


def node_labels(cluster: ClusterPlan, plan: PoolPlan) -> dict[str, str]:
    """Labels that all nodes of the pool carry."""
    spec = plan.spec
    labels = {
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": spec.instance_type,
        "topology.kubernetes.io/region": plan.region or cluster.region,
        "topology.kubernetes.io/zone": spec.zone,
        **dict(spec.labels),
    }
    if spec.gpus:
        labels["nvidia.com/gpu.product"] = spec.gpu_model
        labels["nvidia.com/gpu.count"] = str(spec.gpus)
        labels["nvidia.com/gpu.memory"] = str(quantity_units(spec.gpu_memory) // 2**20)
    return labels


def node_object(cluster: ClusterPlan, plan: PoolPlan, node: str, provider_id: str, now: str) -> dict[str, Any]:
    """The Node that the machine registers, ready, held by the finalizer of its machine."""
    spec = plan.spec
    amounts = {"cpu": spec.cpu, "memory": spec.memory, "pods": "110", "ephemeral-storage": "400Gi"}
    if spec.gpus:
        amounts["nvidia.com/gpu"] = str(spec.gpus)
    labels = {**node_labels(cluster, plan), "kubernetes.io/hostname": node}
    node_spec: dict[str, Any] = {"providerID": provider_id}
    if spec.taints:
        node_spec["taints"] = [{"key": key, "value": value, "effect": effect} for key, value, effect in spec.taints]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node, "labels": labels, "finalizers": [INSTANCE_FINALIZER]},
        "spec": node_spec,
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": _conditions(now),
            "addresses": [{"type": "Hostname", "address": node}],
            "nodeInfo": _NODE_INFO,
        },
    }


def _conditions(now: str) -> list[dict[str, str]]:
    times = {"lastHeartbeatTime": now, "lastTransitionTime": now}
    healthy = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
    return [{"type": k, "status": s, "reason": r, "message": m, **times} for k, s, r, m in healthy]


def _base36(number: int) -> str:
    digits = ""
    for _ in range(6):
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits


_NODE_INFO: Final = {
    "machineID": "",
    "systemUUID": "",
    "bootID": "",
    "kernelVersion": "6.1.0",
    "osImage": "Emulated Linux",
    "containerRuntimeVersion": "containerd://1.7.0",
    "kubeletVersion": KUBELET_VERSION,
    "kubeProxyVersion": "",
    "operatingSystem": "linux",
    "architecture": "amd64",
}
