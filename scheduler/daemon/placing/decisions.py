"""The decisions taken, kept in memory for `explain` (bounded) and recorded in the history (all of them)."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import orjson
import structlog

from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import DECISIONS
from scheduler.daemon.telemetry import Telemetry
from scheduler.engine.preemption import PREEMPTED, RECLAIMED
from scheduler.model.cluster import ON_DEMAND
from scheduler.model.ids import Uid
from scheduler.model.money import Usd, to_cents
from scheduler.model.plan import Candidate, Decision

log = structlog.get_logger("scheduler.decisions")
_WORKLOADS_AT_MOST: Final = 20_000
_EACH_AT_MOST: Final = 20
_PLACING: Final = ("placed", "burst")
_PREEMPTING: Final = (RECLAIMED, PREEMPTED)


class DecisionLog:
    """Newest decisions by workload, counters, and what the placements save, or in shadow mode would have saved."""

    def __init__(self, history: History, telemetry: Telemetry, *, shadow: bool) -> None:
        self._history = history
        self._telemetry = telemetry
        self._shadow = shadow
        self._recent: OrderedDict[Uid, deque[Decision]] = OrderedDict()
        self.counters = {"decisions": 0, "placed": 0, "bursts": 0, "held": 0, "releases": 0, "preemptions": 0}
        self.expected_cost_usd = Usd(0)
        self.saved_usd = Usd(0)
        self.on_add: Callable[[Decision], None] = lambda decision: None

    def add(self, decision: Decision) -> None:
        """Log, count, keep and record one decision."""
        chosen = decision.chosen
        log.info(
            "decision",
            id=decision.id,
            workload=str(decision.workload),
            queue=decision.queue,
            outcome=decision.outcome,
            reason=decision.reason.code,
            pool=str(chosen.pool) if chosen is not None else None,
            why=decision.sentence,
        )
        self._telemetry.decisions.labels(decision.outcome, decision.reason.code).inc()
        self._count(decision)
        self._keep(decision)
        self.on_add(decision)
        self._history.record(
            DECISIONS,
            {
                "id": decision.id,
                "at": decision.at,
                "workload_uid": decision.workload.uid,
                "kind": decision.workload.kind,
                "namespace": decision.workload.namespace,
                "name": decision.workload.name,
                "queue": decision.queue,
                "outcome": decision.outcome,
                "reason": decision.reason.code,
                "body": to_text(decision),
            },
        )

    def of(self, uid: Uid) -> list[dict[str, Any]]:
        """The newest first, as JSON."""
        return [to_json(decision) for decision in reversed(self._recent.get(uid, ()))]

    def latest(self, count: int) -> list[dict[str, Any]]:
        """The newest decisions of the workloads that were last decided on."""
        newest = list(self._recent.values())[-count:]
        return [to_json(decisions[-1]) for decisions in reversed(newest)]

    @property
    def shadow(self) -> dict[str, Any] | None:
        """What shadow mode would have done; None in active mode."""
        if not self._shadow:
            return None
        return {
            "would_place": self.counters["placed"],
            "would_burst": self.counters["bursts"],
            "would_hold": self.counters["held"],
            "expected_cost_usd": str(to_cents(self.expected_cost_usd)),
            "saved_usd": str(to_cents(self.saved_usd)),
            "saved_against": "running each workload on the cheapest on-demand offering open to it",
        }

    def _keep(self, decision: Decision) -> None:
        uid = decision.workload.uid
        kept = self._recent.pop(uid, None) or deque(maxlen=_EACH_AT_MOST)
        kept.append(decision)
        self._recent[uid] = kept
        while len(self._recent) > _WORKLOADS_AT_MOST:
            self._recent.popitem(last=False)

    def _count(self, decision: Decision) -> None:
        self.counters["decisions"] += 1
        if decision.outcome in _PLACING:
            self.counters["placed"] += 1
        if decision.outcome == "burst":
            self.counters["bursts"] += 1
        elif decision.outcome == "held":
            self.counters["held"] += 1
        elif decision.outcome == "released":
            self.counters["releases"] += 1
            if decision.reason.code in _PREEMPTING:
                self.counters["preemptions"] += 1
                self._telemetry.preemptions.labels(decision.queue, decision.reason.code).inc()
        if decision.outcome in _PLACING and decision.chosen is not None:
            self._compare(decision.chosen, decision.alternatives)
            self._telemetry.regret.labels(decision.queue).inc(regret_usd(decision, decision.chosen))

    def _compare(self, chosen: Candidate, alternatives: tuple[Candidate, ...]) -> None:
        cost = chosen.expected_cost_usd
        if cost is None:
            return
        self.expected_cost_usd += cost
        on_demand = [
            other.expected_cost_usd
            for other in (chosen, *alternatives)
            if other.capacity_type == ON_DEMAND and other.score is not None and other.expected_cost_usd is not None
        ]
        if on_demand:
            self.saved_usd += min(on_demand) - cost
            mode = "shadow" if self._shadow else "active"
            self._telemetry.expected_saved.labels(mode).set(float(self.saved_usd))


def regret_usd(decision: Decision, chosen: Candidate) -> float:
    """What the chosen one is expected to cost above the cheapest that stood open, waiting included where that was
    weighed; 0 where its cost is not known. With the time to its end where the policy values it (then that is its
    score)."""
    open_ = [each for each in (chosen, *decision.alternatives) if each.score is not None]
    if chosen.cost_parts and chosen.score is not None:
        least = min(each.score for each in open_ if each.cost_parts and each.score is not None)
        waiting = chosen.score if decision.wait is None else decision.wait.expected_cost_usd
        return max(0.0, chosen.score - min(least, waiting))
    costs = [each.expected_cost_usd for each in open_ if each.expected_cost_usd is not None]
    return 0.0 if chosen.expected_cost_usd is None else float(chosen.expected_cost_usd - min(costs))


def to_json(value: Any) -> Any:
    """Dataclasses and named tuples to plain JSON values: money and other decimals as strings, unknown as null."""
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    fields = getattr(value, "__dataclass_fields__", None)
    return {name: to_json(getattr(value, name)) for name in fields} if fields is not None else value


def to_text(decision: Decision) -> str:
    """The decision as one line of JSON."""
    return orjson.dumps(decision, default=_plain).decode()


def _plain(value: Any) -> Any:
    """What orjson does not know by itself: a named tuple is an object of its fields, a decimal a string."""
    return value._asdict() if hasattr(value, "_asdict") else str(value)
