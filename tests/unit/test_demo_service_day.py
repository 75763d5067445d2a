"""What the demo makes of what its service's clients saw, and the page that it writes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusters.sandbox.emulation.requests import read_plan
from scheduler.cli.demo import manifests
from scheduler.cli.demo.report import write_report
from scheduler.cli.demo.service_day import read_day
from tests.unit.test_demo_summary import GOOD


def minute(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "at": 600.0 + 60.0 * number,
        "asked_per_second": 2.0,
        "capacity_per_second": 4.0,
        "answered": 120.0,
        "late": 1.0,
        "failed": 0.0,
        "gap_seconds": 0.0,
        "p95_seconds": 0.8,
        "replicas": {"onprem": 2.0, "eks": 0.0},
        "weights": {"onprem": 1.0, "eks": 0.0},
        **changes,
    }


def told(*minutes: dict[str, Any]) -> dict[str, Any]:
    return {"services": {"default/chat": {"began": 600.0, "slo_seconds": 2.0, "minutes": list(minutes)}}}


def test_a_day_that_holds_bursts_and_comes_back() -> None:
    day = read_day(told(minute(0), minute(1, replicas={"onprem": 2.0, "eks": 3.0}), minute(2)))
    assert day is not None
    assert day.as_json() == {
        "kept": True,
        "minutes": 3,
        "minutes_out": 0,
        "out_at_seconds": [],
        "capacity_gap_seconds": 0.0,
        "most_replicas_in_clouds": 3,
        "burst_after_seconds": 60.0,
        "out_after_seconds": None,
        "came_back": True,
    }


@pytest.mark.parametrize(
    ("changes", "want_out", "want_gap"),
    [
        ({"late": 7.0}, 1, 0.0),
        ({"late": 0.0, "failed": 7.0}, 1, 0.0),
        ({"gap_seconds": 12.0}, 0, 12.0),
        ({"late": 5.9}, 0, 0.0),
        ({"answered": 0.0, "late": 0.0}, 0, 0.0),
    ],
)
def test_a_minute_is_out_when_its_p95_is(changes: dict[str, float], want_out: int, want_gap: float) -> None:
    day = read_day(told(minute(0), minute(1, **changes)))
    assert day is not None
    assert (day.minutes_out, day.gap_seconds) == (want_out, want_gap)
    assert not day.came_back


@pytest.mark.parametrize(
    ("whole", "out", "gap", "want"),
    [(3, 0, 0.0, True), (3, 1, 0.0, True), (3, 2, 0.0, False), (260, 3, 0.0, True), (260, 4, 0.0, False),
     (3, 0, 30.0, True), (3, 0, 31.0, False)],
)  # fmt: skip
def test_a_demo_is_well_only_when_its_service_is_kept_within_limits(
    whole: int, out: int, gap: float, want: bool
) -> None:
    minutes = [minute(number, late=60.0 if number < out else 0.0) for number in range(whole)]
    minutes[0]["gap_seconds"] = gap
    day = read_day(told(*minutes))
    assert day is not None
    assert day.kept is want
    assert replace(GOOD, service=day).ok is want
    assert replace(GOOD, service=day, promised=False).ok, "other policies may promise it nothing"
    assert GOOD.ok, "nor is a demo without one"


def test_without_a_service_there_is_no_day_and_nonsense_is_refused() -> None:
    assert read_day({"services": {}}) is None
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_day(told({"at": "noon"}))


def test_the_report_is_one_page_that_loads_nothing(tmp_path: Path) -> None:
    day = read_day(told(*(minute(number, replicas={"onprem": 2.0, "eks": float(number % 2)}) for number in range(30))))
    write_report(tmp_path / "report.html", replace(GOOD, service=day))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert "ready replicas" in page
    assert "src=" not in page
    assert all(f"<td>{name}</td>" in page for name, _ in GOOD.rows())
    assert "{'" not in page, "words, not Python's own"
    write_report(tmp_path / "plain.html", GOOD)
    assert "<svg" not in (tmp_path / "plain.html").read_text(encoding="utf-8")


def test_the_route_leads_to_each_member_and_its_clients_are_as_the_sandbox_reads_them() -> None:
    members = ("onprem", "eks")
    route, service = manifests.route(members), manifests.service(members)
    plan = read_plan(route["metadata"]["annotations"][manifests.LOAD])
    (rule,) = route["spec"]["rules"]
    named = [ref["name"] for ref in rule["backendRefs"]]
    assert plan.backends == dict(zip(named, members, strict=True))
    (steered,) = service["spec"]["traffic"]["routes"]
    assert {one["name"]: one["cluster"] for one in steered["backends"]} == plan.backends
    spike_ends = max(one.at_seconds + one.seconds for one in plan.spikes)
    assert spike_ends + 1200.0 <= manifests.SERVED_SECONDS
    assert json.loads(route["metadata"]["annotations"][manifests.LOAD])["app"] == manifests.SERVICE_NAME
