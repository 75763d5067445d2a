"""What an incident puts at risk, in GPU-hours, money and deadlines."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from scheduler.aiops.incidents import Impact
from scheduler.aiops.topology import NodeKey, NodePlace, Run, Topology
from scheduler.model.ids import Instant

_CENT: Final = Decimal("0.01")


def assess(nodes: frozenset[NodeKey], workloads: frozenset[str], fleet: Topology, now: Instant) -> Impact:
    """Of workloads that are hit themselves, and of those that run on nodes that are."""
    named = set(workloads)
    for key in nodes:
        named.update(fleet.workloads_on.get(key, ()))
    runs = [fleet.run_of[name] for name in sorted(named) if name in fleet.run_of]
    places = [fleet.place_of[key] for key in sorted(nodes) if key in fleet.place_of]
    gpus = sum(run.gpus for run in runs) or sum(place.gpus for place in places)
    lost = {run.workload: hours for run in runs if (hours := _hours_since(run, now)) is not None}
    return Impact(
        nodes=len(nodes),
        gpus=gpus,
        workloads=tuple(run.workload for run in runs),
        gpu_hours_at_risk=sum(run.gpus * lost[run.workload] for run in runs if run.workload in lost) if lost else None,
        usd_at_risk=_usd(runs, lost, fleet),
        usd_per_hour=_usd_per_hour(runs, places, fleet),
        deadlines=tuple(run.workload for run in runs if _breaks(run, lost.get(run.workload))),
    )


def _hours_since(run: Run, now: Instant) -> float | None:
    return None if run.checkpoint_at is None else max(now - run.checkpoint_at, 0.0) / 3600.0


def _breaks(run: Run, hours: float | None) -> bool:
    """Whether the deadline is missed when the lost work is done again, and holds otherwise or is missed anyway."""
    if run.deadline is None or run.finish_forecast is None:
        return False
    return run.finish_forecast + 3600.0 * (hours or 0.0) > run.deadline


def _usd(runs: Sequence[Run], lost: dict[str, float], fleet: Topology) -> Decimal | None:
    """None when a price of a node of one of them is not known."""
    total = Decimal(0)
    for run in runs:
        if run.workload not in lost:
            continue
        hourly = _hourly(run, fleet)
        if hourly is None:
            return None
        total += hourly * Decimal(str(round(lost[run.workload], 6)))
    return total.quantize(_CENT) if lost else None


def _hourly(run: Run, fleet: Topology) -> Decimal | None:
    """What a run's share of its nodes costs; None: not known."""
    places = [fleet.place_of.get(key) for key in run.nodes]
    prices = [place.usd_per_hour for place in places if place is not None and place.gpus]
    sizes = sum(place.gpus for place in places if place is not None)
    if not sizes or len(prices) != len(run.nodes) or any(price is None for price in prices):
        return None
    whole = sum((price for price in prices if price is not None), Decimal(0))
    return whole * (Decimal(min(run.gpus, sizes)) / Decimal(sizes))


def _usd_per_hour(runs: Sequence[Run], places: Sequence[NodePlace], fleet: Topology) -> Decimal | None:
    """Of the runs that are hit; without one, of the nodes."""
    hourly = [_hourly(run, fleet) for run in runs] or [place.usd_per_hour for place in places]
    known = [each for each in hourly if each is not None]
    return sum(known, Decimal(0)).quantize(_CENT) if known and len(known) == len(hourly) else None
