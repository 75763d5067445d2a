"""Readings and Kubernetes' words as tables: a row for each thing, unknown is NaN, and rows find themselves again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from scheduler.aiops.findings import Subject
from scheduler.aiops.telemetry import rows_of, telemetry_of
from scheduler.daemon.incidents.fleet_watch import Beside, FleetWatch
from scheduler.daemon.incidents.watch_store import WatchStore
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.ids import ClusterId
from scheduler.model.metrics import OK, STALE, Reading, Sample
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Hints
from tests.unit.engine_world import (
    NOW,
    amount,
    bought_pool,
    cluster,
    copy_of,
    node,
    placement,
    pods,
    snapshot,
    workload,
)

EKS = ClusterId("eks")


def reading(metric: str, *samples: tuple[str, str, float], state: str = OK) -> Reading:
    """(node, GPU, value); a GPU of "": of the node."""
    told = tuple(
        Sample((("node", name), *((("gpu", gpu),) if gpu else ())), value, NOW) for name, gpu, value in samples
    )
    return Reading(EKS, metric, "count", state, told, "test", NOW, 0.1)


def world(**changes: object) -> Snapshot:
    """n1 is one workload's, n2 is shared, n3 is empty."""
    train, other = (
        workload(
            name, pods(1, 8), placement=placement("eks", "b", decided_at=NOW - 5000.0),
            hints=Hints(checkpoint_every_seconds=600.0),
        )
        for name in ("train", "other")
    )  # fmt: skip
    copies = (
        copy_of(train, holds=(("n1", amount(8)), ("n2", amount(2)))),
        copy_of(other, holds=(("n2", amount(2)),)),
    )
    nodes = tuple(node("b", f"n{i}", used=amount(8 if i == 1 else 0)) for i in (1, 2, 3))
    return snapshot(
        cluster("eks", (bought_pool("eks", "b"),), nodes, **changes), workloads=(train, other), copies=copies
    )


def test_gpus_have_rows_and_their_workload_where_it_is_one_alone() -> None:
    told = telemetry_of(world(), [reading("gpu_xid_code", ("n1", "0", 79.0), ("n2", "0", 0.0))])
    table, subjects = told.tables["gpu"], told.subjects["gpu"]
    assert [(each.node, each.gpu, each.workload) for each in subjects] == [("n1", "0", "uid-train"), ("n2", "0", "")]
    assert table.of("gpu_xid_code").tolist() == [79.0, 0.0]
    assert table.group("workload")[0] >= 0 > table.group("workload")[1]


def test_what_is_stale_or_not_told_is_not_known() -> None:
    told = telemetry_of(
        world(), [reading("a", ("n1", "0", 1.0)), reading("b", ("n2", "0", 5.0), state=STALE), reading("c")]
    )
    assert len(told.subjects["gpu"]) == 1
    assert math.isnan(told.tables["gpu"].of("b")[0])


def test_of_a_silent_cluster_nothing_is_said_but_its_rows_stay() -> None:
    told = telemetry_of(world(unreachable_since=NOW - 60.0), [])
    assert len(told.subjects["node"]) == 3
    assert np.isnan(told.tables["node"].of("node_ready_count")).all()
    assert np.isnan(told.tables["pool"].of("spend_usd_per_hour")).all()


def test_nodes_and_pools() -> None:
    told = telemetry_of(world(), [reading("node_memory_total_bytes", ("n3", "", 64.0)), reading("x", ("n1", "0", 1.0))])
    nodes = told.tables["node"]
    assert nodes.of("node_ready_count").tolist() == [1.0, 1.0, 1.0]
    assert nodes.of("gpu_expected_count").tolist() == [8.0, 8.0, 8.0]
    assert nodes.of("gpu_reporting_count").tolist() == [1.0, 0.0, 0.0]
    assert nodes.of("node_memory_total_bytes")[2] == 64.0
    pools = told.tables["pool"]
    assert (pools.of("spend_usd_per_hour")[0], pools.of("busy_gpus_count")[0]) == (48.0, 8.0)


def test_where_everything_is_and_when_work_was_last_saved() -> None:
    fleet = telemetry_of(world(), []).fleet
    assert [place.node for place in fleet.nodes] == ["n1", "n2", "n3"]
    assert fleet.run_of["uid-train"].checkpoint_at == NOW - 5000.0 + 8 * 600.0


def test_rows_are_found_again_whatever_runs_on_them() -> None:
    old = (Subject("c", "p", "n1", "0", "w1"), Subject("c", "p", "n2", "0"), Subject("c", "p"))
    new = (Subject("c", "p", "n2", "0", "w9"), Subject("c", "p", "n3", "0"), Subject("c", "p"))
    assert rows_of(old, new) == [1, -1, 2]


class Watched:
    """A watch over what it is told."""

    def __init__(self) -> None:
        self.now = world()
        self.readings: Iterable[Reading] = ()
        self.watch = FleetWatch(lambda: self.now, lambda: self.readings, Telemetry())

    def look(self, *readings: Reading) -> list[str]:
        self.now = replace(self.now, now=self.now.now + 30.0)
        self.readings = readings
        asyncio.run(self.watch.look())
        return [each.kind for each in self.watch.incidents()]


def test_an_error_is_found_though_rows_come_and_go() -> None:
    watched = Watched()
    assert watched.look(reading("gpu_xid_code", ("n1", "0", 0.0), ("n2", "0", 0.0))) == []
    assert watched.look(reading("gpu_xid_code", ("n2", "0", 0.0))) == []
    assert watched.look(reading("gpu_xid_code", ("n2", "0", 79.0), ("n3", "0", 31.0))) == ["gpu.xid.79"]


def test_a_round_that_goes_wrong_is_counted_and_the_next_begins_anew() -> None:
    watched = Watched()
    watched.look(reading("gpu_xid_code", ("n1", "0", 0.0)))
    good, watched.now = watched.now, replace(watched.now, now=float("nan"))
    watched.look(reading("gpu_xid_code", ("n1", "0", 0.0)))
    watched.now = good
    watched.look(reading("gpu_xid_code", ("n1", "0", 0.0)))
    assert watched.look(reading("gpu_xid_code", ("n1", "0", 79.0))) == ["gpu.xid.79"]


class Shelf:
    """A history that keeps what is saved, in this process."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    def record(self, _table: object, row: dict[str, Any]) -> None:
        self.bodies[row["name"]] = row["body"]

    async def state(self, name: str) -> bytes | None:
        return self.bodies.get(name)


def test_who_takes_over_goes_on_with_the_leader_s_incidents_and_its_own_of_other_things() -> None:
    shelf: Any = Shelf()
    leads = [True]
    leader, standby = Watched(), Watched()
    leader.watch = FleetWatch(lambda: leader.now, lambda: leader.readings, Telemetry(), Beside(store=WatchStore(shelf)))
    standby.watch = FleetWatch(
        lambda: standby.now, lambda: standby.readings, Telemetry(),
        Beside(store=WatchStore(shelf), may_save=lambda: not leads[0]),
    )  # fmt: skip
    quiet = reading("gpu_xid_code", ("n1", "0", 0.0), ("n2", "0", 0.0))
    hit = reading("gpu_xid_code", ("n1", "0", 79.0), ("n2", "0", 0.0))
    both = reading("gpu_xid_code", ("n1", "0", 79.0), ("n2", "0", 48.0))
    leader.look(quiet)
    leader.look(hit)
    asyncio.run(leader.watch.close())
    (known,) = leader.watch.incidents()
    standby.look(quiet)
    standby.look(quiet)
    assert len(standby.look(both)) == 2
    assert known.id not in {each.id for each in standby.watch.incidents()}
    leads[0] = False
    asyncio.run(standby.watch.take_over())
    assert sorted(each.kind for each in standby.watch.incidents()) == ["gpu.xid.48", "gpu.xid.79"]
    assert known.id in {each.id for each in standby.watch.incidents()}
    assert len(standby.look(both)) == 2, "nothing is raised again"


def test_the_daemon_s_detectors_learn_and_find_what_no_rule_knows() -> None:
    """A GPU's clock that a site exports under a name of its own."""
    shelf: Any = Shelf()
    watched, telemetry = Watched(), Telemetry()
    watched.watch = FleetWatch(
        lambda: watched.now, lambda: watched.readings, telemetry,
        Beside(store=WatchStore(shelf), alarms_per_day=5.0, learn_seconds=220 * 30.0),
    )  # fmt: skip
    rng = np.random.default_rng(8)

    def clocks(odd: float) -> Reading:
        values = rng.normal(1000.0, 10.0, 99)
        values[0] += odd
        spots = [(f"n{1 + row % 3}", str(row // 3)) for row in range(99)]
        return reading(
            "site_fabric_clock_hertz",
            *((node, gpu, value) for (node, gpu), value in zip(spots, values.tolist(), strict=True)),
        )

    for _ in range(240):
        assert watched.look(clocks(0.0)) == []
    assert telemetry.registry.get_sample_value("overspill_detector_metrics", {"state": "speaking"}) == 1
    assert watched.look(clocks(900.0)) == ["anomaly.site_fabric_clock_hertz"]
    asyncio.run(watched.watch.close())
    again = Watched()
    again.now = watched.now
    again.watch = FleetWatch(
        lambda: again.now, lambda: again.readings, Telemetry(),
        Beside(store=WatchStore(shelf), alarms_per_day=5.0, learn_seconds=220 * 30.0),
    )  # fmt: skip
    asyncio.run(again.watch.load())
    (known,) = again.watch.incidents()
    assert again.look(clocks(0.0)) == ["anomaly.site_fabric_clock_hertz"]
    assert [each.id for each in again.watch.incidents()] == [known.id]
    assert (known.subject.node, known.subject.gpu) == ("n1", "0")
