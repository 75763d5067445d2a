"""The learning detectors over every gauge of the fleet: a bank for each scope, in it a block of rows for each metric.

Which of a table's columns are gauges is told by their names; counters, codes, states, limits and forecasts are the
rules'. What the detectors find is a symptom (`anomaly.METRIC`): it joins an incident of the same thing, or makes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops import bank as banks
from scheduler.aiops import false_alarms
from scheduler.aiops.bank import Bank
from scheduler.aiops.detectors import detector_names
from scheduler.aiops.false_alarms import LEARN_SECONDS, Group
from scheduler.aiops.findings import ANOMALY, SYMPTOM, WARNING, Finding, Subject, Table
from scheduler.aiops.rules import GPU, NODE
from scheduler.aiops.series import Floats, Samples, samples
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant

ALARMS_PER_DAY: Final = 0.1
MOST_SERIES: Final = 200_000
"""Of all scopes; metrics that find no room are left out, by name."""
_NO_GAUGES: Final = ("_code", "_joules", "_at_seconds", "_forecast_seconds", "_objective_seconds")
_STATES: Final = frozenset(
    {
        "deadline_seconds", "gpu_expected_count", "gpu_memory_total_bytes", "gpu_reporting_count",
        "network_probe_success_count", "node_memory_total_bytes", "node_ready_count", "node_reclaim_notice_count",
        "node_unschedulable_count", "workload_ranks_count",
    }
)  # fmt: skip
_COUNTERS: Final = (
    "gpu_ecc_", "gpu_nvlink_crc_", "gpu_pcie_", "gpu_remapped_", "gpu_row_", "serving_requests_count",
    "serving_errors_count", "serving_latency_sum_", "serving_first_token_sum_",
)  # fmt: skip
_LIMITS: Final = {"gpu_memory_used_bytes": "gpu_memory_total_bytes"}


@dataclass(frozen=True, slots=True)
class ScopeBank:
    """Series `number * rows + row` is the metric of that number of the thing in that row."""

    metrics: tuple[str, ...]
    rows: int
    bank: Bank


@dataclass(frozen=True, slots=True)
class FleetBank:
    alarms_per_day: float = ALARMS_PER_DAY
    """False ones, of the whole fleet; 0: the detectors are off."""
    learn_seconds: float = LEARN_SECONDS
    scopes: Mapping[str, ScopeBank] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    """By "SCOPE/METRIC"."""
    left_out: tuple[str, ...] = ()
    """Groups for which there is no room."""

    @property
    def series(self) -> int:
        return sum(one.bank.rows for one in self.scopes.values())


def is_gauge(metric: str) -> bool:
    """Whether a column is for the detectors."""
    return not (metric in _STATES or metric.endswith(_NO_GAUGES) or metric.startswith(_COUNTERS))


def detectors_of(scope: str) -> tuple[str, ...]:
    """Which detectors look at a scope's series. That a GPU or node is silent is seen by the rule `exporter`, which
    knows of cordons; workloads, pools and clusters have no siblings."""
    left = "absence" if scope in (GPU, NODE) else "peers"
    return tuple(name for name in detector_names() if name != left)


def rearranged(fleet: FleetBank, rows: Mapping[str, Sequence[int]]) -> FleetBank:
    """The bank of a fleet that has changed: row i of a scope is the old row `rows[scope][i]`, or a new one where that
    is negative."""
    scopes = {}
    for scope, known in sorted(fleet.scopes.items()):
        scopes[scope] = known if scope not in rows else _laid_out(known, known.metrics, np.asarray(rows[scope]))
    return replace(fleet, scopes=scopes)


def observe(
    fleet: FleetBank, tables: Mapping[str, Table], subjects: Mapping[str, Sequence[Subject]],
    explained: Callable[[Subject], bool],
) -> tuple[FleetBank, list[Finding]]:  # fmt: skip
    """The bank after one round, and its alarms. What is `explained` by an incident that is known is told, but not
    learnt from. Raises: InvalidObjectError when rows do not match."""
    if not fleet.alarms_per_day:
        return fleet, []
    fleet = _with_room(fleet, tables)
    scopes, groups = dict(fleet.scopes), dict(fleet.groups)
    found: list[Finding] = []
    share = fleet.alarms_per_day / max(false_alarms.speaking(groups), 1)
    for scope, known in sorted(fleet.scopes.items()):
        table = tables.get(scope)
        if table is None or not known.metrics:
            continue
        if table.rows != known.rows or len(subjects[scope]) != known.rows:
            raise InvalidObjectError(f"{table.rows} rows of telemetry for detectors of {known.rows}")
        values = np.concatenate([table.of(metric) for metric in known.metrics])
        bank, scores = banks.observe(known.bank, _samples(known.metrics, table, values))
        scopes[scope] = ScopeBank(known.metrics, known.rows, bank)
        told = _Told(scope, known, table.at, values, scores, subjects[scope], explained)
        for number, metric in enumerate(known.metrics):
            name = f"{scope}/{metric}"
            group = groups.get(name) or Group(table.at)
            clean, alarms, reported = told.block(number, group, share)
            groups[name] = false_alarms.observe(group, clean, reported, table.at, fleet.learn_seconds)
            found.extend(alarms)
    return replace(fleet, scopes=scopes, groups=groups), found


@dataclass(frozen=True, slots=True)
class _Told:
    """What the detectors said in one round of one scope."""

    scope: str
    known: ScopeBank
    at: Instant
    values: Floats
    scores: banks.Scores
    subjects: Sequence[Subject]
    explained: Callable[[Subject], bool]

    def block(self, number: int, group: Group, share: float) -> tuple[Floats, list[Finding], int]:
        """Of one metric: scores to learn from, alarms, and how many series reported."""
        rows = self.known.rows
        first = number * rows
        score = self.scores.score[first : first + rows]
        reported = int(np.count_nonzero(~np.isnan(self.values[first : first + rows])))
        high = np.flatnonzero(score > 0.0)
        if not len(high):
            return np.empty(0), [], reported
        limit = false_alarms.threshold(group, reported, share)
        clean = np.array([score[row] for row in high.tolist() if not self.explained(self.subjects[row])])
        alarms = [self._finding(number, row) for row in high[score[high] >= limit].tolist()]
        return clean, alarms, reported

    def _finding(self, number: int, row: int) -> Finding:
        at, metric = number * self.known.rows + row, self.known.metrics[number]
        name = self.known.bank.detectors[int(self.scores.detector[at])]
        shown = sorted(((f"score_of_{name}", float(self.scores.score[at])), (metric, float(self.values[at]))))
        evidence = tuple((key, value) for key, value in shown if np.isfinite(value))
        return Finding(self.at, ANOMALY + metric, self.subjects[row], WARNING, SYMPTOM, evidence=evidence)


def _samples(metrics: Sequence[str], table: Table, values: Floats) -> Samples:
    limits = np.concatenate([table.of(_LIMITS.get(metric, "")) for metric in metrics])
    return samples(np.full(len(values), table.at), values, limits, np.concatenate(list(_peers(metrics, table))))


def _peers(metrics: Sequence[str], table: Table) -> Iterable[NDArray[np.int64]]:
    """Siblings are the things of one workload, in one metric."""
    workload = table.group("workload")
    for number in range(len(metrics)):
        yield np.where(workload >= 0, workload * len(metrics) + number, -1)


def _with_room(fleet: FleetBank, tables: Mapping[str, Table]) -> FleetBank:
    """With a block for each metric that has come, and none of those that do not fit. A metric that nobody reports any
    more keeps its block: it may come back."""
    room, scopes, left_out = MOST_SERIES, dict(fleet.scopes), []
    for scope, table in sorted(tables.items()):
        known = scopes.get(scope)
        before = known.metrics if known is not None else ()
        wanted = tuple(sorted({*before, *filter(is_gauge, table.columns)}))
        fit = room // table.rows if table.rows else len(wanted)
        left_out += [f"{scope}/{metric}" for metric in wanted[fit:]]
        wanted = wanted[:fit]
        room -= len(wanted) * table.rows
        if known is None:
            bank = banks.new_bank(len(wanted) * table.rows, detectors_of(scope))
            scopes[scope] = ScopeBank(wanted, table.rows, bank)
        elif wanted != before:
            scopes[scope] = _laid_out(known, wanted, np.arange(known.rows))
    return replace(fleet, scopes=scopes, left_out=tuple(left_out))


def _laid_out(known: ScopeBank, metrics: tuple[str, ...], rows: NDArray[np.int64]) -> ScopeBank:
    """With these metrics and rows; those that were there keep what is known of them."""
    if metrics == known.metrics and len(rows) == known.rows and np.array_equal(rows, np.arange(known.rows)):
        return known
    at = {metric: number for number, metric in enumerate(known.metrics)}
    blocks = [
        np.where(rows >= 0, rows + at[metric] * known.rows, -1) if metric in at else np.full(len(rows), -1)
        for metric in metrics
    ]
    chosen = np.concatenate(blocks) if blocks else np.empty(0, dtype=np.int64)
    return ScopeBank(metrics, len(rows), banks.rearrange(known.bank, chosen.tolist()))
