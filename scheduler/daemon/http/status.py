"""What the daemon says of itself: the answers of the read API, as plain JSON values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from scheduler.daemon.config.live_policies import LivePolicies
from scheduler.daemon.gathering.gathered import Gathered, pool_json
from scheduler.daemon.history.store import History
from scheduler.daemon.money.ledger import Ledger
from scheduler.daemon.placing.decisions import DecisionLog, to_json
from scheduler.daemon.placing.planning import Planner, phase_of
from scheduler.daemon.services.gauges import ServiceGauges
from scheduler.daemon.services.views import ServiceViews
from scheduler.daemon.state.member_mirror import MemberMirror
from scheduler.daemon.state.mirror import HubEntry, Mirror
from scheduler.daemon.supervise import Pulse
from scheduler.daemon.telemetry import Telemetry
from scheduler.daemon.telemetry.gauges import WorkloadGauges
from scheduler.model.ids import Uid
from scheduler.model.money import to_cents
from scheduler.model.ports import Clock
from scheduler.model.snapshot import Progress

_STUCK_SECONDS: Final = 120.0
_LATE_SECONDS: Final = 10.0
_NEEDED: Final = ("planner", "reconciler", "ledger", "control", "history")
"""Loops that fail by a fault of our own only, and without which a leader is none."""
_PHASES = ("pending", "reserved", "started", "paused", "releasing", "suspended", "finished", "invalid")


@dataclass(frozen=True, slots=True)
class StatusReport:
    """Reads the daemon's parts; changes none."""

    name: str
    mode: str
    clock: Clock
    mirror: Mirror
    planner: Planner
    decisions: DecisionLog
    ledger: Ledger
    history: History
    policies: LivePolicies
    telemetry: Telemetry
    gathered: Gathered
    progress: Callable[[Uid], Progress | None]
    waits: Callable[[Uid], list[dict[str, Any]]]
    cost: Callable[[Uid], dict[str, Any] | None]
    gauges: WorkloadGauges
    services: ServiceViews
    service_gauges: ServiceGauges
    pulse: Pulse
    is_leader: Callable[[], bool]
    is_idle: Callable[[], bool]

    def not_ready(self) -> str | None:
        """Why this process cannot serve yet, or None."""
        if not self.mirror.ever_synced:
            return f"not synced: {self.mirror.hub_error or 'listing'}"
        return None

    def not_healthy(self) -> str | None:
        """What is wrong with this process, or None: cycles of a leader that hang or fail each time, a loop that others
        depend on and that does not stay up, an event loop that is late. What others do wrong is not."""
        lag = self.pulse.lag_seconds
        if lag > _LATE_SECONDS:
            return f"the event loop is {lag:.0f} s late; see overspill_event_loop_lag_seconds"
        for name in _NEEDED:
            if self.pulse.failing_seconds(name) > _STUCK_SECONDS:
                return f"loop {name} has not stayed up for {self.pulse.failing_seconds(name):.0f} s; see the log for it"
        overdue = self.planner.seconds_overdue
        if overdue > _STUCK_SECONDS and (self.is_leader() or self.mode == "shadow"):
            return f"no scheduling cycle has come to its end for {overdue:.0f} s; see the log for loop_crashed"
        return None

    def status(self) -> dict[str, Any]:
        plan = self.planner.last_plan
        now = self.clock.now()
        phases = Counter(phase_of(entry.workload) for entry in self.mirror.hub.values())
        return {
            "federation": self.name,
            "mode": self.mode,
            "now": now,
            "leader": self.is_leader(),
            "synced": self.mirror.ever_synced and self.mirror.hub_synced,
            "progress": {
                "idle": self.is_idle(),
                "wake_at": self.planner.wake_at,
                "measured_at": self.gathered.readings.collected_at,
                "cycles": self.planner.cycles,
                "last_cycle_seconds": round(self.planner.last_cycle_seconds, 6),
            },
            "clusters": [self._cluster(member, now) for member in self.mirror.members.values()],
            "queues": to_json(plan.queues) if plan is not None else [],
            "budgets": to_json(plan.budgets) if plan is not None else [],
            "spend": self.ledger.by_queue(),
            "spend_usd": str(to_cents(self.ledger.total_usd)),
            "unpriced_node_seconds": self.ledger.unpriced_seconds,
            "unpriced_transfers": self.ledger.unpriced_transfers,
            "workloads": {phase: phases.get(phase, 0) for phase in _PHASES},
            "counters": {**self.decisions.counters, "returns": self.ledger.nodes_ended},
            "policies": {
                "digest": self.policies.current.digest,
                "loaded_at": self.policies.loaded_at,
                "error": self.policies.error,
            },
            "shadow": self.decisions.shadow,
            "services": self.services.brief(),
        }

    def workloads(self, queue: str, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Not more than `limit`, those not finished first, oldest first; and how many there are."""
        entries = [entry for entry in self.mirror.hub.values() if queue in ("", entry.workload.queue)]
        entries.sort(key=lambda entry: (entry.workload.finished, entry.workload.created_at, entry.workload.ref))
        return [_workload(entry) for entry in entries[:limit]], len(entries)

    def latest_decisions(self, count: int) -> list[dict[str, Any]]:
        return self.decisions.latest(count)

    async def explain(self, name: str) -> dict[str, Any] | None:
        """The workload called kind/namespace/name, namespace/name, kind/name or name, with its decisions. None: nobody
        knows it."""
        kind, namespace, short = _split(name)
        entry = self._find(kind, namespace, short)
        if entry is not None:
            uid = entry.workload.ref.uid
            decisions = self.decisions.of(uid) or await self.history.decisions_of(uid)
            told = {
                "workload": _workload(entry),
                "decisions": decisions,
                "waits": self.waits(uid),
                "cost": self.cost(uid),
            }
            progress, division = self.progress(uid), await self.services.division(uid)
            told |= {} if progress is None else {"progress": to_json(progress)}
            return told | ({} if division is None else {"division": division})
        row = await self.history.find_workload(kind, namespace, short)
        if row is None:
            return None
        workload = {key: row[key] for key in ("kind", "namespace", "name", "queue")}
        gone = {
            **workload,
            "uid": row["workload_uid"],
            "phase": "gone",
            "priority": 0,
            "placement": None,
            "condition": None,
        }
        return {"workload": gone, "decisions": await self.history.decisions_of(row["workload_uid"])}

    def refresh_metrics(self) -> None:
        """Bring the gauges that are read off state up to date, just before a scrape."""
        now = self.clock.now()
        self.telemetry.workloads.clear()
        phases = Counter((str(entry.workload.queue), phase_of(entry.workload)) for entry in self.mirror.hub.values())
        for (queue, phase), count in phases.items():
            self.telemetry.workloads.labels(queue, phase).set(count)
        self.gauges.refresh(now)
        self.service_gauges.refresh()
        self.telemetry.shadow_mode.set(self.mode == "shadow")
        self.telemetry.shortage.clear()
        for line in self.ledger.by_queue():
            labels = (line["queue"] or "", line["cluster"], line["capacity_type"])
            self.telemetry.spend.labels(*labels).set(float(line["usd"]))
        for member in self.mirror.members.values():
            self.telemetry.member_reachable.labels(member.member.id).set(0 if member.unreachable_since else 1)
            down = member.unreachable_since
            self.telemetry.mirror_age.labels(member.member.id).set(0.0 if down is None else max(0.0, now - down))
            pools = self._cluster(member, now)["pools"]
            bought = {pool.ref.pool: pool.capacity_type for pool in member.pools() if pool.bought}
            for each in member.pools():
                if each.shortage is not None:
                    self.telemetry.shortage.labels(member.member.id, each.ref.pool, each.shortage.kind).set(1)
            unpriced = sum(pool["usd_per_hour"] is None for pool in pools)
            self.telemetry.unpriced_pools.labels(member.member.id).set(unpriced)
            for pool in pools:
                where = (member.member.id, pool["pool"])
                self._measure_price_age(where, pool["price_as_of"], now)
                self.telemetry.pool_nodes.labels(*where, "all").set(pool["nodes"])
                self.telemetry.pool_nodes.labels(*where, "ready").set(pool["nodes_ready"])
                self.telemetry.pool_gpus.labels(*where, "all").set(pool["gpus"])
                self.telemetry.pool_gpus.labels(*where, "used").set(pool["gpus_used"])
                if pool["pool"] in bought:
                    self.telemetry.bought_nodes.labels(*where, bought[pool["pool"]]).set(pool["nodes"])
                    self.telemetry.idle_bought_gpus.labels(*where).set(max(0, pool["gpus"] - pool["gpus_used"]))

    def _measure_price_age(self, where: tuple[str, str], as_of: float | None, now: float) -> None:
        """A pool whose price is not known has no age: one that stays would be a lie."""
        if as_of is not None:
            self.telemetry.price_age.labels(*where).set(max(0.0, now - as_of))
        else:
            with suppress(KeyError):
                self.telemetry.price_age.remove(*where)

    def _find(self, kind: str, namespace: str, name: str) -> HubEntry | None:
        found = [
            entry
            for entry in self.mirror.hub.values()
            if entry.workload.ref.name == name
            and kind in ("", entry.workload.ref.kind)
            and namespace in ("", entry.workload.ref.namespace)
        ]
        return max(found, key=lambda entry: (not entry.workload.finished, entry.workload.created_at), default=None)

    def _cluster(self, member: MemberMirror, now: float) -> dict[str, Any]:
        cluster = member.cluster()
        silent = cluster.unreachable_since
        return {
            "id": cluster.id,
            "provider": cluster.provider,
            "region": cluster.region,
            "available": cluster.available,
            "unreachable_seconds": now - silent if silent is not None else None,
            "error": member.error,
            "round_trip_seconds": cluster.round_trip_seconds,
            "pools": [pool_json(cluster, pool) for pool in cluster.pools],
        }


def _workload(entry: HubEntry) -> dict[str, Any]:
    workload = entry.workload
    return {
        "kind": workload.ref.kind,
        "namespace": workload.ref.namespace,
        "name": workload.ref.name,
        "uid": workload.ref.uid,
        "queue": workload.queue,
        "priority": workload.priority,
        "phase": phase_of(workload),
        "gpus": workload.requests.gpus,
        "created_at": workload.created_at,
        "placement": to_json(workload.placement),
        "condition": list(workload.condition) if workload.condition is not None else None,
        "invalid": workload.invalid,
    }


_KINDS: Final = {
    **dict.fromkeys(("job", "jobs", "job.batch", "jobs.batch"), "job"),
    **dict.fromkeys(("fw", "federatedworkload", "federatedworkloads"), "federatedworkload"),
}
"""As kubectl lets one name them."""


def _split(name: str) -> tuple[str, str, str]:
    """(kind, namespace, name), empty where nothing is said. A namespace called job is told by all three parts."""
    parts = name.split("/")
    first = parts[0].lower()
    if len(parts) >= 3:
        return _KINDS.get(first, first), parts[1], "/".join(parts[2:])
    if len(parts) == 2:
        return (_KINDS[first], "", parts[1]) if first in _KINDS else ("", parts[0], parts[1])
    return "", "", name
