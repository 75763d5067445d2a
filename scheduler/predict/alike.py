"""What makes runs alike to the learned model: read from a workload's own traits, never from its name or its time."""

from __future__ import annotations

import math
from typing import Final

from scheduler.model.cluster import NodePool
from scheduler.model.traits import NO_TRAITS
from scheduler.model.workload import Workload
from scheduler.predict.throughput import Configuration

REPLICAS_LABEL: Final = "nvidia.com/gpu.replicas"


def groups_of(workload: Workload) -> tuple[str, str, str]:
    """From all that it says of itself, over its queue and GPUs, to its queue."""
    hints, ref, gpus = workload.hints, workload.ref, workload.requests.gpus
    labels = ",".join(f"{key}={value}" for key, value in sorted(workload.labels))
    said = f"{hints.model or ''}/{hints.batch_size or ''}/{hints.total_steps or ''}"
    if hints.traits != NO_TRAITS:
        said += f"/{hints.traits}"
    return (
        f"{workload.queue}|{ref.kind}|{ref.namespace}|{gpus}|{said}|{labels}"[:1024],
        f"{workload.queue}|{gpus}",
        workload.queue,
    )


def numbers_of(workload: Workload) -> tuple[float, ...]:
    """GPUs, pods, cores, GiB, log seconds that its user expects (-1: not said)."""
    asked, said = workload.requests, workload.hints.expected_seconds
    return (
        float(asked.gpus),
        float(asked.pods),
        asked.cpu_milli / 1000.0,
        asked.memory_bytes / 2**30,
        math.log(max(1.0, said)) if said is not None else -1.0,
    )


def configuration_of(workload: Workload, pool: NodePool) -> Configuration | None:
    """What runs where; None where its user does not say what it is, or the pool not what its GPUs are.

    A gang with no more GPUs than a node of the pool has is taken to run on one node. Where the pool's GPUs are handed
    out several times over, each is a share of one.
    """
    gpus, model = workload.requests.gpus, workload.hints.model
    if model is None or pool.gpu_model is None or gpus < 1:
        return None
    consolidated = gpus <= pool.node_resources.gpus
    share = 1.0 / replicas_of(pool)
    return Configuration(model, workload.hints.batch_size, pool.gpu_model, gpus, consolidated, share)


def replicas_of(pool: NodePool) -> int:
    """How many times over each GPU of the pool is handed out, by the label that NVIDIA's GPU feature discovery sets."""
    said = next((value for name, value in pool.labels if name == REPLICAS_LABEL), "1")
    return int(said) if said.isascii() and said.isdigit() and 1 <= len(said) <= 3 and int(said) else 1
