"""What runs on bought nodes are expected to cost, in parts, and what the ledger says that they did.

Said when a run starts, corrected by how far off it was on that pool before; compared when a run that ran once, from its
beginning to its end, is over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from scheduler.daemon.ledger import Ledger
from scheduler.daemon.mirror import Mirror
from scheduler.daemon.runs import RunEnded, RunStarted
from scheduler.model.cluster import NodePool
from scheduler.model.ids import PoolRef, Uid
from scheduler.model.money import NANO, Usd, to_cents
from scheduler.model.ports import Predictor
from scheduler.model.workload import Workload
from scheduler.predict.bounded import Recent
from scheduler.predict.cost import CostParts, RunCost
from scheduler.predict.learned import LearnedPredictor

_MOST_RUNS: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Said:
    pool: PoolRef
    attempt: int
    cost: RunCost
    correction: float


class CostBook:
    """Belongs to the event loop."""

    def __init__(self, mirror: Mirror, ledger: Ledger, predictor: Callable[[], Predictor]) -> None:
        self._mirror = mirror
        self._ledger = ledger
        self._predictor = predictor
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

    def ended(self, ended: RunEnded) -> None:
        said = self._said.pop(ended.uid)
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
