"""What the doctor makes of prices and metrics that are missing, old or wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.clock import SystemClock
from scheduler.daemon.config.federation import Federation, load_federation, validate_settings
from scheduler.daemon.doctor.finding import FAIL, OK, WARN, Report
from scheduler.daemon.doctor.metrics import _member, check_metrics
from scheduler.daemon.doctor.prices import check_prices
from scheduler.model.ids import ClusterId
from scheduler.model.metrics import Reading, Sample

ROOT = Path(__file__).parents[2]


def reading(metric: str, state: str, error: str = "") -> Reading:
    samples = (Sample((), 1.0, 0.0),) if state in ("ok", "stale") else ()
    return Reading(ClusterId("eks"), metric, "count", state, samples, "scrape x:9400", 0.0, 0.1, error)


CASES: list[tuple[str, list[Reading], list[tuple[str, str]]]] = [
    # what, readings, want: (state, beginning of the line)
    ("all", [reading("a", "ok"), reading("need", "ok")], [(OK, "eks: 2 of 2")]),
    ("some absent", [reading("a", "absent"), reading("b", "absent"), reading("need", "ok")],
     [(WARN, "eks: absent: a, b"), (OK, "eks: 1 of 3")]),
    ("needed absent", [reading("a", "ok"), reading("need", "absent")],
     [(FAIL, "eks: need is absent"), (OK, "eks: 1 of 2")]),
    ("needed stale", [reading("a", "ok"), reading("need", "stale", "from yesterday")],
     [(FAIL, "eks: need is stale (from yesterday)"), (OK, "eks: 1 of 2")]),
    ("apart by error", [reading("a", "failed", "x"), reading("b", "failed", "y"), reading("c", "stale"),
                        reading("need", "ok")],
     [(WARN, "eks: failed (x): a"), (WARN, "eks: failed (y): b"), (WARN, "eks: stale: c"), (OK, "eks: 1 of 4")]),
    ("dead", [reading("a", "failed", "connection refused"), reading("need", "failed", "connection refused")],
     [(FAIL, "eks: scrape x:9400: connection refused")]),
    ("nothing", [reading("a", "absent")], [(WARN, "eks: 0 of 1")]),
    ("many", [reading(name, "absent") for name in "abcdef"] + [reading("z", "ok")],
     [(WARN, "eks: absent: a, b, c, d and 2 more"), (OK, "eks: 1 of 7")]),
]  # fmt: skip


@pytest.mark.parametrize(("readings", "want"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_readings(readings: list[Reading], want: list[tuple[str, str]]) -> None:
    report = Report("metrics")
    _member("eks", readings, frozenset({"need"}), report)
    told = [(one.state, one.what) for one in report.findings]
    assert [(state, what[: len(begin)]) for (state, what), (_, begin) in zip(told, want, strict=True)] == want
    assert all(bool(one.remedy) == (one.state != OK) for one in report.findings)


def federation(folder: Path, change: Any = lambda spec: None) -> Federation:
    """The example, changed."""
    document = yaml.safe_load((ROOT / "examples" / "federation.yaml").read_text())
    change(document["spec"])
    path = folder / "federation.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_federation(path, validate_provider=validate_settings)


async def test_members_without_metrics_and_metrics_that_nobody_serves(tmp_path: Path) -> None:
    def nobody_there(spec: dict[str, Any]) -> None:
        spec["members"][0]["metrics"] = {"type": "scrape", "url": "http://127.0.0.1:1/metrics"}

    report = Report("metrics")
    await check_metrics(federation(tmp_path, nobody_there), report, SystemClock())
    assert [(one.state, one.what.partition(":")[0]) for one in report.findings] == [(OK, "eks"), (WARN, "onprem")]
    assert "127.0.0.1:1" in report.findings[1].what


async def test_prices_of_the_file_are_known_and_others_by_their_sources(tmp_path: Path) -> None:
    def without(spec: dict[str, Any]) -> None:
        del spec["members"][0]["pools"][0]["price"]

    report = Report("prices")
    await check_prices(federation(tmp_path), report, SystemClock())
    assert {one.state for one in report.findings} == {OK}
    report = Report("prices")
    await check_prices(federation(tmp_path, without), report, SystemClock())
    (unknown,) = [one for one in report.findings if one.state == WARN]
    assert unknown.what.startswith("onprem/a100: its price is unknown: ")


async def test_a_price_source_that_fails_is_told(tmp_path: Path) -> None:
    def broken(spec: dict[str, Any]) -> None:
        spec["prices"] = [{"type": "static", "path": "none.csv"}]

    report = Report("prices")
    await check_prices(federation(tmp_path, broken), report, SystemClock())
    told = [one for one in report.findings if one.state == WARN]
    assert told
    assert "none.csv" in told[0].line
