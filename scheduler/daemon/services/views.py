"""Divided services as the read API tells of them, as plain JSON values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scheduler.daemon.placing.decisions import to_json
from scheduler.daemon.services.keeper import ServiceKeeper
from scheduler.engine.serving.looking import Looked
from scheduler.model.ids import Uid


@dataclass(frozen=True, slots=True)
class ServiceViews:
    """Reads the keeper; changes nothing."""

    keeper: ServiceKeeper

    def brief(self) -> list[dict[str, Any]]:
        """Each service in a few figures, by name."""
        looked = sorted(self.keeper.looked.values(), key=lambda each: each.division.service)
        return [_brief(each) for each in looked]

    async def division(self, uid: Uid) -> dict[str, Any] | None:
        """The last division, with what binds it; None: it is no service, or has not been looked at yet."""
        looked = await self.keeper.explained(uid)
        return None if looked is None else _division(looked)


def _brief(looked: Looked) -> dict[str, Any]:
    division = looked.division
    return {
        "namespace": division.service.namespace,
        "name": division.service.name,
        "slo": looked.intent.slo,
        "condition": division.conditions[0].reason,
        "wanted": sum(one.replicas for one in looked.intent.targets),
        "ready": sum(ready for ready in _ready(looked).values()),
        "demand_per_second": division.demand_per_second,
        "ready_per_second": division.ready_per_second,
        "usd_per_hour": to_json(division.usd_per_hour),
        "clusters": sorted({one.pool.cluster for one in looked.intent.targets}),
    }


def _division(looked: Looked) -> dict[str, Any]:
    division, ready = looked.division, _ready(looked)
    rollout = looked.memory.rollout
    return {
        "slo": looked.intent.slo,
        "decision": looked.intent.decision,
        "decided_at": division.decided_at,
        "sentence": division.sentence,
        "solver": division.solver,
        "conditions": to_json(division.conditions),
        "demand_per_second": division.demand_per_second,
        "planned_per_second": division.planned_per_second,
        "capacity_per_second": division.capacity_per_second,
        "ready_per_second": division.ready_per_second,
        "usd_per_hour": to_json(division.usd_per_hour),
        "cost_parts": to_json(division.cost_parts),
        "targets": [
            {
                "pool": to_json(one.pool),
                "revision": one.revision,
                "replicas": one.replicas,
                "ready": ready.get((one.pool, one.revision), 0),
                "bounds": None if one.bounds is None else list(one.bounds),
            }
            for one in looked.intent.targets
        ],
        "weights": to_json(looked.intent.weights),
        "choices": to_json(division.choices),
        "binding": to_json(division.binding),
        "leaving": list(division.leaving),
        "rollout": None
        if rollout is None
        else {"old": rollout.old, "new": rollout.new, "phase": rollout.phase, "step": rollout.step},
    }


def _ready(looked: Looked) -> dict[Any, int]:
    groups = () if looked.view is None else looked.view.service.groups
    return {(group.pool, group.revision): group.ready for group in groups}
