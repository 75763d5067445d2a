"""From checked policy documents to the values that the engine uses, and the digest that names a set of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import Field, fields, is_dataclass
from decimal import Decimal
from typing import Any

from policies import schema
from policies.expressions import CelExpression
from scheduler.model import policy as model
from scheduler.model.ids import QueueId
from scheduler.model.remediation import RemediationPolicy
from scheduler.model.serving_policy import ServingSLO


def placement_policy(document: schema.PlacementPolicyDocument) -> model.PlacementPolicy:
    spec = document.spec
    return model.PlacementPolicy(
        name=document.metadata.name,
        precedence=spec.precedence,
        match=model.Match(
            queues=tuple(spec.match.queues),
            kinds=tuple(spec.match.kinds),
            labels=tuple(sorted(spec.match.labels.items())),
            expression=spec.match.expression,
        ),
        objective=spec.objective,
        value_of_time=None
        if spec.value_of_time is None
        else model.ValueOfTime(spec.value_of_time.usd_per_hour, spec.value_of_time.usd_per_gpu_hour),
        time_slice=None
        if spec.time_slice is None
        else model.TimeSliceRule(spec.time_slice.every, spec.time_slice.usd_per_hour_to_last_end),
        constraints=_constraints(spec.constraints),
        burst=None if spec.burst is None else _burst(spec.burst),
        give_back=model.ReturnRule(
            idle_seconds=spec.give_back.idle,
            moves=spec.give_back.move == "whenItPays",
            move_after_seconds=spec.give_back.move_after,
        ),
        budgets=tuple(_budget(budget) for budget in spec.budgets),
        disruption=model.DisruptionRule(
            member_lost_seconds=spec.disruption.member_lost, moves_at_once=spec.disruption.moves_at_once
        ),
        reservation=model.ReservationRule(after_wait_seconds=spec.reservation.after_wait),
        exploration=None if spec.exploration is None else _exploration(spec.exploration),
    )


def queue(document: schema.QueueDocument) -> model.QueueSpec:
    spec = document.spec
    return model.QueueSpec(
        id=QueueId(document.metadata.name),
        cohort=spec.cohort,
        weight=spec.weight,
        quotas=tuple(sorted((_quota(quota) for quota in spec.quotas), key=lambda quota: quota.resource)),
        strict_fifo=spec.strict_fifo,
        preemption=model.PreemptionRule(
            reclaim=spec.preemption.reclaim == "borrowed",
            lower_priority=spec.preemption.priority == "lower",
            max_lost_seconds=spec.preemption.max_lost_work,
        ),
        wait_objective_seconds=spec.wait_objective,
        latency_objective_seconds=spec.latency_objective,
    )


def policy_set(
    policies: Iterable[model.PlacementPolicy],
    queues: Iterable[model.QueueSpec],
    remediation: Iterable[RemediationPolicy] = (),
    serving: Iterable[ServingSLO] = (),
) -> model.PolicySet:
    """Sorted by name, with a digest that depends on what the files mean and not on how they are written."""
    policies = tuple(sorted(policies, key=lambda policy: policy.name))
    queues = tuple(sorted(queues, key=lambda queue: queue.id))
    remedies = tuple(sorted(remediation, key=lambda policy: policy.name))
    slos = tuple(sorted(serving, key=lambda slo: slo.name))
    # Kinds that came later are left out where there are none, so that the sets of before keep their names.
    parts = [_canonical(part) for part in (policies, queues, *((remedies,) if remedies or slos else ()))]
    parts += [_canonical(slos)] if slos else []
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return model.PolicySet(
        policies, queues, hashlib.sha256(text.encode()).hexdigest(), remediation=remedies, serving=slos
    )


def _constraints(spec: schema.ConstraintsSpec) -> model.Constraints:
    return model.Constraints(
        clusters=tuple(spec.clusters),
        excluded_clusters=tuple(spec.excluded_clusters),
        providers=tuple(spec.providers),
        regions=tuple(spec.regions),
        residency=tuple(spec.residency),
        capacity_types=tuple(spec.capacity_types),
        gpu_models=tuple(spec.gpu_models),
        min_gpu_memory_bytes=spec.min_gpu_memory,
        max_usd_per_gpu_hour=spec.max_usd_per_gpu_hour,
        max_usd_per_run=spec.max_usd_per_run,
        deadline_seconds=spec.deadline,
        deadline_confidence=spec.confidence,
        max_round_trip_seconds=spec.max_round_trip,
    )


def _burst(spec: schema.BurstSpec) -> model.BurstRule:
    return model.BurstRule(
        after_wait_seconds=spec.after_wait, max_nodes=spec.max_nodes, expression=spec.expression,
        ahead_seconds=spec.ahead,
    )  # fmt: skip


def _budget(spec: schema.BudgetSpec) -> model.Budget:
    return model.Budget(
        name=spec.name,
        limit_usd=spec.limit_usd,
        window=spec.window,
        queues=tuple(spec.queues),
        clusters=tuple(spec.clusters),
        capacity_types=tuple(spec.capacity_types),
    )


def _exploration(spec: schema.ExplorationSpec) -> model.ExplorationRule:
    return model.ExplorationRule(spec.limit_usd, spec.window, spec.at_once, spec.max_premium)


def _quota(spec: schema.QuotaSpec) -> model.Quota:
    return model.Quota(
        resource=spec.resource,
        nominal=spec.units(spec.nominal),
        borrowing_limit=None if spec.borrowing_limit is None else spec.units(spec.borrowing_limit),
        lending_limit=None if spec.lending_limit is None else spec.units(spec.lending_limit),
    )


def _canonical(value: Any) -> Any:
    match value:
        case CelExpression():
            return value.source
        case Decimal():
            return format(value.normalize(), "f")
        case tuple():
            return [_canonical(item) for item in value]
    if is_dataclass(value):
        said = {field.name: getattr(value, field.name) for field in fields(value) if not _unsaid(value, field)}
        return {name: _canonical(each) for name, each in said.items()}
    return value


def _unsaid(value: Any, field: Field[Any]) -> bool:
    return bool(field.metadata.get("unsaid_when_none")) and getattr(value, field.name) is None
