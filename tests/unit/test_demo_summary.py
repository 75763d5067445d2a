from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console

from scheduler.cli.demo.invariants import Violation
from scheduler.cli.demo.summary import Summary, percentile

GOOD = Summary(
    submitted=300,
    finished=300,
    lost=0,
    duplicated=0,
    bursts=12,
    returns=7,
    bought_nodes_left=0,
    violations=(),
    spend_usd=Decimal("123.456"),
    metered_usd=Decimal("123.4599"),
    waits_seconds=(10.0, 20.0, 30.0, 1000.0),
    wall_seconds=61.26,
    virtual_seconds=360000.0,
    copy_latencies_seconds=(0.05, 0.07),
    daemon_rss_mib=101.26,
)
BROKEN = Violation("PartialGang", "x", "onprem: default/x runs with 1 of 2 pods", 0.0)


def test_the_last_line_has_the_promised_keys() -> None:
    told = json.loads(json.dumps(GOOD.as_json()))
    assert told["jobs"] == {"submitted": 300, "finished": 300, "lost": 0, "duplicated": 0}
    assert told["spend_usd"] == told["metered_usd"] == "123.46"
    assert (told["wait_p50_seconds"], told["wait_p95_seconds"]) == (20.0, 1000.0)
    assert (told["submit_to_copy_p50_ms"], told["submit_to_copy_p99_ms"]) == (50.0, 70.0)
    assert (told["bursts"], told["returns"], told["bought_nodes_left"], told["invariant_violations"]) == (12, 7, 0, 0)
    assert (told["wall_seconds"], told["virtual_seconds"], told["daemon_rss_mib"]) == (61.3, 360000.0, 101.3)


@pytest.mark.parametrize(
    ("changed", "want"),
    [
        ({}, True),
        ({"bursts": 0, "returns": 0, "waits_seconds": (), "daemon_rss_mib": None}, True),
        ({"finished": 299, "lost": 1}, False),
        ({"finished": 299, "duplicated": 1}, False),
        ({"bought_nodes_left": 1}, False),
        ({"violations": (BROKEN,)}, False),
        ({"aborted": "running: not over after 900 s"}, False),
    ],
)
def test_ok_only_when_all_is_well(changed: dict[str, Any], want: bool) -> None:
    summary = replace(GOOD, **changed)
    assert summary.ok is want
    assert summary.as_json()["ok"] is want


def test_the_table_fits_80_columns_and_names_what_broke() -> None:
    console = Console(width=80, highlight=False)
    with console.capture() as capture:
        console.print(replace(GOOD, violations=(BROKEN,), aborted="running: nothing is going to happen").table())
    shown = capture.get()
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    for want in ("300 of 300 finished", "12 jobs ran on machines bought", "7 bought machines", "$123.46", "1 broken"):
        assert want in shown
    assert "PartialGang: onprem: default/x runs with 1 of 2 pods" in shown
    assert "nothing is going to happen" in shown


@pytest.mark.parametrize(
    ("values", "share", "want"),
    [((), 0.5, None), ((3.0,), 0.95, 3.0), ((4.0, 1.0, 3.0, 2.0), 0.5, 2.0), (tuple(range(1, 101)), 0.95, 95)],
)
def test_percentile(values: tuple[float, ...], share: float, want: float | None) -> None:
    assert percentile(values, share) == want
