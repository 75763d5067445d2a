"""Runs the monitor over a fleet's telemetry, minute by minute, with the scenario's faults planted in it."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops.findings import Finding, Subject
from scheduler.aiops.fleet_bank import ALARMS_PER_DAY
from scheduler.aiops.incidents import Incident
from scheduler.aiops.monitor import Monitor, View, look, new_monitor
from scheduler.aiops.series import Floats
from scheduler.aiops.topology import Run, Topology, topology
from scheduler.model.errors import InvalidObjectError
from scheduler.simulate.faults.fault import Fault
from scheduler.simulate.faults.fleet import GPUS_PER_NODE, Fleet, build
from scheduler.simulate.faults.jobs import Jobs
from scheduler.simulate.faults.kinds import KINDS
from scheduler.simulate.faults.scenario import Scenario
from scheduler.simulate.faults.site_gauges import SiteGauges
from scheduler.simulate.faults.targets import Targets
from scheduler.simulate.faults.telemetry import START_SECONDS, Telemetry

_SERVICES_FROM = 1_000_000
_REFRESH_MINUTES = 10
_PATIENCE_MINUTES = 180
"""For how long a fault waits for a target; then it is not planted."""
_TRACE_SECONDS = 57.0
Watcher = Callable[[View], None]
Teller = Callable[[int, tuple[Finding, ...]], None]


@dataclass(slots=True)
class Study:
    """What came of it."""

    scenario: Scenario
    fleet: Fleet
    faults: list[Fault]
    """Those that were planted."""
    left_out: int
    """Faults that found no target."""
    incidents: dict[str, Incident] = field(default_factory=dict)
    """As they were last seen, those that became part of others included."""
    findings: int = 0
    series: int = 0
    """Series that were looked at."""


def run(
    scenario: Scenario, *, detectors: bool = True, alarms_per_day: float = ALARMS_PER_DAY,
    watch: Watcher | None = None, tell: Teller | None = None,
) -> Study:  # fmt: skip
    """The same for the same scenario. `alarms_per_day`: false ones that the detectors may raise. `watch` sees each
    round's telemetry before it is judged, `tell` what is found in each minute. Raises: InvalidObjectError for a
    recording that cannot be used."""
    world_seed, fault_seed, site_seed = np.random.SeedSequence(scenario.seed).spawn(3)
    fleet, rng = build(scenario.nodes), np.random.default_rng(world_seed)
    jobs = Jobs(fleet, rng)
    recorded = read_recorded(scenario.recorded) if scenario.recorded else None
    site = SiteGauges(fleet, np.random.default_rng(site_seed)) if scenario.site_gauges else None
    world = Telemetry(fleet, jobs, rng, recorded, site)
    waiting = scenario.faults(np.random.default_rng(fault_seed))
    study, targets, scene = Study(scenario, fleet, [], 0), Targets(), Scene(fleet)
    rows = {"gpu": fleet.gpus, "node": fleet.nodes, "workload": len(fleet.services), "pool": len(fleet.pools)}
    monitor = new_monitor(rows, alarms_per_day if detectors else 0.0)
    active: list[Fault] = []
    for minute in range(scenario.minutes):
        jobs.step(minute)
        world.advance(minute)
        waiting = _begin(world, waiting, active, study, targets, minute)
        active = _apply(world, active, minute)
        scene.update(world, minute)
        view = scene.view(world)
        if watch is not None:
            watch(view)
        monitor, found = look(monitor, view, scene.topology)
        if tell is not None:
            tell(minute, found)
        _note(study, monitor, found)
    study.left_out += len(waiting)
    study.series = _series_seen(view)
    return study


def _begin(
    world: Telemetry, waiting: list[Fault], active: list[Fault], study: Study, targets: Targets, minute: int
) -> list[Fault]:
    """Plants what is due and finds a target; gives back what still waits."""
    still = []
    for fault in waiting:
        if fault.starts > minute:
            still.append(fault)
            continue
        due, fault.starts = fault.starts, minute
        if targets.choose(world, fault):
            begin = KINDS[fault.kind].begin
            if begin is not None:
                begin(world, fault, minute)
            active.append(fault)
            study.faults.append(fault)
        elif minute - due < _PATIENCE_MINUTES and fault.starts + fault.minutes < study.scenario.minutes:
            fault.starts = due
            still.append(fault)
        else:
            study.left_out += 1
    return still


def _apply(world: Telemetry, active: list[Fault], minute: int) -> list[Fault]:
    """The faults' effects on this minute; gives back those that go on."""
    for fault in active:
        apply = KINDS[fault.kind].apply
        if apply is not None and minute < fault.ends:
            apply(world, fault, minute - fault.starts)
        if fault.kind in ("hang", "job-crash") and fault.job is not None and fault.job.ends <= minute:
            fault.minutes = minute - fault.starts
    hung = np.zeros(world.fleet.nodes, dtype=bool)
    for job in world.jobs.running.values():
        hung[job.nodes] |= job.hangs_from is not None and minute >= job.hangs_from
    world.hang(hung[world.fleet.node_of])
    return [fault for fault in active if minute < fault.ends]


def _note(study: Study, monitor: Monitor, found: tuple[Finding, ...]) -> None:
    study.findings += len(found)
    for one in (*monitor.incidents.open, *monitor.incidents.closed):
        if study.incidents.get(one.id) is not one:
            study.incidents[one.id] = one


def _series_seen(view: View) -> int:
    return sum(len(table.columns) * table.rows for table in view.tables.values())


class Scene:
    """Who is where, as the monitor is told: rebuilt when jobs or nodes come and go, and now and then."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.topology: Topology = topology(fleet.places, ())
        self._gone = np.zeros(fleet.nodes, dtype=bool)
        self._workloads = np.full(fleet.gpus, -1)
        self._subjects: dict[str, list[Subject]] = {}
        self._hosts = self._service_nodes()
        self._on_service = np.where(fleet.service_of >= 0, _SERVICES_FROM + fleet.service_of, -1)

    def update(self, world: Telemetry, minute: int) -> None:
        changed = world.jobs.changed or not np.array_equal(self._gone, world.gone)
        if not (changed or minute % _REFRESH_MINUTES == 0):
            return
        self._gone = world.gone.copy()
        fleet = self._fleet
        uids = np.array([int(uid[4:]) if uid else -1 for uid in world.jobs.on_node])
        self._workloads = np.where(self._on_service >= 0, self._on_service, np.repeat(uids, GPUS_PER_NODE))
        places = [place for place, gone in zip(fleet.places, self._gone.tolist(), strict=True) if not gone]
        runs = [job.run(fleet, minute, START_SECONDS) for job in world.jobs.running.values()]
        runs += [Run(name, hosts, GPUS_PER_NODE) for name, hosts in self._hosts]
        self.topology = topology(places, runs)
        self._subjects = {
            "gpu": self._gpus(world),
            "node": [Subject(place.cluster, place.pool, place.node) for place in fleet.places],
            "workload": [
                Subject(cluster=self._cluster(number), workload=name) for number, name in enumerate(fleet.services)
            ],
            "pool": [Subject(cluster, pool) for cluster, pool in fleet.pools],
        }

    def view(self, world: Telemetry) -> View:
        tables = world.tables(self._workloads)
        return View(tables["gpu"].at, tables, self._subjects)

    def _gpus(self, world: Telemetry) -> list[Subject]:
        """Made anew only where another workload runs."""
        known = self._subjects.get("gpu", ())
        found: list[Subject] = []
        for gpu in range(self._fleet.gpus):
            on = world.jobs.on_node[gpu // GPUS_PER_NODE]
            same = bool(known) and (self._fleet.service_of[gpu] >= 0 or known[gpu].workload == on)
            found.append(known[gpu] if same else self._gpu(world, gpu))
        return found

    def _gpu(self, world: Telemetry, gpu: int) -> Subject:
        place = self._fleet.places[gpu // GPUS_PER_NODE]
        service = int(self._fleet.service_of[gpu])
        workload = self._fleet.services[service] if service >= 0 else world.jobs.on_node[gpu // GPUS_PER_NODE]
        return Subject(place.cluster, place.pool, place.node, str(gpu % GPUS_PER_NODE), workload)

    def _cluster(self, service: int) -> str:
        first = int(np.flatnonzero(self._fleet.service_of == service)[0])
        return self._fleet.places[first // GPUS_PER_NODE].cluster

    def _service_nodes(self) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
        hosts: dict[int, set[tuple[str, str]]] = defaultdict(set)
        for gpu in np.flatnonzero(self._fleet.service_of >= 0).tolist():
            place = self._fleet.places[gpu // GPUS_PER_NODE]
            hosts[int(self._fleet.service_of[gpu])].add((place.cluster, place.node))
        return [(self._fleet.services[number], tuple(sorted(keys))) for number, keys in sorted(hosts.items())]


def read_recorded(path: Path) -> Floats:
    """Duty cycles by minute and pod, 0 to 1, of a table with pod, t_s and gpu_duty_pct; gaps hold the last value.
    Raises: InvalidObjectError for a file that cannot be used."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["gpu_duty_pct"]:
                    found[row["pod"]][round(float(row["t_s"]) / _TRACE_SECONDS)] = float(row["gpu_duty_pct"]) / 100.0
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InvalidObjectError(
            f"{path}: not a recording ({error}); give a .csv.gz with pod,t_s,gpu_duty_pct"
        ) from error
    if not found:
        raise InvalidObjectError(f"{path}: no samples; give a .csv.gz with pod,t_s,gpu_duty_pct")
    length = 1 + max(max(one) for one in found.values())
    table: NDArray[np.float64] = np.full((length, len(found)), np.nan)
    for column, pod in enumerate(sorted(found)):
        for at, value in found[pod].items():
            table[at, column] = value
    for at in range(1, length):
        table[at] = np.where(np.isnan(table[at]), table[at - 1], table[at])
    return np.nan_to_num(np.clip(table, 0.0, 1.0))
