"""What a replay is judged by: minutes out of the SLO, money, and how often replicas were changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np

from scheduler.engine.serving.waiting import LATE
from scheduler.model.cluster import OWNED
from scheduler.model.money import Usd, cost_usd
from scheduler.simulate.serving.log import Floats
from scheduler.simulate.serving.replay import ServingRun

MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True)
class ServingMeasures:
    decider: str
    kind: str
    seed: int
    requests: int
    minutes: int
    minutes_out: int
    """In which more than 5 % of the requests that arrived were later than the SLO: its p95 was out."""
    minutes_asked: int
    """With any request."""
    late_requests: int
    cost_usd: Usd
    """Owned replicas by their pool's price, too, for as long as they are used."""
    cloud_usd: Usd
    unpriced_hours: float
    replica_hours: float
    changes_per_hour: float
    reclaimed: int

    @property
    def out_percent(self) -> float:
        """Of all minutes."""
        return 100.0 * self.minutes_out / self.minutes if self.minutes else 0.0

    @property
    def out_percent_asked(self) -> float:
        """Of the minutes in which anybody asked."""
        return 100.0 * self.minutes_out / self.minutes_asked if self.minutes_asked else 0.0

    def as_json(self) -> dict[str, Any]:
        found = asdict(self)
        found |= {"cost_usd": float(self.cost_usd), "cloud_usd": float(self.cloud_usd)}
        found |= {"out_percent": round(self.out_percent, 4), "out_percent_asked": round(self.out_percent_asked, 4)}
        return found


def late(run: ServingRun) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Of each request, whether it was later than the SLO; one that was never answered is."""
    world, slo = run.world, run.slo
    ways = _ways(run)
    found = np.isnan(world.ended)
    if slo.p95_first_token_seconds is not None:
        found |= np.nan_to_num(world.began - world.log.at, nan=np.inf) + ways > slo.p95_first_token_seconds
    if slo.p95_latency_seconds is not None:
        found |= np.nan_to_num(world.ended - world.log.at, nan=np.inf) + ways > slo.p95_latency_seconds
    return found


def _ways(run: ServingRun) -> Floats:
    world = run.world
    clusters = world.site.clusters
    table = np.array([[world.site.way(region, cluster) for cluster in clusters] for region in world.log.clients])
    index = {cluster: number for number, cluster in enumerate(clusters)}
    where = np.array([0 if cluster is None else index[cluster] for cluster in world.where], dtype=np.int64)
    return np.asarray(table[world.log.client, where], dtype=np.float64)


def minutes_out(run: ServingRun, first_seconds: float = 0.0) -> tuple[int, int, int]:
    """(all minutes, those out of the SLO, those with requests), from a time on."""
    at = run.world.log.at
    if not len(at):
        return 0, 0, 0
    minute = (at // MINUTE).astype(np.int64)
    asked = np.bincount(minute)
    too_late = np.bincount(minute, weights=late(run))
    first = int(first_seconds // MINUTE)
    asked, too_late = asked[first:], too_late[first:]
    return len(asked), int((too_late > LATE * asked).sum()), int((asked > 0).sum())


def measure(run: ServingRun) -> ServingMeasures:
    world = run.world
    total, cloud, unpriced, seconds = Decimal(0), Decimal(0), 0.0, 0.0
    for pool in world.site.pools:
        account = world.accounts[pool.pool]
        seconds += account.seconds
        if pool.usd_per_replica_hour is None:
            unpriced += account.seconds / 3600.0
            continue
        cost = cost_usd(pool.usd_per_replica_hour, account.seconds)
        total += cost
        cloud += cost if pool.capacity_type != OWNED else Decimal(0)
    minutes, out, asked = minutes_out(run)
    hours = max(1e-9, world.log.duration_seconds / 3600.0)
    return ServingMeasures(
        decider=run.decider, kind=run.kind, seed=run.seed, requests=len(world.log), minutes=minutes, minutes_out=out,
        minutes_asked=asked, late_requests=int(late(run).sum()), cost_usd=total, cloud_usd=cloud,
        unpriced_hours=round(unpriced, 6), replica_hours=round(seconds / 3600.0, 6),
        changes_per_hour=round(run.changes / hours, 4),
        reclaimed=sum(account.reclaimed for account in world.accounts.values()),
    )  # fmt: skip
