"""Small builders of model values for tests: name what matters in a case, leave the rest to the defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scheduler.model.ids import ClusterId, PoolId, QueueId, Uid, WorkloadRef
from scheduler.model.resources import Resources
from scheduler.model.workload import Copy, CopyState, Placement, PlacementState, PodSet, Workload

GIB = 2**30


def a_pod_set(*, gpus: int = 1, count: int = 1, **changes: Any) -> PodSet:
    """`count` pods of `gpus` GPUs, 4 cores and 16 GiB each."""
    return replace(PodSet("main", count, Resources(4000, 16 * GIB, gpus, 1)), **changes)


def a_placement(cluster: str = "a", **changes: Any) -> Placement:
    """A started placement on `cluster`, pool "p", attempt 1."""
    base = Placement(ClusterId(cluster), PoolId("p"), "owned", False, PlacementState.STARTED, 1, 0.0, "d-1")
    return replace(base, **changes)


def a_workload(name: str = "w", **changes: Any) -> Workload:
    """A pending one-GPU Job in the queue "q"."""
    ref = WorkloadRef("job", "default", name, Uid(f"uid-{name}"))
    return replace(Workload(ref, QueueId("q"), 0, 0.0, 0.0, (a_pod_set(),)), **changes)


def a_copy(workload: Workload, cluster: str = "a", **changes: Any) -> Copy:
    """A running copy of attempt 1."""
    base = Copy(
        origin=workload.ref.uid,
        cluster=ClusterId(cluster),
        kind=workload.ref.kind,
        namespace=workload.ref.namespace,
        name=f"{workload.ref.name}-copy",
        uid=Uid(f"copy-{workload.ref.name}-{cluster}"),
        attempt=1,
        state=CopyState.RUNNING,
        suspended=False,
        deleting=False,
        created_at=0.0,
        started_at=0.0,
        finished_at=None,
        pods_wanted=1,
    )
    return replace(base, **changes)
