"""Small worlds for replays: a site, a job, a policy set in one line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from scheduler.model.cluster import SPOT, NodePool
from scheduler.model.ids import ClusterId, PoolId, PoolRef
from scheduler.model.money import Price
from scheduler.model.policy import BurstRule, PlacementPolicy, PolicySet, ValueOfTime
from scheduler.simulate.assumptions import Assumptions
from scheduler.simulate.driver import Decider, PolicyDecider, Site, TracePredictor, replay
from scheduler.simulate.readers._pods import gpu_pods
from scheduler.simulate.record import RunRecord
from scheduler.simulate.trace import Trace, TraceJob
from tests.unit.engine_world import bought_pool, cluster, pool

A_DOLLAR = ValueOfTime(usd_per_gpu_hour=Decimal(1))
ONPREM = PoolRef(ClusterId("onprem"), PoolId("a100"))
CLOUD = PoolRef(ClusterId("cloud"), PoolId("od"))
EXACT = Assumptions(provisioning_spread=0.0, start_seconds=0.0, restart_seconds=60.0)
"""Nothing is drawn but reclaims and shortages."""


def price(usd: str) -> Price:
    return Price(Decimal(usd), "test", 0.0)


def spot_pool(name: str = "spot", **changes: Any) -> NodePool:
    return bought_pool("cloud", name, **({"capacity_type": SPOT, "price": price("8")} | changes))


def site(owned: int = 1, *bought: NodePool) -> Site:
    """`owned` nodes of 8 GPUs on-prem, and in the cloud what is given: by default 4 on-demand nodes at 16 USD an hour,
    there in 240 s."""
    pools = bought or (bought_pool("cloud", "od"),)
    clusters = (cluster("onprem", (pool("onprem", "a100"),)), cluster("cloud", pools))
    return Site(clusters, {ONPREM: owned} if owned else {})


def job(name: str, arrival: float = 0.0, run: float = 3600.0, gpus: int = 8, **changes: Any) -> TraceJob:
    base = TraceJob(name, arrival, run, "team", gpu_pods(gpus))
    return replace(base, **changes)


def trace(*jobs: TraceJob, speeds: Mapping[str, Mapping[str, float]] | None = None) -> Trace:
    return Trace("test", tuple(sorted(jobs, key=lambda each: (each.arrival_seconds, each.name))), speeds or {})


def burst_at_once(**changes: Any) -> PolicySet:
    """One policy that buys where it is cheapest, at once, and gives back after five minutes."""
    return PolicySet((replace(PlacementPolicy("any", burst=BurstRule()), **changes),), digest="digest")


def run(
    what: Trace, where: Site, policies: PolicySet | Decider | None = None, assumptions: Assumptions = EXACT, **more: Any
) -> RunRecord:
    """A replay under policies (default: `burst_at_once`) or a decider."""
    chosen = burst_at_once() if policies is None else policies
    decider = PolicyDecider("test", chosen, TracePredictor(what.speeds)) if isinstance(chosen, PolicySet) else chosen
    return replay(what, where, decider, assumptions, **more)


def told(record: RunRecord) -> dict[str, tuple[float | None, float | None]]:
    """By job: when it first started and ended, in seconds of the replay."""

    def since(at: float | None) -> float | None:
        return None if at is None else at - record.started_at

    return {each.job.name: (since(each.first_started_at), since(each.finished_at)) for each in record.jobs}
