"""The detectors over the fleet's gauges, the rate of their false alarms, and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.aiops import fleet_bank
from scheduler.aiops.bank import detector_bytes
from scheduler.aiops.calibration import Tail
from scheduler.aiops.detectors import MOST_BYTES
from scheduler.aiops.false_alarms import LEARN_SECONDS, MOST_PEAKS, Group, Learnt, observe, threshold
from scheduler.aiops.findings import HARDWARE, HIGH, INFRASTRUCTURE, SYMPTOM, WARNING, Finding, Subject, Table
from scheduler.aiops.fleet_bank import FleetBank, is_gauge
from scheduler.aiops.grouping import observe as group_findings
from scheduler.aiops.incidents import ACTING, RESOLVED, VERIFYING, Incidents, moved
from scheduler.aiops.keeping import Kept, kept, revived
from scheduler.aiops.monitor import Monitor, View, look, new_monitor, rearranged
from scheduler.aiops.rules import load_rule
from scheduler.aiops.series import bytes_per_series, empty
from scheduler.aiops.topology import NodePlace, Topology, topology
from scheduler.daemon.incidents import watch_store
from scheduler.daemon.incidents.watch_store import decode_incidents, decode_rows, encode_incidents, encode_rows
from scheduler.model.errors import InvalidObjectError

ROUND = 30.0


def subjects(count: int) -> tuple[Subject, ...]:
    return tuple(Subject("c", "p", f"n{number // 8}", str(number % 8)) for number in range(count))


def place(name: str) -> NodePlace:
    return NodePlace("c", name, "p", gpus=8)


def gpu_table(at: float, **columns: Iterable[float]) -> Table:
    made = {name: np.array(list(values), dtype=float) for name, values in columns.items()}
    return Table(at, len(next(iter(made.values()))), made, {})


@pytest.mark.parametrize(
    ("metric", "want"),
    [
        ("gpu_power_watts", True), ("serving_latency_p95_seconds", True), ("price_usd_per_hour", True),
        ("a_site_s_own_ratio", True), ("gpu_xid_code", False), ("gpu_ecc_single_bit_errors_count", False),
        ("node_ready_count", False), ("workload_rolled_out_at_seconds", False), ("finish_forecast_seconds", False),
        ("gpu_energy_joules", False),
    ],
)  # fmt: skip
def test_gauges_are_looked_at_and_counters_codes_and_forecasts_are_not(metric: str, want: bool) -> None:
    assert is_gauge(metric) is want


def test_every_scope_stays_within_the_bytes_of_a_series() -> None:
    for scope in ("gpu", "node", "workload", "pool", "cluster", "path"):
        names = fleet_bank.detectors_of(scope)
        held = sum(detector_bytes(name) for name in names)
        assert held <= MOST_BYTES * len(names)


def test_metrics_for_which_there_is_no_room_are_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_bank, "MOST_SERIES", 20)
    tables = {"gpu": gpu_table(0.0, a_watts=range(8), b_watts=range(8), c_watts=range(8))}
    bank, _ = fleet_bank.observe(FleetBank(), tables, {"gpu": subjects(8)}, lambda _: False)
    assert (bank.series, bank.left_out) == (16, ("gpu/c_watts",))


def test_a_metric_that_comes_later_or_goes_loses_nobody_s_memory() -> None:
    monitor = new_monitor({"gpu": 2})
    both, one = {"a_watts": [1.0, 2.0], "b_watts": [5.0, 6.0]}, {"b_watts": [7.0, 8.0]}
    for number, columns in enumerate((one, both, one)):
        table = gpu_table(ROUND * number, **columns)
        monitor, _ = look(monitor, View(table.at, {"gpu": table}, {"gpu": subjects(2)}), Topology())
    known = monitor.bank.scopes["gpu"]
    assert known.metrics == ("a_watts", "b_watts")
    assert known.bank.parts["robust_range"]["high"].tolist() == [1.0, 2.0, 7.0, 8.0]
    assert known.bank.parts["robust_range"]["count"].tolist() == [1.0, 1.0, 3.0, 3.0]


# -- the rate ------------------------------------------------------------------------------------------------------


def tail_group(scale: float = 1.0) -> Group:
    return Group(0.0, learnt=(Learnt(Tail(8.0, 0.001, scale, 0.0), 2880.0),), settled=True)


@given(series=st.integers(1, 10**6), more=st.integers(2, 100), rate=st.floats(0.001, 10.0))
def test_a_larger_fleet_or_a_smaller_allowance_needs_a_higher_score(series: int, more: int, rate: float) -> None:
    group = tail_group()
    assert threshold(group, series * more, rate) >= threshold(group, series, rate) >= 8.0
    assert threshold(group, series, rate / more) >= threshold(group, series, rate)


@pytest.mark.parametrize("series", [20, 200])
def test_the_rate_is_held_whatever_the_size_of_the_fleet(series: int) -> None:
    """Scores that are exponential, a day to learn, ten days to count: expected is the allowance, 5 a day."""
    rng, group, alarms = np.random.default_rng(11), Group(0.0), 0
    for day in range(12):
        limit = threshold(group, series, 5.0)
        scores = rng.exponential(1.0, (288, series))
        alarms += int(np.count_nonzero(scores >= limit)) if day >= 2 else 0
        for number, part in enumerate(scores):
            now = 86400.0 * day + 300.0 * (number + 1)
            group = observe(group, part[part > 3.0], series, now, LEARN_SECONDS)
        assert len(group.peaks) <= 2 * MOST_PEAKS
    assert 25 <= alarms <= 100
    assert len(group.learnt) <= 7


def test_nothing_is_said_before_enough_is_known() -> None:
    assert threshold(Group(0.0), 100, 1.0) == np.inf
    few = observe(Group(0.0), np.full(20, 3.0), 1000, 10 * LEARN_SECONDS, LEARN_SECONDS)
    assert not few.learnt, "twenty peaks are no tail, however long it took"


def test_what_an_incident_explains_is_not_learnt_from() -> None:
    rng, monitor = np.random.default_rng(2), new_monitor({"gpu": 16}, learn_seconds=1e9)
    for number in range(300):
        values = rng.normal(50.0, 1.0, 16)
        codes = np.zeros(16)
        if number >= 250:
            values[:8] += 500.0
            codes[0] = 79.0
        table = gpu_table(ROUND * number, gpu_power_watts=values, gpu_xid_code=codes)
        view = View(table.at, {"gpu": table}, {"gpu": subjects(16)})
        monitor, _ = look(monitor, view, topology([place("n0"), place("n1")], ()))
    assert len(monitor.incidents.open) == 1
    assert monitor.bank.groups["gpu/gpu_power_watts"].peaks.max(initial=0.0) < 20.0


# -- grouping ------------------------------------------------------------------------------------------------------


def a_finding(kind: str, at: float, node: str = "n0", gpu: str = "", **changes: Any) -> Finding:
    made = Finding(at, kind, Subject("c", "p", node, gpu), WARNING, SYMPTOM)
    return replace(made, **changes) if changes else made


def test_an_anomaly_joins_an_incident_at_any_time_and_changes_nothing_of_its_course() -> None:
    fleet = topology([place("n0"), place("n1")], ())
    xid = a_finding("gpu.xid.79", 0.0, gpu="0", severity=HIGH, origin=HARDWARE)
    found = group_findings(Incidents(), [xid], fleet, 0.0)
    (name,) = [one.id for one in found.open]
    found = moved(found, name, ACTING, 60.0, "drain")
    found = moved(found, name, VERIFYING, 120.0, "drained")
    odd = a_finding("anomaly.gpu_power_watts", 1500.0, gpu="0")
    found = group_findings(found, [odd], fleet, 1500.0)
    assert [(one.id, one.state, one.kind) for one in found.open] == [(name, VERIFYING, "gpu.xid.79")]
    assert len(found.open[0].signals) == 2
    found = group_findings(found, [replace(odd, at=2000.0)], fleet, 2000.0)
    assert [one.state for one in found.closed] == [RESOLVED], "it does not hold the incident open"


def test_half_of_a_cluster_at_once_is_one_incident_of_the_cluster() -> None:
    fleet = topology([place(f"n{number}") for number in range(20)], ())
    odd = [a_finding("anomaly.gpu_temperature_celsius", 0.0, f"n{number}", "0") for number in range(15)]
    found = group_findings(Incidents(), odd, fleet, 0.0)
    assert [(one.kind, one.scope.kind, one.severity) for one in found.open] == [
        ("anomaly.gpu_temperature_celsius", "cluster", WARNING)
    ]


def test_what_is_told_to_be_over_ends_an_incident_of_nothing_else() -> None:
    fleet = topology([place("n0")], ())
    told = a_finding("alert.Hot", 0.0, severity=HIGH)
    found = group_findings(Incidents(), [told], fleet, 0.0)
    over = frozenset({(told.kind, told.subject)})
    ended = group_findings(found, [], fleet, 60.0, over=over)
    assert [one.state for one in ended.closed] == [RESOLVED]
    rule = a_finding("node.not-ready", 30.0, severity=HIGH, origin=HARDWARE)
    both = group_findings(found, [rule], fleet, 30.0)
    assert [len(one.signals) for one in both.open] == [2]
    assert group_findings(both, [], fleet, 60.0, over=over).open


def test_silence_while_nobody_looked_ends_no_incident() -> None:
    fleet = topology([place("n0")], ())
    found = group_findings(Incidents(), [a_finding("gpu.xid.79", 0.0, gpu="0", severity=HIGH)], fleet, 0.0)
    assert not group_findings(found, [], fleet, 7200.0).open
    back = replace(found, watched_since=7100.0)
    assert group_findings(back, [], fleet, 7200.0).open
    assert not group_findings(back, [], fleet, 9000.0).open


def test_paths_that_meet_in_one_place_are_one_incident_of_its_network() -> None:
    paths = tuple(f"{one}>{other}" for one in "abcd" for other in "abcd" if one != other)
    fleet = Topology(paths=paths)

    def down(path: str) -> Finding:
        return Finding(0.0, "network.path-down", Subject(path[0], path=path), HIGH, INFRASTRUCTURE)

    broken = [down(path) for path in paths if "b" in path]
    found = group_findings(Incidents(), broken, fleet, 0.0)
    assert [(one.scope.kind, one.scope.name) for one in found.open] == [("network", "b")]
    again = group_findings(found, [replace(down("a>b"), at=2000.0)], fleet, 2000.0)
    assert len(again.open) == 1
    alone = group_findings(Incidents(), [down("a>c")], fleet, 0.0)
    assert [(one.scope.kind, one.scope.name) for one in alone.open] == [("path", "a>c")]


def test_a_path_is_down_when_probes_fail_and_slow_when_they_take_long() -> None:
    rule = load_rule("path")
    columns = empty(rule.FIELDS, 2)
    kinds: list[set[str]] = []
    for number in range(400):
        slow = 0.1 if number < 390 else 0.5
        ok = 0.0 if number in (300, 398, 399) else 1.0
        jitter = 1.0 + 0.05 * ((number * 7919) % 11 - 5) / 5
        table = Table(60.0 * number, 2, {
            "network_probe_seconds": np.array([0.1 * jitter, slow * jitter]),
            "network_probe_success_count": np.array([ok, 1.0]),
        }, {})  # fmt: skip
        columns, hits = rule.step(columns, table)
        kinds.append({f"{one.kind} {row}" for one in hits for row in one.rows.tolist()})
    assert not set().union(*kinds[:390])
    assert "network.path-slow 1" in set().union(*kinds[390:395])
    assert "network.path-down 0" in kinds[399]
    assert bytes_per_series(rule.FIELDS) < 200


# -- keeping -------------------------------------------------------------------------------------------------------


def a_monitor(rounds: int, gpus: int, seed: int) -> tuple[Monitor, dict[str, tuple[Subject, ...]]]:
    rng, monitor = np.random.default_rng(seed), new_monitor({"gpu": gpus}, learn_seconds=20 * ROUND)
    for number in range(rounds):
        codes = np.where(rng.random(gpus) < 0.02, 79.0, 0.0)
        table = gpu_table(ROUND * number, gpu_power_watts=rng.normal(300.0, 9.0, gpus), gpu_xid_code=codes)
        monitor, _ = look(monitor, View(table.at, {"gpu": table}, {"gpu": subjects(gpus)}), Topology())
    return monitor, {"gpu": subjects(gpus)}


@settings(max_examples=10, deadline=None)
@given(rounds=st.integers(0, 60), gpus=st.integers(1, 20), seed=st.integers(0, 1000))
def test_what_was_kept_goes_on_as_if_nothing_had_been(rounds: int, gpus: int, seed: int) -> None:
    monitor, rows = a_monitor(rounds, gpus, seed)
    stored = decode_rows(encode_rows(kept(monitor, rows)))
    incidents, more = decode_incidents(encode_incidents(monitor.incidents, {"x": 1}))
    assert (incidents, more) == (monitor.incidents, {"x": 1})
    again, found = revived(stored, incidents, monitor.bank.alarms_per_day, monitor.bank.learn_seconds)
    assert found == rows
    again = rearranged(again, {})
    table = gpu_table(ROUND * rounds, gpu_power_watts=[900.0] * gpus, gpu_xid_code=[79.0] * gpus)
    view = View(table.at, {"gpu": table}, {"gpu": rows["gpu"]})
    one, told = look(monitor, view, Topology())
    other, told_again = look(again, view, Topology())
    assert told == told_again
    assert one.incidents == other.incidents
    for name, column in kept(one, rows).arrays.items():
        np.testing.assert_array_equal(column, kept(other, rows).arrays[name])


def test_a_part_of_another_version_begins_anew_and_the_rest_is_kept() -> None:
    monitor, rows = a_monitor(30, 8, 1)
    told = kept(monitor, rows)
    arrays = {name.replace("likelihood@1/", "likelihood@0/"): column for name, column in told.arrays.items()}
    arrays = {name.replace("/xid@1/", "/xid@9/"): column for name, column in arrays.items()}
    again, _ = revived(Kept(told.values, arrays), Incidents(), 0.1, 1.0)
    bank = again.bank.scopes["gpu"].bank
    assert bank.parts["likelihood"]["count"].max() == 0.0
    assert bank.parts["robust_range"]["count"].max() == 30.0
    assert np.isnan(again.memories["gpu"].parts["xid"]["code"]).all()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def refused(attempt: Callable[[], Kept]) -> str:
    """Why; "": it was taken up, as what is changed within its bounds may be."""
    try:
        revived(attempt(), Incidents(), 0.1, 1.0)
    except InvalidObjectError as error:
        return str(error)
    return ""


GOOD = kept(*a_monitor(5, 4, 3))
BODY = encode_rows(GOOD)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(spots=st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.integers(1, 255)), min_size=1, max_size=30),
       key=st.sampled_from(sorted(GOOD.values)), value=JSON, name=st.sampled_from(sorted(GOOD.arrays)),
       column=st.lists(st.floats(), max_size=5))  # fmt: skip
def test_garbage_that_was_kept_is_refused_and_nothing_else(
    spots: list[tuple[int, int]], key: str, value: object, name: str, column: list[float]
) -> None:
    body = bytearray(BODY)
    for at, change in spots:
        body[at] ^= change
    arrays = {**GOOD.arrays, name: np.array(column, dtype=np.float64)}
    said = [
        refused(lambda: decode_rows(bytes(body))),
        refused(lambda: Kept({**GOOD.values, key: value}, dict(GOOD.arrays))),
        refused(lambda: Kept(dict(GOOD.values), arrays)),
    ]
    assert not any("\n" in why for why in said)
    for text in (b"", b"{}", b"\xff", b'{"version": 1, "incidents": 3, "more": {}}', bytes(body)):
        with pytest.raises(InvalidObjectError):
            decode_incidents(text)


def test_what_unpacks_to_too_much_is_refused() -> None:
    bomb = Kept(dict(GOOD.values), {"x": np.zeros(watch_store.MOST_BYTES // 8 + 1)})
    with pytest.raises(InvalidObjectError, match="at most"):
        encode_rows(bomb)
