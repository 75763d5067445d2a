"""`overspill simulate`: replay a log of jobs under policies and baselines, and compare them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scheduler.cli.output import CommandError, console, print_error, print_json
from scheduler.cli.simulate_inputs import (
    cut,
    only_queues,
    parse_nodes,
    parse_rates,
    possible,
    read_federation,
    read_log,
    read_policies,
    site_of,
    value_of_time,
)
from scheduler.cli.simulate_view import findings_json, shown_progress, tables, tell_trouble
from scheduler.daemon.garbage import collect_seldom
from scheduler.model.policy import ValueOfTime
from scheduler.simulate.assumptions import Assumptions
from scheduler.simulate.baselines import baseline_names, settings_of
from scheduler.simulate.driver import Site
from scheduler.simulate.feasible import Impossible
from scheduler.simulate.study import Study, contenders, run_study
from scheduler.simulate.trace import Trace

ALL = "all"
_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """What the command line says."""

    federation: Path
    policies: tuple[Path, ...]
    trace: Path | None = None
    history: bool = False
    since_seconds: float = 30 * _DAY
    baselines: tuple[str, ...] = ()
    bound: bool = False
    seeds: tuple[int, ...] = (0,)
    first_day: float = 0.0
    days: float | None = None
    queues: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    usd_per_gpu_hour: float | None = None
    usd_per_hour: float | None = None
    gather_seconds: float = 0.0
    slice_seconds: float | None = None
    pool_reclaims: tuple[str, ...] = ()
    assumptions: Assumptions = field(default_factory=Assumptions)
    leave_out_impossible: bool = False
    as_json: bool = False
    report: Path | None = None


def run(options: SimulateOptions) -> int:
    """Replay, compare, show. 0: all replays came to their end; 1: one did not. Raises: CommandError,
    InvalidObjectError."""
    collect_seldom()
    study, about = prepare(options)
    count = sum(1 for _ in contenders(study)) * len(study.seeds) + study.with_bound
    with shown_progress(count) as progress:
        findings = run_study(study, progress)
    unfinished = tell_trouble(findings)
    if options.report is not None:
        from scheduler.simulate.report import write_report

        write_report(findings, about, options.report)
        print_error(f"the report is in {options.report}")
    if options.as_json:
        print_json(findings_json(findings, about))
    else:
        print_error(f"time is worth {_worth(study.value)} ({about['value_of_time_from']})")
        console().print(tables(findings))
    return 1 if unfinished else 0


def prepare(options: SimulateOptions) -> tuple[Study, dict[str, Any]]:
    """Everything read and checked, and a description of it for the JSON. Raises: CommandError, InvalidObjectError."""
    _check_paths(options)
    federation = read_federation(options.federation)
    site = site_of(federation, parse_nodes(options.nodes))
    sets = read_policies(options.policies, federation)
    trace, notes = _trace(options)
    trace, left_out = possible(trace, site, leave_out=options.leave_out_impossible)
    value, source = value_of_time(sets, options.usd_per_gpu_hour, options.usd_per_hour)
    rates = MappingProxyType(parse_rates(options.pool_reclaims, site))
    study = Study(
        trace,
        site,
        sets,
        _baselines(options.baselines),
        tuple(dict.fromkeys(options.seeds)) or (0,),
        replace(options.assumptions, pool_reclaims_per_hour=rates),
        value,
        options.bound,
        options.gather_seconds,
        options.slice_seconds,
    )
    return study, _about(study, left_out, source, notes)


def _check_paths(options: SimulateOptions) -> None:
    for name in sorted(options.__dataclass_fields__):
        _check_number(name, getattr(options, name))
    for name in sorted(options.assumptions.__dataclass_fields__):
        _check_number(name, getattr(options.assumptions, name))
    if options.history == (options.trace is not None):
        raise CommandError("give either --trace FILE or --history", exit_code=2)
    if not options.federation.is_file():
        raise CommandError(f"{options.federation}: no such federation file", exit_code=2)
    if options.report is not None and not options.report.absolute().parent.is_dir():
        raise CommandError(f"--report {options.report}: there is no such folder", exit_code=2)


def _check_number(name: str, value: object) -> None:
    """Ranges are checked where the options are declared, but not that they are numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        raise CommandError(f"{name}: {value} is no number that can be used", exit_code=2)


def _trace(options: SimulateOptions) -> tuple[Trace, tuple[str, ...]]:
    if options.trace is not None:
        return only_queues(read_log(options.trace, options.first_day, options.days), options.queues), ()
    from scheduler.cli.simulate_history import read_history

    trace, notes = read_history(options.federation, options.since_seconds)
    for note in notes:
        print_error(f"note: {note}")
    return only_queues(cut(trace, "the history", options.first_day, options.days), options.queues), notes


def _baselines(names: Sequence[str]) -> tuple[str, ...]:
    """Raises: InvalidObjectError for one that is not there."""
    chosen = baseline_names() if ALL in names else tuple(dict.fromkeys(names))
    for name in chosen:
        settings_of(name)
    return chosen


def _about(study: Study, left_out: Sequence[Impossible], source: str, notes: Sequence[str]) -> dict[str, Any]:
    jobs = study.trace.jobs
    assumptions = asdict(replace(study.assumptions, pool_reclaims_per_hour={}))
    del assumptions["seed"]
    assumptions["pool_reclaims_per_hour"] = dict(sorted(study.assumptions.pool_reclaims_per_hour.items()))
    return {
        "trace": {
            "name": study.trace.name,
            "jobs": len(jobs),
            "gpu_hours": round(sum(job.run_seconds * job.gpus for job in jobs) / 3600, 3),
            "last_arrival_seconds": jobs[-1].arrival_seconds,
            "left_out": [{"job": job.name, "why": job.why} for job in left_out],
            "notes": list(notes),
        },
        "federation": _federation_json(study.site),
        "policies": {one.name: one.policies.digest for one in study.policies},
        "seeds": list(study.seeds),
        "assumptions": assumptions,
        "gather_seconds": study.gather_seconds,
        "slice_seconds": study.slice_seconds,
        "value_of_time_from": source,
    }


def _federation_json(site: Site) -> dict[str, Any]:
    return {
        "clusters": sorted(cluster.id for cluster in site.clusters),
        "owned_gpus": site.owned_gpus,
        "owned_nodes": {str(ref): count for ref, count in sorted(site.owned_nodes.items())},
    }


def _worth(value: ValueOfTime) -> str:
    parts = [
        f"{amount.normalize():f} USD {unit}"
        for amount, unit in ((value.usd_per_gpu_hour, "per GPU-hour"), (value.usd_per_hour, "per hour"))
        if amount
    ]
    return " and ".join(parts) or "nothing"
