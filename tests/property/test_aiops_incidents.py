"""Incidents: one cause, one incident, whatever the order; their course; what they put at risk."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.aiops.findings import (
    APPLICATION,
    CRITICAL,
    HARDWARE,
    HIGH,
    INFO,
    INFRASTRUCTURE,
    ORIGINS,
    SEVERITIES,
    SYMPTOM,
    WARNING,
    Finding,
    Subject,
)
from scheduler.aiops.grouping import Settings, observe
from scheduler.aiops.incidents import (
    ACTING,
    MOST_CLOSED,
    MOST_SIGNALS,
    OPEN,
    RESOLVED,
    SUPPRESSED,
    VERIFYING,
    Incident,
    Incidents,
    fold,
    moved,
)
from scheduler.aiops.topology import NodePlace, Run, Scope, Topology, topology
from scheduler.model.errors import InvalidObjectError

NODES = 120


def place(number: int) -> NodePlace:
    rack, zone = ("", "abc"[number % 3]) if number >= 40 else (f"r{number // 10}", "")
    cluster = "cloud" if number >= 40 else "onprem"
    return NodePlace(cluster, f"n{number}", "gpu", rack, zone, cluster, 8, Decimal(20))


PLACES = tuple(place(number) for number in range(NODES))


def run(uid: str, nodes: Sequence[int], end: float | None = None, deadline: float | None = None) -> Run:
    """With a checkpoint at 0."""
    keys = tuple((PLACES[number].cluster, PLACES[number].node) for number in nodes)
    return Run(uid, keys, 8 * len(keys), 0.0, deadline, end)


FLEET = topology(PLACES, [run("big", range(40, 117)), run("small", [0]), run("pair", [1, 2])])


def on(number: int, gpu: str = "", workload: str = "") -> Subject:
    return Subject(PLACES[number].cluster, "gpu", PLACES[number].node, gpu, workload)


def found(kind: str, subject: Subject, at: float = 0.0, severity: str = HIGH, origin: str = HARDWARE) -> Finding:
    return Finding(at, kind, subject, severity, origin)


def crash(at: float = 0.0) -> list[Finding]:
    return [
        found("gpu.xid.31", on(number, str(gpu), "big"), at, INFO, APPLICATION)
        for number in range(40, 117)
        for gpu in range(8)
    ]


def whole(incidents: Incidents) -> list[Incident]:
    return [one for one in (*incidents.open, *incidents.closed) if not one.merged_into]


def test_77_nodes_of_one_crashing_job_are_one_incident_of_that_job() -> None:
    (one,) = observe(Incidents(), crash(), FLEET, 0.0).open
    assert (one.kind, one.scope, one.severity) == ("workload.crash", Scope("workload", "big"), WARNING)
    assert one.findings == 77 * 8
    assert len(one.signals) == MOST_SIGNALS
    assert one.impact.gpus == 77 * 8


def test_800_000_repeated_lines_are_one() -> None:
    line = found("gpu.xid.79", on(3, "1"), severity=CRITICAL)
    (one,) = observe(Incidents(), [line] * 800_000, FLEET, 0.0).open
    assert (one.findings, len(one.signals)) == (800_000, 1)


def test_one_users_bug_is_no_incident_but_is_remembered() -> None:
    after = observe(Incidents(), [found("gpu.xid.31", on(0, "1", "small"), 0.0, INFO, APPLICATION)], FLEET, 0.0)
    assert (after.open, len(after.pending)) == ((), 1)
    assert observe(after, [], FLEET, 2000.0).pending == ()


def test_a_zone_that_goes_is_one_incident_also_when_it_goes_bit_by_bit() -> None:
    zone = [number for number in range(40, NODES) if number % 3 == 0]
    incidents = Incidents()
    for minute in range(4):
        gone = zone[: 8 * (minute + 1)]
        lost = [found("node.not-ready", on(number), 60.0 * minute, CRITICAL) for number in gone]
        incidents = observe(incidents, lost, FLEET, 60.0 * minute)
    (one,) = whole(incidents)
    assert (one.kind, one.scope, one.severity) == (
        "zone.outage",
        Scope("zone", f"cloud/{'abc'[zone[0] % 3]}"),
        CRITICAL,
    )
    parts = [each for each in incidents.closed if each.merged_into]
    assert parts
    assert {each.merged_into for each in parts} == {one.id}
    assert {each.state for each in parts} == {SUPPRESSED}


def test_the_whole_cluster_is_told_from_its_zones() -> None:
    lost = [found("node.exporter-gone", on(number), 0.0, WARNING, INFRASTRUCTURE) for number in range(40, NODES)]
    (one,) = observe(Incidents(), lost, FLEET, 0.0).open
    assert one.scope.kind in ("cluster", "pool", "provider")
    assert len(one.signals) == 80


@pytest.mark.parametrize("late", [0.0, 60.0])
def test_ranks_that_wait_for_a_dead_gpu_are_its_incident_and_it_is_the_cause(late: float) -> None:
    dead = [found("gpu.xid.79", on(41, "2", "big"), 0.0, CRITICAL)]
    wait = [found("gpu.hang", on(number, "0", "big"), late, HIGH, SYMPTOM) for number in range(42, 117)]
    incidents = observe(Incidents(), dead if late else dead + wait, FLEET, 0.0)
    if late:
        incidents = observe(incidents, wait, FLEET, late)
    (one,) = whole(incidents)
    assert (one.kind, one.subject, one.causes[0].kind) == ("gpu.xid.79", on(41, "2", "big"), "gpu.xid.79")
    assert one.causes[0].score > 0.5
    assert sum(cause.score for cause in one.causes) == pytest.approx(1.0)


def test_independent_faults_stay_apart() -> None:
    faults = [
        found("gpu.ecc.double", on(5, "1"), 0.0, CRITICAL),
        found("gpu.nvlink.crc", on(17, "3"), 0.0),
        found("gpu.xid.95", on(90, "3", "big"), 0.0, CRITICAL),
        found("cost.spike", Subject("cloud", "gpu"), 0.0, HIGH, INFRASTRUCTURE),
        found("workload.latency", Subject("cloud", workload="svc"), 0.0, HIGH, SYMPTOM),
    ]
    after = observe(Incidents(), faults, FLEET, 0.0)
    assert sorted(one.kind for one in after.open) == sorted(one.kind for one in faults)


def test_gpus_of_one_node_are_one_incident_of_the_node() -> None:
    brake = [found("gpu.throttle.power-brake", on(5, str(gpu)), 0.0, CRITICAL) for gpu in range(8)]
    (one,) = observe(Incidents(), brake, FLEET, 0.0).open
    assert (one.scope, one.subject.gpu) == (Scope("node", "onprem/n5"), "")


def test_an_incident_resolves_when_nothing_more_is_seen_and_the_same_again_reopens_it() -> None:
    fault = found("gpu.nvlink.crc", on(5, "1"))
    incidents = observe(Incidents(), [fault], FLEET, 0.0)
    (one,) = incidents.open
    incidents = observe(incidents, [], FLEET, 1801.0)
    assert (incidents.open, [each.state for each in incidents.closed]) == ((), [RESOLVED])
    incidents = observe(incidents, [replace(fault, at=3000.0)], FLEET, 3000.0)
    (again,) = incidents.open
    assert (again.id, again.state) == (one.id, OPEN)
    assert [event.state for event in again.history] == [OPEN, RESOLVED, OPEN]
    incidents = observe(observe(incidents, [], FLEET, 6000.0), [replace(fault, at=90_000.0)], FLEET, 90_000.0)
    assert incidents.open[0].id != one.id


def test_the_course_of_an_incident() -> None:
    fault = found("gpu.nvlink.crc", on(5, "1"))
    incidents = observe(Incidents(), [fault], FLEET, 0.0)
    name = incidents.open[0].id
    incidents = moved(incidents, name, ACTING, 10.0, "cordon")
    incidents = moved(incidents, name, VERIFYING, 20.0, "cordoned")
    assert observe(incidents, [replace(fault, at=60.0)], FLEET, 60.0).open[0].state == VERIFYING
    assert observe(incidents, [replace(fault, at=300.0)], FLEET, 300.0).open[0].state == OPEN
    incidents = moved(incidents, name, RESOLVED, 600.0, "recovered")
    assert incidents.open == ()
    with pytest.raises(InvalidObjectError, match="is resolved, not to be acting; it can be open"):
        moved(incidents, name, ACTING, 700.0, "")
    with pytest.raises(InvalidObjectError, match="no incident 'nope'"):
        moved(incidents, "nope", OPEN, 0.0, "")


def test_a_suppressed_incident_stays_quiet_while_it_lasts() -> None:
    fault = found("gpu.nvlink.crc", on(5, "1"))
    incidents = observe(Incidents(), [fault], FLEET, 0.0)
    incidents = moved(incidents, incidents.open[0].id, SUPPRESSED, 1.0, "maintenance")
    for minute in range(1, 60):
        incidents = observe(incidents, [replace(fault, at=60.0 * minute)], FLEET, 60.0 * minute)
    assert [one.state for one in whole(incidents)] == [SUPPRESSED]


def test_impact_in_gpu_hours_money_and_deadlines() -> None:
    late = run("late", [3, 4], end=10_000.0, deadline=12_000.0)
    fleet = topology(PLACES, [late, run("other", [5])])
    (one,) = observe(Incidents(), [found("gpu.nvlink.crc", on(3, "1"), 3600.0, WARNING)], fleet, 3600.0).open
    assert one.impact.workloads == ("late",)
    assert one.impact.gpu_hours_at_risk == pytest.approx(16.0)
    assert one.impact.usd_at_risk == Decimal("40.00")
    assert (one.impact.deadlines, one.severity) == (("late",), HIGH)


def test_an_unknown_price_is_unknown() -> None:
    bare = [replace(one, usd_per_hour=None) if one.node == "n4" else one for one in PLACES]
    fleet = topology(bare, [run("late", [3, 4])])
    (one,) = observe(Incidents(), [found("gpu.nvlink.crc", on(3, "1"), 3600.0)], fleet, 3600.0).open
    assert one.impact.usd_at_risk is None
    assert one.impact.gpu_hours_at_risk == pytest.approx(16.0)


def test_what_is_kept_is_bounded() -> None:
    incidents = observe(Incidents(), [found("gpu.xid.79", on(1, "1"))], FLEET, 0.0)
    ended = observe(incidents, [], FLEET, 2000.0).closed[0]
    many = Incidents(closed=tuple(replace(ended, id=f"old-{number:04d}") for number in range(MOST_CLOSED)))
    after = observe(observe(many, [found("gpu.xid.95", on(2, "1"), 9e5)], FLEET, 9e5), [], FLEET, 1e6)
    assert len(after.closed) == MOST_CLOSED
    assert after.closed[0].id == "old-0001"
    assert after.closed[-1].kind == "gpu.xid.95"


SUBJECTS = st.one_of(
    st.builds(on, st.integers(0, NODES - 1), st.sampled_from(["", "0", "1"]), st.sampled_from(["", "big", "pair"])),
    st.builds(Subject, st.sampled_from(["cloud", "onprem", ""]), st.sampled_from(["", "gpu"])),
    st.builds(Subject, workload=st.sampled_from(["big", "small", "nobody"])),
    st.builds(Subject, st.just("nowhere"), node=st.sampled_from(["x", "y"])),
    st.builds(Subject, path=st.sampled_from(["a>b", "b>c"])),
)
KINDS = st.sampled_from(["gpu.xid.31", "gpu.xid.79", "node.not-ready", "node.exporter-gone", "gpu.hang",
                         "gpu.straggler", "cost.spike", "gpu.throttle.thermal", "memory.leak.node"])  # fmt: skip
FINDINGS = st.builds(
    Finding, st.floats(2000, 3000), KINDS, SUBJECTS, st.sampled_from(SEVERITIES), st.sampled_from(ORIGINS)
)
ROUNDS = st.lists(st.lists(FINDINGS, max_size=25), min_size=1, max_size=4)


def played(rounds: Sequence[Sequence[Finding]], fleet: Topology = FLEET) -> Incidents:
    incidents = Incidents()
    for number, each in enumerate(rounds):
        incidents = observe(incidents, each, fleet, 3000.0 + 60.0 * number)
    return incidents


@settings(max_examples=30, deadline=None)
@given(ROUNDS, st.randoms(use_true_random=False))
def test_the_order_of_findings_and_of_the_fleet_does_not_matter(
    rounds: list[list[Finding]], shuffler: random.Random
) -> None:
    mixed = [shuffler.sample(each, len(each)) for each in rounds]
    fleet = topology(shuffler.sample(PLACES, NODES), shuffler.sample(FLEET.runs, 3))
    assert played(rounds) == played(mixed, fleet)


@settings(max_examples=30, deadline=None)
@given(ROUNDS)
def test_nothing_is_lost_and_nothing_is_told_twice(rounds: list[list[Finding]]) -> None:
    incidents = played(rounds)
    held = [signal.key for one in whole(incidents) for signal in one.signals]
    assert len(held) == len(set(held))
    urgent = {signal.key for each in rounds for signal in fold(each) if signal.severity != INFO}
    waits = {signal.key for signal in incidents.pending}
    assert urgent <= set(held)
    assert not waits & set(held)


@settings(max_examples=25, deadline=None)
@given(ROUNDS, st.integers(2, 5))
def test_repeated_findings_change_only_their_counts(rounds: list[list[Finding]], times: int) -> None:
    once, often = played(rounds), played([each * times for each in rounds])
    assert [(one.id, one.state, one.severity, one.causes) for one in once.open] == [
        (one.id, one.state, one.severity, one.causes) for one in often.open
    ]


@settings(max_examples=25, deadline=None)
@given(ROUNDS)
def test_every_incident_has_a_cause_evidence_and_an_end(rounds: list[list[Finding]]) -> None:
    incidents = played(rounds)
    for one in incidents.open:
        assert one.signals
        assert one.causes
        assert one.severity != INFO
        assert one.history[0].state == OPEN
    later = observe(incidents, [], FLEET, 1e6, Settings())
    assert (later.open, later.pending) == ((), ())
