"""What the history says of incidents: once, with what was at risk and what was saved."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest

from scheduler.aiops.findings import Subject
from scheduler.aiops.incidents import OPEN, RESOLVED, Impact, Incident, Signal
from scheduler.aiops.topology import Scope
from scheduler.daemon.incidents.incident_log import IncidentLog
from scheduler.daemon.telemetry import Telemetry

SUBJECT = Subject("c", "p", "n1", "0")
SIGNAL = Signal("gpu.xid.79", SUBJECT, "critical", "hardware", "replace-node", 0.0, 0.0, 3, (("gpu_xid_code", 79.0),))
LOST = Impact(1, 8, ("w",), 4.0, Decimal("80.00"), Decimal("160.00"))
ONE = Incident("i1", "gpu.xid.79", "critical", SUBJECT, Scope("gpu", "c/n1/0"), OPEN, 0.0, 0.0, (SIGNAL,), impact=LOST)


class World:
    def __init__(self, unnoticed: float = 3600.0) -> None:
        self.at = 0.0
        self.rows: list[dict[str, Any]] = []
        self.telemetry = Telemetry()
        self.log = self.another(unnoticed)

    def another(self, unnoticed: float = 3600.0) -> IncidentLog:
        history: Any = type("Rows", (), {"record": lambda _, __, row: self.rows.append(row)})()
        clock: Any = type("Clock", (), {"now": lambda _: self.at})()
        return IncidentLog(history, clock, self.telemetry, unnoticed)

    def count(self, name: str, **labels: str) -> float | None:
        return self.telemetry.registry.get_sample_value(name, labels)


@pytest.mark.parametrize(
    ("acted_at", "unnoticed", "want"),
    [(600.0, 3600.0, (8 * 50 / 60, "133.33")), (600.0, 0.0, (0.0, "0.00")), (7200.0, 3600.0, (0.0, "0.00")),
     (None, 3600.0, (None, None))],
)  # fmt: skip
def test_saved_is_the_rest_of_the_time_that_it_used_to_go_unnoticed(
    acted_at: float | None, unnoticed: float, want: tuple[float | None, str | None]
) -> None:
    world = World(unnoticed)
    world.log.look([ONE], [])
    world.log.look([replace(ONE, impact=Impact(1, 8, ("w",), 1.0, Decimal(20)), last_at=60.0)], [])
    assert len(world.rows) == 1, "that it was seen once more is not worth a write"
    if acted_at is not None:
        world.at = acted_at
        world.log.acted("i1")
    world.at = 9000.0
    done = replace(ONE, state=RESOLVED, impact=Impact())
    world.log.look([], [done])
    world.log.look([], [done])
    first, last = world.rows
    assert (first["outcome"], first["ended_at"]) == (None, None)
    assert (last["gpu_hours_at_risk"], last["usd_at_risk"]) == (4.0, "80.00"), "at the worst moment"
    hours, usd = want
    assert last["gpu_hours_saved"] == (None if hours is None else pytest.approx(hours))
    assert last["usd_saved"] == usd
    outcome = "passed" if acted_at is None else "remedied"
    assert (last["outcome"], last["ended_at"]) == (outcome, 9000.0)
    assert orjson.loads(last["body"])["signals"][0]["evidence"] == {"gpu_xid_code": 79.0}
    assert world.count("overspill_incidents_total", kind="gpu", outcome=outcome) == 1
    assert world.count("overspill_incident_saved_gpu_seconds_total") == pytest.approx(3600.0 * (hours or 0.0))


def test_after_a_restart_nothing_is_counted_twice_and_what_was_done_is_known() -> None:
    world = World()
    world.log.look([ONE], [])
    world.at = 600.0
    world.log.acted("i1")
    merged = replace(ONE, id="i0", merged_into="i1")
    world.log.look([ONE], [merged])
    kept = orjson.loads(orjson.dumps(world.log.kept()))
    after = world.another()
    after.take_up(kept, [ONE])
    after.look([], [merged, replace(ONE, state=RESOLVED)])
    assert [(row["id"], row["outcome"]) for row in world.rows] == [("i1", None), ("i0", "merged"), ("i1", "remedied")]
    garbage: Any
    for garbage in (None, [], {"acted": 3, "ended": "x"}, {"acted": {"i1": "soon"}, "ended": [1, None]}):
        world.another().take_up(garbage, [ONE])
