"""One round of looking at the fleet: rules and detectors over its telemetry, their findings grouped into incidents.

The detectors' alarms count when they pass the fleet's threshold: so many false ones a day as the operator allows, all
series together. It is learnt from the first `learn_rounds` rounds, and nothing is said before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduler.aiops import bank as banks
from scheduler.aiops.bank import Bank
from scheduler.aiops.calibration import alarm_threshold, fit_tail
from scheduler.aiops.findings import SYMPTOM, WARNING, Finding, Subject, Table, findings
from scheduler.aiops.grouping import Settings, observe
from scheduler.aiops.incidents import Incidents
from scheduler.aiops.rules import Memory, check, new_memory, rearrange
from scheduler.aiops.series import Floats, Samples
from scheduler.aiops.topology import Topology
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant

LEARN_ROUNDS = 1440
_DAY_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class View:
    """The fleet's telemetry in one round."""

    at: Instant
    tables: Mapping[str, Table]
    """By scope."""
    subjects: Mapping[str, Sequence[Subject]]
    """By scope, of each row."""
    series: Samples | None = None
    """What the detectors look at."""
    series_of: Sequence[tuple[str, Subject]] = ()
    """Metric and subject of each series."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """All that is remembered between rounds."""

    memories: Mapping[str, Memory]
    bank: Bank | None
    incidents: Incidents
    alarms_per_day: float
    learn_rounds: int = LEARN_ROUNDS
    rounds: int = 0
    peaks: tuple[Floats, ...] = ()
    """Thinned scores of the rounds that are learnt from."""
    first_at: Instant | None = None
    threshold: float | None = None


def new_monitor(
    rows: Mapping[str, int], series: int = 0, alarms_per_day: float = 0.1, learn_rounds: int = LEARN_ROUNDS
) -> Monitor:
    """One that knows nothing yet. `rows`: by scope. `alarms_per_day`: false ones of the detectors, whole fleet."""
    memories = {scope: new_memory(scope, count) for scope, count in sorted(rows.items())}
    return Monitor(memories, banks.new_bank(series) if series else None, Incidents(), alarms_per_day, learn_rounds)


def rearranged(monitor: Monitor, rows: Mapping[str, Sequence[int]], series: Sequence[int] = ()) -> Monitor:
    """The monitor of a fleet that has changed: of each scope, and of the series, row i is the old row `rows[scope][i]`,
    or a new one where that is negative. Incidents stay: they know their subjects by name."""
    memories = {
        scope: rearrange(memory, rows[scope]) if scope in rows else memory
        for scope, memory in sorted(monitor.memories.items())
    }
    bank = None if monitor.bank is None else banks.rearrange(monitor.bank, series)
    return replace(monitor, memories=memories, bank=bank)


def look(
    monitor: Monitor, view: View, fleet: Topology, settings: Settings | None = None
) -> tuple[Monitor, tuple[Finding, ...]]:
    """The monitor after one round, and what was found in it. Raises: InvalidObjectError when rows do not match."""
    memories = dict(monitor.memories)
    found: list[Finding] = []
    for scope, table in sorted(view.tables.items()):
        memories[scope], hits = check(memories[scope], table)
        found.extend(findings(hits, view.subjects[scope], view.at))
    after, alarms = _detect(replace(monitor, memories=memories), view)
    found.extend(alarms)
    incidents = observe(monitor.incidents, found, fleet, view.at, settings)
    return replace(after, incidents=incidents, rounds=monitor.rounds + 1), tuple(found)


def _detect(monitor: Monitor, view: View) -> tuple[Monitor, list[Finding]]:
    if monitor.bank is None or view.series is None:
        return monitor, []
    if len(view.series_of) != monitor.bank.rows:
        raise InvalidObjectError(f"{len(view.series_of)} series for a bank of {monitor.bank.rows}")
    bank, scores = banks.observe(monitor.bank, view.series)
    first = view.at if monitor.first_at is None else monitor.first_at
    if monitor.threshold is None:
        peaks = (*monitor.peaks, scores.score[scores.score > 0.0])
        monitor = replace(monitor, bank=bank, first_at=first, peaks=peaks)
        if monitor.rounds + 1 < monitor.learn_rounds:
            return monitor, []
        return replace(monitor, threshold=_threshold(monitor, view.at), peaks=()), []
    found = []
    for row in np.flatnonzero(scores.score >= monitor.threshold).tolist():
        metric, subject = view.series_of[row]
        name = bank.detectors[int(scores.detector[row])]
        evidence = ((f"score_of_{name}", float(scores.score[row])), (metric, float(view.series.values[row])))
        shown = tuple((key, value) for key, value in sorted(evidence) if np.isfinite(value))
        found.append(Finding(view.at, f"anomaly.{metric}", subject, WARNING, SYMPTOM, evidence=shown))
    return replace(monitor, bank=bank), found


def _threshold(monitor: Monitor, now: Instant) -> float:
    rounds = monitor.rounds + 1
    series = monitor.bank.rows if monitor.bank else 0
    tail = fit_tail(np.concatenate(monitor.peaks), rounds * series)
    days = (now - (monitor.first_at or 0.0)) / _DAY_SECONDS
    return alarm_threshold(tail, alarms_per_day=monitor.alarms_per_day, samples_per_day=rounds * series / days)
