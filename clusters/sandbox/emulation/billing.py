"""What the emulated clouds charge: the ground truth that a daemon's metering is measured against.

A machine costs its pool's hourly price from the creationTimestamp of its Node object to its deletionTimestamp, in whole
seconds; one that is up is charged until now. A machine that never had a Node object costs nothing; owned ones neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.objects import parse_time
from clusters.sandbox.scenario import ClusterPlan, PoolPlan
from scheduler.model.cluster import ON_DEMAND, SPOT
from scheduler.model.ids import Instant
from scheduler.model.money import Usd, cost_usd
from scheduler.model.ports import Clock, RawObject


@dataclass(frozen=True, slots=True)
class Charge:
    """One bought machine. `deleted_at` None: it is up."""

    cluster: str
    node: str
    uid: str
    pool: str
    capacity_type: str
    usd_per_hour: Usd
    created_at: Instant
    deleted_at: Instant | None
    usd: Usd


@dataclass(slots=True)
class _Entry:
    node: str
    uid: str
    plan: PoolPlan
    created_at: Instant
    deleted_at: Instant | None = None


class Billing:
    """Notes the life of every bought machine of one cluster."""

    def __init__(self, plan: ClusterPlan, clock: Clock, nodes: Informer) -> None:
        self._cluster = plan.name
        self._clock = clock
        self._pools = [pool for pool in plan.pools if pool.spec.capacity_type in (ON_DEMAND, SPOT)]
        self._entries: dict[str, _Entry] = {}
        nodes.handle(self._on_node)

    def charges(self) -> tuple[Charge, ...]:
        """All machines so far, oldest first."""
        now = float(int(self._clock.now()))
        entries = sorted(self._entries.values(), key=lambda entry: (entry.created_at, entry.node))
        return tuple(self._charge(entry, now) for entry in entries)

    def _charge(self, entry: _Entry, now: Instant) -> Charge:
        spec = entry.plan.spec
        price = Decimal(spec.usd_per_hour)
        end = entry.deleted_at if entry.deleted_at is not None else now
        usd = cost_usd(price, max(0.0, end - entry.created_at))
        return Charge(
            self._cluster, entry.node, entry.uid, spec.name, spec.capacity_type, price, entry.created_at,
            entry.deleted_at, usd,
        )  # fmt: skip

    def _on_node(self, kind: str, old: RawObject | None, node: RawObject) -> None:
        metadata = node["metadata"]
        uid = str(metadata["uid"])
        entry = self._entries.get(uid)
        if entry is None:
            plan = self._plan_of(metadata.get("labels") or {})
            if plan is None:
                return
            entry = _Entry(str(metadata["name"]), uid, plan, parse_time(str(metadata["creationTimestamp"])))
            self._entries[uid] = entry
        if entry.deleted_at is None and metadata.get("deletionTimestamp"):
            entry.deleted_at = parse_time(str(metadata["deletionTimestamp"]))
        elif entry.deleted_at is None and kind == "DELETED":
            entry.deleted_at = float(int(self._clock.now()))

    def _plan_of(self, labels: dict[str, str]) -> PoolPlan | None:
        for plan in self._pools:
            if all(labels.get(key) == value for key, value in plan.spec.labels):
                return plan
        return None


def total(charges: tuple[Charge, ...]) -> Usd:
    """Exact to the nano-dollar."""
    return sum((charge.usd for charge in charges), Decimal(0))
