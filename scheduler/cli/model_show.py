"""`overspill model show`: what the daemon has learned, read from its history."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy.engine import make_url

from scheduler.cli.model_page import page
from scheduler.cli.output import CommandError, console, duration, print_json
from scheduler.cli.simulate_inputs import read_federation
from scheduler.daemon.history.store import saved_learning
from scheduler.daemon.learning.learner import NAME
from scheduler.model.errors import InvalidObjectError
from scheduler.predict import records
from scheduler.predict.learning import Learning
from scheduler.predict.records import Record
from scheduler.predict.use import MODEL, Usage

_DAY: Final = 86400.0
_MOST_ROWS: Final = 40


def run(config: Path, plot: Path | None, *, as_json: bool) -> int:
    """Raises: CommandError, InvalidObjectError where there is nothing to show."""
    saved_at, learning = read_learning(config)
    found = described(saved_at, learning)
    if plot is not None:
        try:
            plot.write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise CommandError(f"--plot {plot}: {error.strerror or error}") from error
    if as_json:
        print_json(found)
    else:
        for table in _tables(found):
            console().print(table)
        if plot is not None:
            console().print(f"plot: {plot}")
    return 0


def read_learning(config: Path) -> tuple[float, Learning]:
    """When it was saved, and what it says."""
    url = make_url(read_federation(config).history_url)
    if url.drivername.startswith("sqlite") and url.database and not Path(url.database).is_file():
        raise CommandError(
            f"{url.database}: no history there; a daemon with this federation file writes it", exit_code=2
        )
    saved = asyncio.run(saved_learning(url.render_as_string(hide_password=False), NAME))
    if saved is None:
        raise InvalidObjectError(
            "nothing was learned yet; the daemon saves what it learns every few minutes, and when it ends"
        )
    saved_at, text = saved
    try:
        state = orjson.loads(text)
        return saved_at, Learning.from_state(state if isinstance(state, dict) else {})
    except ValueError as error:
        raise InvalidObjectError(f"what was saved cannot be read ({error}); the daemon learns it anew") from error


def described(saved_at: float, learning: Learning) -> dict[str, Any]:
    """Errors are mean absolute log errors of run times: 0.1 is about 10 % off, 0.69 a factor of two."""
    errors = learning.sources.errors()
    return {
        "saved_at": _time(saved_at),
        "runs_learned": learning.durations.examples_seen,
        "forest": learning.durations.forest is not None,
        "configurations": len(learning.throughput),
        "queues": {
            name: _record(record) | {"errors_by_source": errors.get(name, {}), "order": learning.sources.order(name)}
            for name, record in learning.records.total(records.QUEUE).items()
        },
        "gpus": {name: _record(record) for name, record in learning.records.total(records.GPU).items()},
        "sources": {name: _record(record) for name, record in learning.records.total(records.SOURCE).items()},
        "by_day": {what: _by_day(learning, what) for what in (records.QUEUE, records.GPU)},
        "drifting": [group for group in learning.calibration.groups() if learning.calibration.drifting(group)],
        "provisioning": {
            pool: {
                "scale_ups": one.count,
                "median_seconds": round(one.quantile_seconds(0.5), 1) if one.count else None,
                "p90_seconds": round(one.quantile_seconds(0.9), 1) if one.count else None,
                "availability": round(one.availability, 3),
            }
            for pool, one in learning.provisioning.items()
        },
        "serving": {
            uid: {
                "p95_seconds": round(view.p95_seconds, 4),
                "p95_in_an_hour_seconds": _rounded(view.p95_in_an_hour_seconds),
                "requests_per_second": _rounded(view.requests_per_second),
                "replicas": view.replicas,
                "most_per_replica_per_second": None if view.replica is None else _rounded(view.replica.most_per_second),
            }
            for uid, one in learning.serving.items()
            if (view := one.view()) is not None
        },
        "said": {
            what: {
                name: {
                    "count": one.count,
                    "error": round(one.error, 4),
                    "factor": round(one.median, 4),
                    "under_p90": round(one.covered, 4),
                    "drifting": one.drifting,
                }
                for name, one in by_name.items()
            }
            for what, by_name in learning.corrections().items()
        },
        "use": {what: _uses(learning.uses.of(what)) for what in (records.QUEUE, records.GPU, MODEL)},
        "reclaims_per_node_hour": {
            pool: round(learning.hazards.of_pool(pool).mean_per_hour, 4) for pool in learning.hazards.pools()
        },
        "reclaims_by_hour": _by_hour(learning),
    }


def _uses(by_name: Mapping[str, Usage]) -> dict[str, dict[str, Any]]:
    """Mean GPU utilisation of runs, the most memory that one GPU held, and restarts of a run; None: nobody said."""
    return {
        name: {
            "runs": one.runs,
            "gpu_utilization": round(one.busy_mean, 4) if one.busy_runs else None,
            "gpu_memory_bytes": None if one.memory_bytes is None else round(one.memory_bytes),
            "restarts_per_run": round(one.restarts / one.runs, 4),
        }
        for name, one in by_name.items()
    }


def _by_hour(learning: Learning) -> dict[str, list[float]]:
    """Reclaims of a node in each hour of the day, by pool and zone; of the whole pool where no zone is known."""
    daily = learning.hazards.daily()
    zoned = {pool for pool, zone in daily if zone}
    return {
        f"{pool} {zone}".strip(): [round(rate, 4) for rate in rates.per_hour]
        for (pool, zone), rates in sorted(daily.items())
        if zone or pool not in zoned
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _record(record: Record) -> dict[str, Any]:
    return {"runs": record.runs, "error": round(record.error, 4), "coverage_90": round(record.coverage, 4)}


def _by_day(learning: Learning, what: str) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [{"day": _time(day * _DAY)[:10], **_record(record)} for day, record in days]
        for name, days in learning.records.by_day(what).items()
    }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tables(found: dict[str, Any]) -> list[Any]:
    from rich.table import Table

    told = f"{found['runs_learned']} runs, {found['configurations']} measured configurations"
    title = f"{told}, as of {found['saved_at']}"
    main = Table("by", "name", "runs", "error", "in 90 %", "best source first", title=title)
    for what, key in (("queue", "queues"), ("GPU", "gpus"), ("source", "sources")):
        for name, one in sorted(found[key].items(), key=lambda each: (-each[1]["runs"], each[0]))[:_MOST_ROWS]:
            order = " ".join(one.get("order", ()))
            main.add_row(
                what, name, str(one["runs"]), f"{one['error']:.3f}", f"{100 * one['coverage_90']:.0f} %", order
            )
    tables = [main]
    if found["provisioning"] or found["reclaims_per_node_hour"]:
        pools = Table("pool", "scale-ups", "median", "p90", "succeeds", "reclaims/node h")
        for pool in sorted({*found["provisioning"], *found["reclaims_per_node_hour"]})[:_MOST_ROWS]:
            one, rate = found["provisioning"].get(pool), found["reclaims_per_node_hour"].get(pool)
            start = ("-", "-", "-", "-") if one is None else _start_cells(one)
            pools.add_row(pool, *start, "-" if rate is None else f"{rate:.3f}")
        tables.append(pools)
    if any(found["said"].values()):
        said = Table("said", "of", "seen", "error", "put right by", "under p90", "drifts")
        for what, by_name in found["said"].items():
            for name, one in sorted(by_name.items())[:_MOST_ROWS]:
                numbers = f"{one['error']:.3f}", f"x {one['factor']:.2f}", f"{100 * one['under_p90']:.0f} %"
                said.add_row(what, name, str(one["count"]), *numbers, "yes" if one["drifting"] else "")
        tables.append(said)
    if any(found["use"].values()):
        use = Table("use by", "name", "runs", "GPUs busy", "GPU memory", "restarts/run")
        for what, by_name in found["use"].items():
            for name, one in sorted(by_name.items(), key=lambda each: (-each[1]["runs"], each[0]))[:_MOST_ROWS]:
                busy, memory = one["gpu_utilization"], one["gpu_memory_bytes"]
                shown = (
                    "-" if busy is None else f"{100 * busy:.0f} %",
                    "-" if memory is None else f"{memory / 2**30:.1f} GiB",
                )
                use.add_row(what, name, str(one["runs"]), *shown, f"{one['restarts_per_run']:.2f}")
        tables.append(use)
    return tables


def _start_cells(one: dict[str, Any]) -> tuple[str, str, str, str]:
    times = duration(one["median_seconds"]), duration(one["p90_seconds"])
    return str(one["scale_ups"]), *times, f"{100 * one['availability']:.0f} %"
