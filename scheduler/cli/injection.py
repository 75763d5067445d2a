"""`overspill aiops inject`: faults planted into a fleet's telemetry, and what the monitor makes of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.errors import PolicyErrors
from scheduler.cli.output import CommandError, console, duration, print_error, print_json, usd

if TYPE_CHECKING:
    from scheduler.aiops.incidents import Incident
    from scheduler.simulate.faults.study import Study


def run(scenario: Path, *, out: Path | None, as_json: bool) -> int:
    """Exits 0. Raises: CommandError for a scenario that cannot be used."""
    from scheduler.simulate.faults.scenario import load
    from scheduler.simulate.faults.scoring import described, score
    from scheduler.simulate.faults.study import run as run_study

    try:
        wanted = load(scenario)
    except PolicyErrors as errors:
        for one in errors.errors[:-1]:
            print_error(str(one))
        raise CommandError(str(errors.errors[-1]), exit_code=2) from errors
    start = time.process_time()
    study = run_study(wanted)
    result = score(study)
    told = {
        "nodes": study.fleet.nodes, "days": wanted.days, "seed": wanted.seed, "series": study.series,
        "findings": study.findings, "not_planted": study.left_out,
        "cpu_seconds": round(time.process_time() - start, 1), **described(result),
    }  # fmt: skip
    if study.left_out:
        print_error(f"left out, for want of a target (nothing ran for long enough): {study.left_out} of the faults")
    if out is not None:
        _write(study, [fault_as_json(fault, delay) for fault, delay in result.found], out)
    if as_json:
        print_json(told)
    else:
        _show(study, told)
    return 0


def fault_as_json(fault: Any, delay: float | None) -> dict[str, Any]:
    return {
        "kind": fault.kind, "minute": fault.starts, "minutes": fault.minutes, "strength": round(fault.strength, 4),
        "workload": fault.workload, "nodes": len(fault.nodes), "found_after_minutes": delay,
    }  # fmt: skip


def incident_as_json(one: Incident) -> dict[str, Any]:
    """As it is kept and shown."""
    return {
        "id": one.id, "kind": one.kind, "severity": one.severity, "state": one.state,
        "scope": {"kind": one.scope.kind, "name": one.scope.name}, "remedy": one.remedy,
        "opened_at": one.opened_at, "last_at": one.last_at, "findings": one.findings, "merged_into": one.merged_into,
        "causes": [
            {"kind": cause.kind, "scope": f"{cause.scope.kind} {cause.scope.name}", "score": round(cause.score, 4),
             "why": cause.why}
            for cause in one.causes
        ],
        "impact": {
            "nodes": one.impact.nodes, "gpus": one.impact.gpus, "workloads": list(one.impact.workloads),
            "gpu_hours_at_risk": one.impact.gpu_hours_at_risk, "deadlines": list(one.impact.deadlines),
            "usd_at_risk": None if one.impact.usd_at_risk is None else str(one.impact.usd_at_risk),
        },
        "signals": [
            {"kind": signal.kind, "subject": str(signal.subject), "severity": signal.severity, "count": signal.count,
             "first_at": signal.first_at, "last_at": signal.last_at, "evidence": dict(signal.evidence)}
            for signal in one.signals[:20]
        ],
        "history": [{"at": event.at, "state": event.state, "why": event.why} for event in one.history],
    }  # fmt: skip


def _write(study: Study, faults: list[dict[str, Any]], out: Path) -> None:
    incidents = sorted(study.incidents.values(), key=lambda one: (one.opened_at, one.id))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, rows in (("faults", faults), ("incidents", [incident_as_json(one) for one in incidents])):
            lines = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
            (out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    except OSError as error:
        message = f"{out}: cannot be written ({error.strerror}); name another folder with --out"
        raise CommandError(message, exit_code=2) from error
    print_error(f"faults.jsonl and incidents.jsonl are in {out}")


def _show(study: Study, told: dict[str, Any]) -> None:
    from scheduler.cli.tables import wide_table

    table = wide_table("Faults", ("fault", "left"), ("planted", "right"), ("found", "right"), ("delay", "right"))
    for kind, one in told["by_kind"].items():
        delay = one["median_delay_samples"]
        table.add_row(kind, str(one["planted"]), str(one["found"]), duration(None if delay is None else 60.0 * delay))
    console().print(table)
    worst = sorted(
        (one for one in study.incidents.values() if not one.merged_into),
        key=lambda one: (-(one.impact.gpu_hours_at_risk or 0.0), one.id),
    )[:10]
    columns = (
        ("incident", "left"),
        ("where", "left"),
        ("severity", "left"),
        ("GPU-hours", "right"),
        ("at risk", "right"),
    )
    table = wide_table("Incidents with most at risk", *columns)
    for incident in worst:
        hours = incident.impact.gpu_hours_at_risk
        where = f"{incident.scope.kind} {incident.scope.name}"
        table.add_row(incident.kind, where, incident.severity, "-" if hours is None else f"{hours:.1f}",
                      usd(incident.impact.usd_at_risk))  # fmt: skip
    if worst:
        console().print(table)
    faults = "1 fault" if told["faults"] == 1 else f"{told['faults']} faults"
    found = [
        f"{told[f'recall_{shape}']:.0%} of {shape}{'-shaped' if shape == 'rule' else ''} faults found"
        for shape in ("rule", "statistical")
        if told[f"recall_{shape}"] is not None
    ]
    false = f"{told['false_per_day']:.2g} false a day"
    precision = [] if told["precision"] is None else [f"precision {told['precision']:.0%}"]
    console().print(
        f"{faults} in {told['series']} series over {duration(86400.0 * told['days'])}: {told['findings']} findings, "
        f"{told['incidents']} incidents; {', '.join([*found, *precision, false])}; "
        f"{told['cpu_seconds']:g} s of CPU"
    )
