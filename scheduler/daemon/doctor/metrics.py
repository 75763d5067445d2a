"""Metrics: what each member's source does not give, gives too late, or cannot give at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clusters.metrics.queries import load_queries
from scheduler.daemon.config.federation import Federation
from scheduler.daemon.doctor.finding import Report
from scheduler.daemon.gathering.metrics import open_collector
from scheduler.model.metrics import ABSENT, FAILED, OK, STALE, Reading
from scheduler.model.ports import Clock

_ROUND_SECONDS: Final = 60.0
_NAMED: Final = 4
"""Metrics that one line names."""
_REMEDY: Final = {
    ABSENT: "install the exporter that has it, or name the series in the queries file",
    STALE: "see whether the exporter is still scraped",
    FAILED: "correct the member's metrics source",
}


async def check_metrics(federation: Federation, report: Report, clock: Clock) -> None:
    """Every query is asked of every member once. What is missing alike is told in one line, unless it is required."""
    asked = [member.id for member in federation.members if member.metrics is not None]
    for member in federation.members:
        if member.metrics is None:
            report.ok(f"{member.id}: no source is configured")
    if not asked:
        return
    remedy = "correct members[].metrics or the queries file"
    readings = await report.attempt("cannot be read", _collected(federation, clock), _ROUND_SECONDS, remedy)
    if readings is None:
        return
    required = frozenset(query.name for query in load_queries(federation.metric_queries) if query.required)
    for cluster in asked:
        _member(cluster, [one for one in readings if one.cluster == cluster], required, report)


async def _collected(federation: Federation, clock: Clock) -> tuple[Reading, ...]:
    opened = open_collector(federation, clock)
    try:
        return (await opened.collector.collect()).readings
    finally:
        await opened.collector.close()


def _member(cluster: str, readings: Sequence[Reading], required: frozenset[str], report: Report) -> None:
    if readings and all(one.state == FAILED for one in readings):
        tell = report.fail if required else report.warn
        tell(f"{cluster}: {readings[0].source}: {readings[0].error}", _REMEDY[FAILED])
        return
    missing = [one for one in readings if one.state != OK]
    for one in missing:
        if one.metric in required:
            report.fail(f"{cluster}: {one.metric} is {one.state}{_error(one)}", _remedy(one))
    good = len(readings) - len(missing)
    said = f"{cluster}: {good} of {len(readings)} metrics are read, by {readings[0].source if readings else 'nobody'}"
    if not good and all(one.state == ABSENT for one in missing):
        # One cause, one line: a member that has no nodes now, or whose exporters all go by other names.
        report.warn(f"{said}: all absent", "nothing to mend while the member has no nodes; else " + _REMEDY[ABSENT])
        return
    optional = [one for one in missing if one.metric not in required]
    for alike in sorted({(one.state, one.error) for one in optional}):
        group = [one for one in optional if (one.state, one.error) == alike]
        names = ", ".join(one.metric for one in group[:_NAMED])
        if len(group) > _NAMED:
            names += f" and {len(group) - _NAMED} more (all of them: overspill metrics --cluster {cluster})"
        report.warn(f"{cluster}: {alike[0]}{_error(group[0])}: {names}", _remedy(group[0]))
    if good:
        report.ok(said)
    else:
        report.warn(said, "see the lines about it; on a member without nodes there is nothing to read")


def _error(reading: Reading) -> str:
    return f" ({reading.error})" if reading.error else ""


def _remedy(reading: Reading) -> str:
    return _REMEDY.get(reading.state, _REMEDY[FAILED])
