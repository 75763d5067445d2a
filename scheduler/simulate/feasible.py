"""Which jobs no pool of the federation could ever hold, whatever the policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.engine.packing import make_bin, pack
from scheduler.model.cluster import NodePool
from scheduler.model.workload import PodSet
from scheduler.simulate.driver import Site
from scheduler.simulate.trace import Trace


@dataclass(frozen=True, slots=True)
class Impossible:
    """One job that can never run, and why in words."""

    name: str
    why: str


def impossible_jobs(trace: Trace, site: Site) -> tuple[Impossible, ...]:
    """Jobs whose pods or whole gang fit on no pool, even an empty one at its largest; in order of arrival."""
    pools = [(pool, _most_nodes(site, pool)) for cluster in site.clusters for pool in cluster.pools]
    verdicts: dict[tuple[PodSet, ...], str] = {}
    for job in trace.jobs:
        if job.pod_sets not in verdicts:
            verdicts[job.pod_sets] = _why_not(job.pod_sets, pools)
    return tuple(Impossible(job.name, verdicts[job.pod_sets]) for job in trace.jobs if verdicts[job.pod_sets])


def without(trace: Trace, jobs: Iterable[Impossible]) -> Trace:
    """The trace without these."""
    names = {job.name for job in jobs}
    return Trace(trace.name, tuple(job for job in trace.jobs if job.name not in names), trace.speeds)


def _most_nodes(site: Site, pool: NodePool) -> int:
    return pool.max_nodes if pool.bought else site.owned_nodes.get(pool.ref, 0)


def _why_not(sets: tuple[PodSet, ...], pools: list[tuple[NodePool, int]]) -> str:
    """Empty when some pool could hold it."""
    models = [(pool, most) for pool, most in pools if most and all(_model_fits(pod_set, pool) for pod_set in sets)]
    if not models:
        wanted = sorted({model for pod_set in sets for model in pod_set.gpu_models})
        return f"no pool has a GPU that it accepts ({', '.join(wanted)})" if wanted else "no pool has a node"
    for pool, most in models:
        bins = [make_bin(str(n), pool.node_resources, pool.labels) for n in range(min(most, _pods(sets)))]
        if pack(sorted(sets, key=lambda each: -each.requests.gpus), [bins]) is not None:
            return ""
    for pod_set in sets:
        if not any(make_bin("", pool.node_resources).room_for(pod_set.requests, 1) for pool, _ in models):
            return f"one of its pods asks for {_amount(pod_set)}, more than any node of a fitting pool has"
    gpus = sum(pod_set.requests.gpus * pod_set.count for pod_set in sets)
    return f"its {_pods(sets)} pods ({gpus} GPUs) must run at the same time, and no pool can be that large"


def _model_fits(pod_set: PodSet, pool: NodePool) -> bool:
    return not pod_set.requests.gpus or not pod_set.gpu_models or pool.gpu_model in pod_set.gpu_models


def _pods(sets: tuple[PodSet, ...]) -> int:
    return sum(pod_set.count for pod_set in sets)


def _amount(pod_set: PodSet) -> str:
    asked = pod_set.requests
    gpus = f"{asked.gpus} GPUs, " if asked.gpus else ""
    return f"{gpus}{asked.cpu_milli / 1000:g} cores and {asked.memory_bytes / 2**30:g} GiB"
