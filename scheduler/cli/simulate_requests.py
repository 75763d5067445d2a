"""`overspill simulate --requests`: replay a log of requests against serving policies and baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from rich.table import Table

from scheduler.cli.output import CommandError, console, keep_stdout, print_error, print_json
from scheduler.cli.simulate_inputs import parse_nodes, read_federation, read_policies, site_of
from scheduler.engine.serving.waiting import carried_load
from scheduler.model.ids import ClusterId
from scheduler.model.serving_policy import ServingSLO
from scheduler.simulate.requests import read_requests
from scheduler.simulate.serving.log import RequestLog, located, peak_load, scaled, with_service
from scheduler.simulate.serving.replay import Happening
from scheduler.simulate.serving.site import ServingSite, serving_pools
from scheduler.simulate.serving.study import BASELINES, ServingFindings, ServingStudy, run_study, savings, standings

ALL: Final = "all"
_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What the command line says."""

    federation: Path
    policies: tuple[Path, ...]
    requests: Path
    baselines: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    first_day: float = 0.0
    days: float | None = None
    nodes: tuple[str, ...] = ()
    peak_replicas: int = 50
    gpu_speeds: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    client_latencies: tuple[str, ...] = ()
    lose: tuple[str, ...] = ()
    load_seconds: float = 45.0
    service_seconds: float = 20.0
    cycle_seconds: float = 30.0
    spread: float = 0.25
    spot_reclaims_per_hour: float = 0.03
    use_milp: bool = True
    as_json: bool = False
    report: Path | None = None


def run(options: RequestOptions) -> int:
    """Replay, compare, show. Raises: CommandError, InvalidObjectError."""
    keep_stdout()
    study, about = prepare(options)
    findings = run_study(study, lambda text: print_error(f"replaying {text}"))
    if options.report is not None:
        from scheduler.simulate.serving.report import write_report

        write_report(findings, about, options.report)
        print_error(f"the report is in {options.report}")
    if options.as_json:
        print_json(findings_json(findings, about))
    else:
        console().print(measures_table(findings))
        console().print(savings_table(findings))
    return 0


def prepare(options: RequestOptions) -> tuple[ServingStudy, dict[str, Any]]:
    """Everything read and checked, and a description of it. Raises: CommandError, InvalidObjectError."""
    if options.report is not None and not options.report.absolute().parent.is_dir():
        raise CommandError(f"--report {options.report}: there is no such folder", exit_code=2)
    federation = read_federation(options.federation)
    plain = site_of(federation, parse_nodes(options.nodes))
    sets = read_policies(options.policies, federation, serving=True)
    slos = tuple((named.name, _first(named.policies.serving)) for named in sets)
    clusters = tuple(cluster.id for cluster in plain.clusters)
    speeds = _pairs("--gpu-speed", options.gpu_speeds, "MODEL=FACTOR", least=0.01, most=100.0)
    pools = serving_pools(plain.clusters, plain.owned_nodes, speeds)
    if not pools:
        raise CommandError(f"{options.federation}: no pool has a GPU to serve on", exit_code=2)
    site = ServingSite(
        pools, options.load_seconds, options.spread, _latencies(options.client_latencies, clusters),
        options.spot_reclaims_per_hour,
    )  # fmt: skip
    log, factor = _log(options, slos[0][1])
    study = ServingStudy(
        log, site, slos, _baselines(options.baselines), tuple(dict.fromkeys(options.seeds)) or (0,),
        options.cycle_seconds, options.peak_replicas, Happening(_losses(options.lose, clusters)),
        use_milp=options.use_milp,
    )  # fmt: skip
    return study, _about(options, study, factor)


def _first(slos: Sequence[ServingSLO]) -> ServingSLO:
    """The one that would speak for a service that all of them match."""
    return min(slos, key=lambda slo: (-slo.precedence, slo.name))


def _log(options: RequestOptions, slo: ServingSLO) -> tuple[RequestLog, float]:
    """Scaled so that its peak is what `peak_replicas` carry within the SLO; and by how much. The peak is the whole
    log's, so that parts of it are scaled alike."""
    whole = with_service(read_requests(options.requests), options.service_seconds)
    mean = float((whole.service_seconds * whole.weight).sum() / whole.weight.sum())
    limits = [one for one in (slo.p95_first_token_seconds, slo.p95_latency_seconds) if one is not None]
    wanted = carried_load(options.peak_replicas, min(limits) / mean if limits else 1.0)
    peak = peak_load(whole)
    if peak <= 0:
        raise CommandError(f"{options.requests}: keeps no worker busy; give --service-seconds", exit_code=2)
    part = whole.window(options.first_day * _DAY, None if options.days is None else options.days * _DAY)
    shares = _pairs("--region", options.regions or ("clients=1",), "NAME=SHARE", least=0.0001, most=1e6)
    seed = (options.seeds or (0,))[0]
    return scaled(located(part, tuple(sorted(shares.items()))), wanted / peak, seed), wanted / peak


def _baselines(names: Sequence[str]) -> tuple[str, ...]:
    chosen = BASELINES if ALL in names else tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in BASELINES:
            told = f"there are {', '.join(BASELINES)} and {ALL}"
            raise CommandError(f"--baseline {name}: no such baseline of serving; {told}", exit_code=2)
    return chosen


def _pairs(option: str, texts: Sequence[str], form: str, *, least: float, most: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not least <= number <= most:
            raise CommandError(f"{option} {text}: write {form}, a number from {least:g} to {most:g}", exit_code=2)
        found[name] = number
    return found


def _latencies(texts: Sequence[str], clusters: Sequence[ClusterId]) -> Mapping[tuple[str, ClusterId], float]:
    pairs = _pairs("--client-latency", texts, "REGION:CLUSTER=SECONDS", least=0.0, most=60.0)
    found = {}
    for name, seconds in pairs.items():
        region, _, cluster = name.partition(":")
        _check_cluster("--client-latency", cluster, clusters)
        found[region, ClusterId(cluster)] = seconds
    return MappingProxyType(found)


def _losses(texts: Sequence[str], clusters: Sequence[ClusterId]) -> tuple[tuple[float, ClusterId], ...]:
    pairs = _pairs("--lose", texts, "CLUSTER=SECOND", least=0.0, most=1e9)
    for cluster in pairs:
        _check_cluster("--lose", cluster, clusters)
    return tuple(sorted((second, ClusterId(cluster)) for cluster, second in pairs.items()))


def _check_cluster(option: str, cluster: str, clusters: Sequence[ClusterId]) -> None:
    if cluster not in clusters:
        raise CommandError(f"{option} {cluster}: there are {', '.join(sorted(clusters))}", exit_code=2)


def _about(options: RequestOptions, study: ServingStudy, factor: float) -> dict[str, Any]:
    log = study.log
    return {
        "requests": {
            "name": log.name,
            "count": len(log),
            "hours": round(log.duration_seconds / 3600.0, 3),
            "first_day": options.first_day,
            "scaled_by": round(factor, 4),
            "peak_replicas": options.peak_replicas,
            "peak_busy_here": round(peak_load(log), 3),
            "regions": list(log.clients),
        },
        "pools": {
            str(pool.pool): {
                "gpu": pool.gpu_model,
                "usd_per_replica_hour": None if pool.usd_per_replica_hour is None else float(pool.usd_per_replica_hour),
                "most": pool.most_replicas,
                "speed": pool.speed,
            }
            for pool in study.site.pools
        },
        "seeds": list(study.seeds),
        "cycle_seconds": study.cycle_seconds,
        "load_seconds": study.site.load_seconds,
        "spot_reclaims_per_hour": study.site.spot_reclaims_per_hour,
        "lost": [[second, cluster] for second, cluster in study.happening.lose],
    }


def findings_json(findings: ServingFindings, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **about,
        "runs": [
            {**one.as_json(), "solvers": dict(sorted(run.solvers.items()))}
            for one, run in zip(findings.measures, findings.runs, strict=True)
        ],
        "savings": savings(findings),
    }


def measures_table(findings: ServingFindings) -> Table:
    table = Table(title="Means over the seeds", box=None)
    columns: Sequence[tuple[str, Callable[[Any], str]]] = (
        ("run", lambda one: one.name),
        ("minutes out of SLO", lambda one: f"{one.out_percent:.2f} %"),
        ("of those with requests", lambda one: f"{one.out_percent_asked:.2f} %"),
        ("USD", lambda one: f"{one.cost_usd:,.2f}"),
        ("changes per hour", lambda one: f"{one.changes_per_hour:.1f}"),
    )
    for name, _ in columns:
        table.add_column(name, justify="left" if name == "run" else "right")
    for one in standings(findings):
        table.add_row(*(show(one) for _, show in columns))
    return table


def savings_table(findings: ServingFindings) -> Table:
    table = Table(title="Saved against each baseline's cheapest setting with no more minutes out of SLO", box=None)
    for name in ("policy", "against", "setting", "saved"):
        table.add_column(name, justify="right" if name == "saved" else "left")
    for one in savings(findings):
        saved = "-" if one["saved_percent"] is None else f"{one['saved_percent']:+.1f} %"
        table.add_row(one["policy"], one["baseline"], one["setting"] or "none is as good", saved)
    return table
