"""A monitor as plain values that can be kept: JSON values and flat arrays, versioned part by part. Pure.

What is kept of a rule or detector of another version is not taken up: that part begins anew. Incidents are kept apart
(`Monitor.incidents`): they change at other times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from scheduler.aiops import bank as banks
from scheduler.aiops.bank import Bank
from scheduler.aiops.calibration import Tail
from scheduler.aiops.false_alarms import MOST_PEAKS, MOST_STRETCHES, Group, Learnt
from scheduler.aiops.findings import Subject
from scheduler.aiops.fleet_bank import FleetBank, ScopeBank, detectors_of
from scheduler.aiops.incidents import Incidents
from scheduler.aiops.monitor import Monitor
from scheduler.aiops.rules import SCOPES, Memory, load_rule, rule_names
from scheduler.aiops.series import MOST_SERIES, Columns, Floats, adopt, empty
from scheduler.model.errors import InvalidObjectError

VERSION: Final = 1
_BANK, _RULES, _PEAKS = "bank", "rules", "peaks"
_LONGEST: Final = 300
MOST_GROUPS: Final = 2000
Subjects = Mapping[str, Sequence[Subject]]


@dataclass(frozen=True, slots=True)
class Kept:
    """`values` are JSON values; `arrays` one-dimensional but for wide columns, named KIND/SCOPE/PART@VERSION/COLUMN."""

    values: dict[str, Any]
    arrays: dict[str, Floats]


def kept(monitor: Monitor, subjects: Subjects) -> Kept:
    """What is to be kept of a monitor whose rows are these."""
    arrays: dict[str, Floats] = {}
    for scope, memory in sorted(monitor.memories.items()):
        for rule, columns in sorted(memory.parts.items()):
            for name, column in sorted(columns.items()):
                arrays[f"{_RULES}/{scope}/{rule}@{load_rule(rule).VERSION}/{name}"] = column
    for scope, one in sorted(monitor.bank.scopes.items()):
        arrays |= {f"{_BANK}/{scope}/{name}": column for name, column in banks.stored(one.bank).items()}
    for name, group in sorted(monitor.bank.groups.items()):
        arrays[f"{_PEAKS}/{name}"] = np.sort(group.peaks)[-MOST_PEAKS:]
    values = {
        "version": VERSION,
        "subjects": {scope: [_names(one) for one in rows] for scope, rows in sorted(subjects.items())},
        "metrics": {scope: list(one.metrics) for scope, one in sorted(monitor.bank.scopes.items())},
        "groups": {name: _group_values(group) for name, group in sorted(monitor.bank.groups.items())},
    }
    return Kept(values, arrays)


def revived(
    told: Kept, incidents: Incidents, alarms_per_day: float, learn_seconds: float
) -> tuple[Monitor, dict[str, tuple[Subject, ...]]]:
    """The monitor that was kept, and its rows. Raises: InvalidObjectError for what does not belong together."""
    try:
        return _revived(told, incidents, alarms_per_day, learn_seconds)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidObjectError(f"kept state: {type(error).__name__} {str(error)[:100]}") from error


def _revived(
    told: Kept, incidents: Incidents, alarms_per_day: float, learn_seconds: float
) -> tuple[Monitor, dict[str, tuple[Subject, ...]]]:
    if told.values["version"] != VERSION:
        raise InvalidObjectError(f"kept state of version {str(told.values['version'])[:20]}; this one reads {VERSION}")
    subjects = {
        scope: tuple(_subject(names) for names in told.values["subjects"].get(scope, ())[:MOST_SERIES])
        for scope in SCOPES
        if scope in told.values["subjects"]
    }
    memories = {scope: _memory(told.arrays, scope, len(rows)) for scope, rows in sorted(subjects.items())}
    scopes = {}
    for scope, metrics in sorted(told.values["metrics"].items()):
        if scope in subjects:
            scopes[scope] = _scope_bank(told.arrays, scope, tuple(map(str, metrics)), len(subjects[scope]))
    groups = {
        str(name)[:_LONGEST]: _group(values, told.arrays.get(f"{_PEAKS}/{name}", np.empty(0)))
        for name, values in sorted(told.values["groups"].items())[:MOST_GROUPS]
    }
    return Monitor(memories, FleetBank(alarms_per_day, learn_seconds, scopes, groups), incidents), subjects


def _memory(arrays: Mapping[str, Floats], scope: str, rows: int) -> Memory:
    parts: dict[str, Columns] = {}
    for rule in rule_names(scope):
        fields, prefix = load_rule(rule).FIELDS, f"{_RULES}/{scope}/{rule}@{load_rule(rule).VERSION}/"
        found = _under(arrays, prefix)
        parts[rule] = adopt(fields, found, where=prefix) if found else empty(fields, rows)
        if any(len(column) != rows for column in parts[rule].values()):
            raise InvalidObjectError(f"kept state: {prefix} is not of {rows} rows")
    return Memory(scope, rows, parts)


def _scope_bank(arrays: Mapping[str, Floats], scope: str, metrics: tuple[str, ...], rows: int) -> ScopeBank:
    names = detectors_of(scope)
    found = _under(arrays, f"{_BANK}/{scope}/")
    bank: Bank = banks.restored(found, names) if found else banks.new_bank(len(metrics) * rows, names)
    if bank.rows != len(metrics) * rows or len(set(metrics)) != len(metrics):
        raise InvalidObjectError(f"kept state: {bank.rows} series of scope {scope}; not {len(metrics)} x {rows}")
    return ScopeBank(metrics, rows, bank)


def _under(arrays: Mapping[str, Floats], prefix: str) -> dict[str, Floats]:
    return {name.removeprefix(prefix): column for name, column in arrays.items() if name.startswith(prefix)}


def _names(subject: Subject) -> list[str]:
    return [subject.cluster, subject.pool, subject.node, subject.gpu, subject.workload, subject.path]


def _subject(names: Sequence[str]) -> Subject:
    cluster, pool, node, gpu, workload, path = (str(name)[:_LONGEST] for name in names)
    return Subject(cluster, pool, node, gpu, workload, path)


def _group_values(group: Group) -> dict[str, Any]:
    tails = [[one.tail.start, one.tail.share, one.tail.scale, one.tail.shape, one.per_day] for one in group.learnt]
    return {"began_at": group.began_at, "samples": group.samples, "series": group.series, "rounds": group.rounds,
            "learnt": tails, "settled": group.settled}  # fmt: skip


def _group(values: Mapping[str, Any], peaks: Floats) -> Group:
    if peaks.ndim != 1 or peaks.dtype != np.float64:
        raise InvalidObjectError(f"kept state: peaks are {peaks.dtype}{peaks.shape}")
    learnt = []
    for start, share, scale, shape, per_day in values["learnt"][-MOST_STRETCHES:]:
        learnt.append(Learnt(Tail(float(start), float(share), float(scale), float(shape)), float(per_day)))
    if not all(0 < one.tail.share <= 1 and one.tail.scale >= 0 and one.per_day > 0 for one in learnt):
        raise InvalidObjectError("kept state: a tail that cannot be")
    return Group(float(values["began_at"]), int(values["samples"]), float(values["series"]), int(values["rounds"]),
                 peaks[np.isfinite(peaks)], tuple(learnt), bool(values["settled"]))  # fmt: skip
