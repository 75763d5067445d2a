"""What runs on bought nodes are expected to cost, in parts, and what the ledger says that they did.

Said when a run starts, corrected by how far off it was on that pool before; compared when a run that ran once, from its
beginning to its end, is over. Kept in the history's `memories` as one versioned JSON object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import orjson
import structlog

from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import MEMORIES
from scheduler.daemon.learning.runs import RunEnded, RunStarted
from scheduler.daemon.money.ledger import Ledger
from scheduler.daemon.state.mirror import Mirror
from scheduler.model.cluster import NodePool
from scheduler.model.errors import OverspillError
from scheduler.model.ids import ClusterId, Instant, PoolId, PoolRef, Uid
from scheduler.model.money import NANO, Usd, to_cents
from scheduler.model.ports import Predictor
from scheduler.model.workload import Workload
from scheduler.predict.bounded import Recent
from scheduler.predict.cost import CostParts, RunCost
from scheduler.predict.learned import LearnedPredictor

log = structlog.get_logger(__name__)
NAME: Final = "costs"
_VERSION: Final = 1
_MOST_RUNS: Final = 20_000
_SAVE_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class _Said:
    pool: PoolRef
    attempt: int
    cost: RunCost
    correction: float


class CostBook:
    """Belongs to the event loop."""

    def __init__(self, mirror: Mirror, ledger: Ledger, history: History, predictor: Callable[[], Predictor]) -> None:
        self._mirror = mirror
        self._ledger = ledger
        self._history = history
        self._predictor = predictor
        self._saved_at: Instant = -math.inf
        self._unsaved = False
        self._said: Recent[Uid, _Said] = Recent(_MOST_RUNS)
        self.on_paid: Callable[[PoolRef, float, float, float], None] = lambda pool, said, p90, paid: None
        """A run is over: what was said of its cost (uncorrected, and its p90 as it was told) and what it cost, USD."""

    def started(self, started: RunStarted) -> None:
        ref, workload, known = started.placement.pool_ref, started.workload, self._predictor()
        pool = self._mirror.pool(ref)
        if pool is None or not pool.bought or pool.price is None or not isinstance(known, LearnedPredictor):
            return
        new = 0 if started.bought_seconds is None else 1
        rate = pool.price.usd_per_hour * nodes_of(workload, pool)
        cost = None if workload.runs_forever else known.run_cost(workload, pool, new, rate.quantize(NANO))
        if cost is not None:
            said = _Said(ref, started.placement.attempt, cost, known.cost_correction(ref).median)
            self._said.put(workload.ref.uid, said)
            self._unsaved = True

    def ended(self, ended: RunEnded) -> None:
        said = self._said.pop(ended.uid)
        self._unsaved = self._unsaved or said is not None
        paid = None if said is None else self._ledger.paid(ended.uid)
        # One that was stopped, or ran more than once, cost something else than was asked.
        if said is not None and paid is not None and ended.seconds is not None:
            expected, p90 = float(said.cost.expected.total_usd), float(said.cost.p90.total_usd)
            self.on_paid(said.pool, expected, p90 * said.correction, float(paid))

    def of(self, uid: Uid) -> dict[str, Any] | None:
        """As JSON: expected and p90 with their parts, and what is paid so far; None: it is on no bought nodes."""
        said = self._said.get(uid)
        if said is None:
            return None
        paid, factor = self._ledger.paid(uid), Decimal(repr(said.correction))
        return {
            "expected_usd": str(to_cents(said.cost.expected.total_usd * factor)),
            "p90_usd": str(to_cents(said.cost.p90.total_usd * factor)),
            "expected_parts": _parts(said.cost.expected, factor),
            "p90_parts": _parts(said.cost.p90, factor),
            "paid_usd": None if paid is None else str(to_cents(paid)),
        }

    # -- persistence -------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up what was said. What cannot be read is left, and logged: those runs teach no cost."""
        try:
            saved = await self._history.memory(NAME)
            for uid, said in () if saved is None else _read(saved):
                self._said.put(uid, said)
        except (OverspillError, ValueError, TypeError, KeyError, AttributeError, InvalidOperation) as error:
            log.error("costs_not_restored", error=repr(error)[:300])

    def save(self, now: Instant, *, anyway: bool = False) -> None:
        """Queue what was said for the history, every few minutes where it has changed; `anyway`: at the end."""
        if not self._unsaved or not (anyway or now - self._saved_at >= _SAVE_SECONDS):
            return
        self._saved_at, self._unsaved = now, False
        body = orjson.dumps({"version": _VERSION, "runs": [_told(uid, one) for uid, one in self._said.items()]})
        self._history.record(MEMORIES, {"name": NAME, "at": now, "body": body.decode()})


def _told(uid: Uid, said: _Said) -> list[Any]:
    where = said.pool
    costs = [
        [str(usd) for usd in (each.run_usd, each.start_usd, each.reclaims_usd, each.egress_usd)]
        for each in (said.cost.expected, said.cost.p90)
    ]
    return [uid, where.cluster, where.pool, said.attempt, *costs, said.correction]


def _read(saved: Mapping[str, Any]) -> list[tuple[Uid, _Said]]:
    """All of it, or nothing. Raises: ValueError, KeyError, TypeError, InvalidOperation."""
    if saved.get("version") != _VERSION:
        raise ValueError(f"costs of version {saved.get('version')}, not {_VERSION}")
    found = []
    for uid, cluster, pool, attempt, expected, p90, correction in saved["runs"]:
        factor = float(correction)
        if not (math.isfinite(factor) and factor > 0):
            raise ValueError("a correction that cannot be")
        cost = RunCost(_read_parts(expected), _read_parts(p90))
        ref = PoolRef(ClusterId(str(cluster)), PoolId(str(pool)))
        found.append((Uid(str(uid)), _Said(ref, int(attempt), cost, factor)))
    return found


def _read_parts(told: list[str]) -> CostParts:
    usd = [Decimal(each) for each in told]
    if not all(each.is_finite() and each >= 0 for each in usd):
        raise ValueError("a cost that cannot be")
    run, start, reclaims, egress = usd
    return CostParts(run, start, reclaims, egress)


def _parts(parts: CostParts, factor: Usd) -> dict[str, str]:
    named = {
        "run": parts.run_usd,
        "start-up": parts.start_usd,
        "reclaims": parts.reclaims_usd,
        "data": parts.egress_usd,
    }
    return {name: str((usd * factor).quantize(NANO)) for name, usd in named.items()}


def nodes_of(workload: Workload, pool: NodePool) -> Usd:
    """Nodes of the pool that it takes up, in parts of nodes: by GPUs where it has any, else by cores."""
    asked, size = workload.requests, pool.node_resources
    if asked.gpus and size.gpus:
        return Decimal(asked.gpus) / size.gpus
    return Decimal(asked.cpu_milli) / max(1, size.cpu_milli)
